"""What each listener shows, as resources."""

from __future__ import annotations

from dataclasses import replace

from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import scoped_route_pb2

from router.domain.callers import KeyHolders
from router.domain.listening import DEFAULT, Clients, Offer, Selected, Visible
from router.domain.routing import Routing
from router.xds.names import ENDPOINTS, LISTENER, SCOPE, Key, group_of
from router.xds.snapshot import Snapshot
from tests.unit.xds.world import GATEWAY, routing, upstream

A = routing("a", upstream("blue", "/run/a"))
B = replace(routing("b", upstream("blue", "/run/b")), group="team")


def inside(visible: Visible, name: str = "inside", port: int = 9000) -> Offer:
    return Offer(name, "10.0.0.5", (port,), False, visible)


def default(visible: Visible) -> Offer:
    return Offer(DEFAULT, "127.0.0.1", (8000, 8001), False, visible)


def snapshot_of(offers: tuple[Offer, ...], *routings: Routing) -> Snapshot:
    snapshot = Snapshot(GATEWAY)
    for one in routings:
        snapshot.set_endpoint(one)
    snapshot.set_listeners(offers)
    return snapshot


def keys_of_scopes(snapshot: Snapshot) -> set[tuple[str, ...]]:
    scopes = (resource for key, resource in snapshot.wanted.items() if key.type_url == SCOPE)
    messages = (scoped_route_pb2.ScopedRouteConfiguration.FromString(scope.body) for scope in scopes)
    found = {tuple(fragment.string_key for fragment in message.key.fragments) for message in messages}
    return {key for key in found if key[-1] != "-" and key[-1] != "stats"}


def standing_by(snapshot: Snapshot, view: str) -> list[str]:
    resource = snapshot.wanted[Key(ENDPOINTS, view)]
    message = endpoint_pb2.ClusterLoadAssignment.FromString(resource.body)
    return [member.endpoint.address.pipe.path for member in message.endpoints[1].lb_endpoints]


def test_an_endpoint_has_a_scope_for_each_listener_that_shows_it_and_no_other() -> None:
    offers = (default(Selected(("a",))), inside(Selected((), ("team",))))
    assert keys_of_scopes(snapshot_of(offers, A, B)) == {("models", "a"), ("inside", "models", "b")}


def test_without_the_default_listener_nothing_has_the_scopes_of_its_view() -> None:
    snapshot = snapshot_of((inside(Selected(("a",))),), A, B)
    snapshot.forget_listeners()
    assert keys_of_scopes(snapshot) == {("inside", "models", "a")}
    assert Key(LISTENER, "gateway") not in snapshot.wanted
    assert Key(ENDPOINTS, "server") not in snapshot.wanted


def test_it_makes_no_difference_what_comes_first() -> None:
    offers = (default(Selected(("a",))), inside(Selected(("b",))))
    first, last = snapshot_of(offers, A, B), snapshot_of(offers)
    for one in (B, A):
        last.set_endpoint(one)
    assert dict(first.wanted) == dict(last.wanted)


def test_a_change_of_what_is_shown_changes_no_listener() -> None:
    snapshot = snapshot_of((default(Selected(("a",))),), A, B)
    changed = snapshot.set_listeners((default(Selected(("b",))),))
    assert {key for key in changed if key.type_url in (LISTENER, SCOPE)} == {
        Key(SCOPE, "endpoint/a"),
        Key(SCOPE, "endpoint/b"),
    }
    assert {group_of(key) for key in changed if key.type_url == SCOPE} == {"a", "b"}


def test_an_endpoint_that_changes_its_group_changes_its_scopes() -> None:
    snapshot = snapshot_of((default(Selected()), inside(Selected((), ("team",)))), A)
    assert keys_of_scopes(snapshot) == set()
    snapshot.set_endpoint(replace(A, group="team"))
    assert keys_of_scopes(snapshot) == {("inside", "models", "a")}
    snapshot.set_endpoint(A)
    assert keys_of_scopes(snapshot) == set()


def test_what_a_listener_that_is_gone_showed_stays_for_a_while() -> None:
    offers = (default(Selected(("a",))), inside(Selected(("b",))))
    snapshot = snapshot_of(offers, A, B)
    snapshot.set_listeners(offers[:1])
    assert Key(LISTENER, "listener/10.0.0.5:9000") not in snapshot.wanted
    assert ("inside", "models", "b") in keys_of_scopes(snapshot)
    snapshot.forget_listeners()
    assert dict(snapshot.wanted) == dict(snapshot_of(offers[:1], A, B).wanted)


def test_a_listener_with_another_name_stays_where_it_is() -> None:
    snapshot = snapshot_of((inside(Selected(("a",))),), A)
    changed = snapshot.set_listeners((inside(Selected(("a",)), "renamed"),))
    assert Key(LISTENER, "listener/10.0.0.5:9000") in changed
    assert Key(LISTENER, "listener/10.0.0.5:9000") in snapshot.wanted


def test_who_stands_in_for_the_control_plane_at_a_listener_serves_what_it_shows_to_everybody() -> None:
    guarded = replace(routing("c", upstream("blue", "/run/c")), clients=Clients(allow=("10.0.0.0/8",)))
    locked = replace(routing("d", upstream("blue", "/run/d")), access=KeyHolders())
    offers = (default(Selected(("a", "c", "d"))), inside(Selected((), ("team",))))
    snapshot = snapshot_of(offers, A, B, guarded, locked)
    assert standing_by(snapshot, "server") == ["/run/a"]
    assert standing_by(snapshot, "server@inside") == ["/run/b"]
    snapshot.set_endpoint(replace(B, group=""))
    assert standing_by(snapshot, "server@inside") == []
    snapshot.set_listeners((default(Selected(("b",))), inside(Selected((), ("team",)))))
    assert standing_by(snapshot, "server") == ["/run/b"]
