"""The snapshot: what changes when an endpoint does, and what that costs beside a thousand others."""

from dataclasses import replace

import pytest
from envoy.config.endpoint.v3 import endpoint_pb2

from benchmarks.xds import pushed_by_one_weight_change
from router.domain.routing import Address, Shield, UnixAddress
from router.domain.traffic import Mirror
from router.xds.endpoints import STANDBY_SIZE, Standby
from router.xds.names import CLUSTER, ENDPOINTS, LISTENER, MIRROR_VIEW, ROUTES, SCOPE, Key, group_of
from router.xds.snapshot import Snapshot
from tests.unit.xds.world import GATEWAY, routing, upstream

BLUE, GREEN = upstream("blue", "/run/b1"), upstream("green", "/run/g1")
FRAUD = routing("fraud", BLUE, GREEN)
SCOPE_OF_FRAUD = Key(SCOPE, "endpoint/fraud")


def snapshot_of(*routings: object) -> Snapshot:
    snapshot = Snapshot(GATEWAY)
    for one in routings:
        snapshot.set_endpoint(one)
    return snapshot


def test_an_endpoint_is_a_scope_its_routes_and_two_resources_for_each_deployment() -> None:
    snapshot = Snapshot(GATEWAY)

    changed = snapshot.set_endpoint(FRAUD)

    assert {key for key in changed if group_of(key) == "fraud"} == {
        Key(SCOPE, "endpoint/fraud"),
        Key(ROUTES, "endpoint/fraud"),
        Key(CLUSTER, "fraud/blue"),
        Key(ENDPOINTS, "fraud/blue"),
        Key(CLUSTER, "fraud/green"),
        Key(ENDPOINTS, "fraud/green"),
    }


@pytest.mark.parametrize(
    ("after", "changed"),
    [
        (FRAUD, set()),
        (routing("fraud", BLUE, GREEN, traffic={"blue": 90, "green": 10}), {Key(ROUTES, "endpoint/fraud")}),
        (
            routing("fraud", BLUE, GREEN, mirror=Mirror("green", 10)),
            {Key(ROUTES, "endpoint/fraud"), Key(SCOPE, f"endpoint/fraud@{MIRROR_VIEW}")},
        ),
        (
            routing("fraud", upstream("blue", "/run/b1", max_requests=7), GREEN),
            {Key(CLUSTER, "fraud/blue"), Key(ENDPOINTS, "fraud/blue")},
        ),
    ],
)
def test_only_what_depends_on_a_change_changes(after: object, changed: set[Key]) -> None:
    assert snapshot_of(FRAUD).set_endpoint(after) == changed


def test_a_shield_is_one_more_cluster_and_goes_without_a_trace() -> None:
    shielded = replace(FRAUD, shield=Shield("green", "blue"))
    snapshot = snapshot_of(FRAUD)
    before = dict(snapshot.wanted)

    assert snapshot.set_endpoint(shielded) == {
        Key(CLUSTER, "fraud/green/blue"),
        Key(ROUTES, "endpoint/fraud"),
        SCOPE_OF_FRAUD,
    }
    assert group_of(Key(CLUSTER, "fraud/green/blue")) == "fraud"
    snapshot.set_endpoint(FRAUD)
    assert dict(snapshot.wanted) == before


def test_a_new_replica_changes_addresses_alone() -> None:
    changed = snapshot_of(FRAUD).set_endpoint(routing("fraud", upstream("blue", "/run/b1", "/run/b2"), GREEN))

    assert changed == {Key(ENDPOINTS, "fraud/blue"), Key(ENDPOINTS, "server")}


def test_removing_an_endpoint_leaves_what_was_there_before() -> None:
    before = Snapshot(GATEWAY)
    after = snapshot_of(FRAUD)

    after.remove_endpoint("fraud")

    assert dict(after.wanted) == dict(before.wanted)
    assert after.remove_endpoint("fraud") == frozenset()


def test_equal_configuration_has_equal_versions_whatever_the_history() -> None:
    one = snapshot_of(FRAUD, routing("spam", BLUE))
    other = snapshot_of(routing("spam", GREEN), routing("gone", GREEN), routing("spam", BLUE), FRAUD)
    other.remove_endpoint("gone")

    assert dict(one.wanted) == dict(other.wanted)


def test_different_settings_of_the_gateway_change_the_listener() -> None:
    moved = Snapshot(replace(GATEWAY, http_port=9000))

    assert moved.wanted[Key(LISTENER, "gateway")].version != Snapshot(GATEWAY).wanted[Key(LISTENER, "gateway")].version


def test_a_weight_change_pushes_as_many_bytes_beside_a_thousand_endpoints_as_alone() -> None:
    alone, crowded = pushed_by_one_weight_change(1), pushed_by_one_weight_change(1000)

    assert (alone.resources, crowded.resources) == (1, 1)
    assert alone.num_bytes == crowded.num_bytes


def test_the_control_plane_answers_for_the_server_and_a_few_replicas_stand_by() -> None:
    snapshot = snapshot_of(*(routing(f"m{number}", upstream("blue", f"/run/{number}")) for number in range(100)))

    message = endpoint_pb2.ClusterLoadAssignment.FromString(snapshot.wanted[Key(ENDPOINTS, "server")].body)

    first, standby = message.endpoints
    assert [one.endpoint.address.pipe.path for one in first.lb_endpoints] == [GATEWAY.server_socket]
    assert (first.priority, standby.priority) == (0, 1)
    assert len(standby.lb_endpoints) == STANDBY_SIZE


def test_a_waiting_room_stands_by_for_nobody_and_its_health_is_not_checked() -> None:
    held = replace(upstream("blue", "/run/room"), is_held=True)
    snapshot = snapshot_of(routing("asleep", held))

    server = endpoint_pb2.ClusterLoadAssignment.FromString(snapshot.wanted[Key(ENDPOINTS, "server")].body)
    room = endpoint_pb2.ClusterLoadAssignment.FromString(snapshot.wanted[Key(ENDPOINTS, "asleep/blue")].body)

    assert list(server.endpoints[1].lb_endpoints) == []
    (member,) = room.endpoints[0].lb_endpoints
    assert member.endpoint.health_check_config.disable_active_health_check


def test_the_cluster_stays_the_same_when_a_deployment_falls_asleep() -> None:
    awake, key = upstream("blue", "/run/1"), Key(CLUSTER, "e/blue")
    snapshot = snapshot_of(routing("e", awake))
    before = snapshot.wanted[key]

    changed = snapshot.set_endpoint(routing("e", replace(upstream("blue", "/run/room"), is_held=True)))

    assert snapshot.wanted[key] == before
    assert key not in changed
    assert Key(ENDPOINTS, "e/blue") in changed


def test_the_standby_hardly_moves_when_replicas_come_and_go() -> None:
    standby = Standby()
    addresses: list[Address] = [UnixAddress(f"/run/{number}") for number in range(1000)]
    standby.replace([], addresses)
    chosen = standby.chosen()
    others = [address for address in addresses if address not in chosen]

    standby.replace(others, [])
    assert standby.chosen() == chosen
    standby.replace(chosen, [])
    assert standby.chosen() == ()
