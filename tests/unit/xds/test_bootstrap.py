"""How Envoy is started."""

import json
import os

from router.xds.bootstrap import EnvoyProcess, bootstrap, envoy_command
from router.xds.names import cluster_of_stat, stat_name

PROCESS = EnvoyProcess("gateway-1", xds_socket="/run/xds.sock", admin_socket="/run/admin.sock", concurrency=3)


def test_the_command_runs_the_packaged_envoy_and_carries_its_bootstrap() -> None:
    command = envoy_command(PROCESS)

    assert os.access(command[0], os.X_OK)
    assert json.loads(command[command.index("--config-yaml") + 1]) == bootstrap(PROCESS)
    assert command[command.index("--concurrency") + 1] == "3"


def test_the_admin_interface_is_a_private_unix_socket() -> None:
    assert bootstrap(PROCESS)["admin"]["address"] == {"pipe": {"path": "/run/admin.sock", "mode": 0o600}}


def test_statistics_name_a_cluster_in_one_word() -> None:
    for name in ("fraud/blue", "fraud.v1/blue.2", "a-b_c/d"):
        assert "." not in stat_name(name)
        assert cluster_of_stat(stat_name(name)) == name
