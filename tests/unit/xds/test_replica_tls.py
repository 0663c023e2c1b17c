"""What Envoy is told about replicas on other hosts, and about the Tritons that they run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from router.domain.routing import Routing, TcpAddress, TritonAddress, UnixAddress, Upstream
from router.domain.triton_managed import ManagedModel
from router.xds.names import CLUSTER, ENDPOINTS, GATEWAY_GROUP, SECRET, Key, group_of
from router.xds.replica_tls import REPLICA_SECRETS, replica_secrets
from router.xds.snapshot import Snapshot
from tests.internal_ca import GATEWAY as TRUST_DOMAIN
from tests.internal_ca import internal_ca, now
from tests.unit.xds.world import GATEWAY, routing, triton, upstream

JOINED = replace(GATEWAY, trust_domain=TRUST_DOMAIN)
MARK = "envoy.transport_socket_match"
BLUE = replace(upstream("blue"), addresses=(TcpAddress("10.0.0.7", 4001), UnixAddress("/waiting/blue")))
MANAGED = replace(
    triton("blue", "10.0.0.7"), addresses=(TritonAddress("10.0.0.7", 4001, 4002),), triton=ManagedModel("fraud")
)


def built(wanted: Routing, kind: str, name: str, message: Any, gateway: Any = JOINED) -> Any:
    snapshot = Snapshot(gateway)
    snapshot.set_endpoint(wanted)
    return message.FromString(snapshot.wanted[Key(kind, name)].body)


def cluster(wanted: Routing, name: str) -> Any:
    return built(wanted, CLUSTER, name, cluster_pb2.Cluster)


def marks(wanted: Routing, name: str) -> dict[str, bool]:
    message = built(wanted, ENDPOINTS, name, endpoint_pb2.ClusterLoadAssignment)
    members = [member for group in message.endpoints for member in group.lb_endpoints]
    return {_where(member.endpoint.address): MARK in member.metadata.filter_metadata for member in members}


def _where(address: Any) -> str:
    return str(address.pipe.path or address.socket_address.address)


def prefix_and_protocol(message: Any) -> tuple[str, list[str]]:
    (match,) = message.transport_socket_matches
    context = tls_pb2.UpstreamTlsContext.FromString(match.transport_socket.typed_config.value)
    common = context.common_tls_context
    (name,) = common.combined_validation_context.default_validation_context.match_typed_subject_alt_names
    assert name.san_type == name.URI
    return name.matcher.prefix, list(common.alpn_protocols)


@pytest.mark.parametrize("wanted", [routing("fraud", BLUE), routing("fraud", MANAGED)])
def test_a_gateway_whose_replicas_are_all_here_has_no_tls_to_them(wanted: Routing) -> None:
    message = built(wanted, CLUSTER, "fraud/blue", cluster_pb2.Cluster, GATEWAY)
    assert not message.transport_socket_matches
    assert not message.HasField("transport_socket")


def test_only_those_on_other_hosts_are_marked_and_whoever_is_marked_needs_the_name_of_the_deployment() -> None:
    wanted = routing("fraud", BLUE)
    assert marks(wanted, "fraud/blue") == {"10.0.0.7": True, "/waiting/blue": False}
    message = cluster(wanted, "fraud/blue")
    assert prefix_and_protocol(message) == (f"crossfade://{TRUST_DOMAIN}/replica/fraud/blue/", ["http/1.1"])
    assert not message.HasField("transport_socket")
    (match,) = message.transport_socket_matches
    members = built(wanted, ENDPOINTS, "fraud/blue", endpoint_pb2.ClusterLoadAssignment).endpoints[0].lb_endpoints
    assert match.match in [member.metadata.filter_metadata[MARK] for member in members]


def test_a_deployment_whose_name_begins_as_anothers_is_another() -> None:
    prefixes = [
        prefix_and_protocol(cluster(routing("fraud", replace(BLUE, deployment=name)), f"fraud/{name}"))[0]
        for name in ("blue", "blue2")
    ]
    assert not prefixes[1].startswith(prefixes[0])


def test_replicas_that_stand_in_for_the_control_plane_need_the_name_of_any_replica_of_this_gateway() -> None:
    wanted = routing("fraud", BLUE)
    assert marks(wanted, "server") == {"/run/crossfade/server.sock": False, "10.0.0.7": True, "/waiting/blue": False}
    prefix = f"crossfade://{TRUST_DOMAIN}/replica/"
    assert prefix_and_protocol(cluster(wanted, "server")) == (prefix, ["http/1.1"])


@pytest.mark.parametrize(("name", "protocol"), [("fraud/blue", "http/1.1"), ("fraud/blue+grpc", "h2")])
def test_tritons_that_replicas_run_there_are_reached_over_tls_at_both_ports(name: str, protocol: str) -> None:
    wanted = routing("fraud", MANAGED)
    assert marks(wanted, name) == {"10.0.0.7": True}
    message = cluster(wanted, name)
    assert prefix_and_protocol(message) == (f"crossfade://{TRUST_DOMAIN}/replica/fraud/blue/", [protocol])
    assert list(message.health_checks[0].tls_options.alpn_protocols) == ["http/1.1"]  # asked at the HTTP port


def test_tritons_that_were_found_elsewhere_are_none_of_it() -> None:
    wanted = routing("fraud", triton("green", "10.0.0.1"))
    assert marks(wanted, "fraud/green") == {"10.0.0.1": False}
    assert not cluster(wanted, "fraud/green").transport_socket_matches


@pytest.mark.parametrize("name", ["fraud/blue", "server"])
def test_a_cluster_keeps_the_secrets_which_belong_to_no_endpoint(name: str) -> None:
    snapshot = Snapshot(JOINED)
    snapshot.set_endpoint(routing("fraud", BLUE))
    assert snapshot.wanted[Key(CLUSTER, name)].keeps >= REPLICA_SECRETS
    assert {group_of(key) for key in REPLICA_SECRETS} == {GATEWAY_GROUP}


def test_a_new_certificate_changes_its_secret_and_no_cluster() -> None:
    ca = internal_ca()
    snapshot = Snapshot(JOINED)
    snapshot.set_endpoint(routing("fraud", BLUE))
    for secret in replica_secrets(ca.for_envoy(now()), ca.trust):
        assert snapshot.set_secret(secret) == {secret.key}
    changed = [snapshot.set_secret(secret) for secret in replica_secrets(ca.for_envoy(now()), ca.trust)]
    assert changed == [{Key(SECRET, "replicas/certificate")}, frozenset()]


def test_a_replica_that_comes_or_goes_leaves_the_cluster_alone() -> None:
    snapshot = Snapshot(JOINED)
    snapshot.set_endpoint(routing("fraud", BLUE))
    more: Upstream = replace(BLUE, addresses=(*BLUE.addresses, TcpAddress("10.0.0.8", 4001)))
    before = snapshot.wanted[Key(CLUSTER, "fraud/blue")]
    snapshot.set_endpoint(routing("fraud", more))
    assert snapshot.wanted[Key(CLUSTER, "fraud/blue")] == before
