"""How large a request may be whose endpoint is not known yet."""

from dataclasses import replace

from envoy.config.core.v3 import extension_pb2
from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2

from router.domain.deployment_settings import MIB
from router.domain.routing import Routing
from router.xds.hot_path import NAMED_BOUND
from router.xds.names import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SCOPE, SECRET
from router.xds.room import Room
from router.xds.snapshot import Snapshot
from router.xds.stream import Request, Stream
from tests.unit.xds.world import GATEWAY, routing, upstream

LARGEST = 1024 * MIB


def taking(endpoint: str, *sizes: int) -> Routing:
    """Its deployments take so many bytes."""
    upstreams = (replace(upstream(f"d{place}"), max_request_bytes=size) for place, size in enumerate(sizes))
    return routing(endpoint, *upstreams)


def bound_of(snapshot: Snapshot) -> int:
    outer = extension_pb2.TypedExtensionConfig.FromString(snapshot.wanted[NAMED_BOUND].body)
    matching, buffer = extension_matcher_pb2.ExtensionWithMatcher(), buffer_pb2.Buffer()
    assert outer.typed_config.Unpack(matching)
    assert matching.extension_config.typed_config.Unpack(buffer)
    return int(buffer.max_request_bytes.value)


def test_without_endpoints_there_is_room_for_a_small_call() -> None:
    assert Room(LARGEST).max_bytes == MIB


def test_there_is_room_for_what_the_largest_deployment_of_all_endpoints_takes() -> None:
    room = Room(LARGEST)
    room.set_endpoint(taking("fraud", 2 * MIB, 64 * MIB))
    room.set_endpoint(taking("spam", 3 * MIB))
    assert (room.max_bytes, room.receding) == (64 * MIB, ())


def test_the_gateways_own_limit_and_the_least_are_kept() -> None:
    room = Room(16 * MIB)
    room.set_endpoint(taking("tiny", 1024))
    assert room.max_bytes == MIB
    room.set_endpoint(taking("fraud", 64 * MIB))
    assert room.max_bytes == 16 * MIB


def test_what_an_endpoint_took_before_has_room_until_it_is_in_force_nowhere() -> None:
    room = Room(LARGEST)
    room.set_endpoint(taking("fraud", 64 * MIB))
    room.set_endpoint(taking("fraud", 32 * MIB))
    room.set_endpoint(taking("fraud", 8 * MIB))
    assert (room.max_bytes, room.receding) == (64 * MIB, ("fraud",))
    room.recede("fraud")
    assert (room.max_bytes, room.receding) == (8 * MIB, ())

    room.remove_endpoint("fraud")
    assert (room.max_bytes, room.receding) == (8 * MIB, ("fraud",))
    room.recede("fraud")
    assert (room.max_bytes, room.receding) == (MIB, ())


def test_an_endpoint_that_takes_as_much_again_recedes_from_nothing() -> None:
    room = Room(LARGEST)
    room.set_endpoint(taking("fraud", 64 * MIB))
    room.set_endpoint(taking("fraud", 8 * MIB))
    room.set_endpoint(taking("fraud", 64 * MIB))
    assert (room.max_bytes, room.receding) == (64 * MIB, ())


def test_the_bound_changes_with_the_room_alone_and_never_the_listener() -> None:
    snapshot = Snapshot(GATEWAY)
    assert bound_of(snapshot) == MIB

    grown = snapshot.set_endpoint(taking("fraud", 64 * MIB))
    assert (NAMED_BOUND in grown, bound_of(snapshot)) == (True, 64 * MIB)
    assert NAMED_BOUND not in snapshot.set_endpoint(taking("spam", 8 * MIB))
    assert NAMED_BOUND not in snapshot.remove_endpoint("fraud")
    assert (snapshot.receding, bound_of(snapshot)) == (("fraud",), 64 * MIB)
    assert (snapshot.recede("fraud"), bound_of(snapshot)) == ({NAMED_BOUND}, 8 * MIB)
    assert not {key for key in grown if key.type_url == LISTENER}


def test_more_room_is_sent_before_the_routes_that_need_it() -> None:
    snapshot = Snapshot(GATEWAY)
    snapshot.set_endpoint(taking("fraud", 2 * MIB))
    stream = Stream(snapshot.wanted)
    for type_url in (CLUSTER, ENDPOINTS, EXTENSION, SCOPE, ROUTES, LISTENER, SECRET):
        stream.receive(Request(type_url, subscribe=tuple(key.name for key in snapshot.wanted if key[0] == type_url)))
    while responses := stream.responses():
        for response in responses:
            stream.receive(Request(response.type_url, nonce=response.nonce))
    assert stream.is_up_to_date

    stream.changed(snapshot.set_endpoint(taking("fraud", 64 * MIB)))

    assert [response.type_url for response in stream.responses()] == [EXTENSION, ROUTES]
