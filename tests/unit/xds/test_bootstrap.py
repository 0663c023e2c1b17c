"""How Envoy is started."""

import json
import os

from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from router.xds.bootstrap import EnvoyProcess, bootstrap, envoy_command
from router.xds.client_limits import ClientLimits, keep_limits
from router.xds.names import cluster_of_stat, stat_name

PROCESS = EnvoyProcess("gateway-1", xds_socket="/run/xds.sock", admin_socket="/run/admin.sock", concurrency=3)


def test_the_command_runs_the_packaged_envoy_and_carries_its_bootstrap() -> None:
    command = envoy_command(PROCESS)

    assert os.access(command[0], os.X_OK)
    assert json.loads(command[command.index("--config-yaml") + 1]) == bootstrap(PROCESS)
    assert command[command.index("--concurrency") + 1] == "3"


def test_the_admin_interface_is_a_private_unix_socket() -> None:
    assert bootstrap(PROCESS)["admin"]["address"] == {"pipe": {"path": "/run/admin.sock", "mode": 0o600}}


def test_what_a_client_may_reset_is_the_same_for_the_process_and_for_its_codec() -> None:
    runtime = bootstrap(PROCESS)["layered_runtime"]["layers"][0]["static_layer"]
    manager = hcm_pb2.HttpConnectionManager()
    keep_limits(manager, ClientLimits(early_resets=300, resets_a_second=200))

    # Half of so many, and then more than half of all.
    assert runtime["overload.premature_reset_total_stream_count"] == 2 * ClientLimits().early_resets
    # Fields 21 and 22, which the wheel of Envoy's API does not know.
    assert b"\xaa\x01\x03\x08\xac\x02\xb2\x01\x03\x08\xc8\x01" in manager.SerializeToString()


def test_statistics_name_a_cluster_in_one_word() -> None:
    for name in ("fraud/blue", "fraud.v1/blue.2", "a-b_c/d"):
        assert "." not in stat_name(name)
        assert cluster_of_stat(stat_name(name)) == name
