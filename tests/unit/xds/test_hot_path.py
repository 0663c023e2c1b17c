"""What an endpoint's routes switch off, and why nobody passes a protected endpoint by it."""

import re
from typing import Any

import pytest
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.buffer.v3.buffer_pb2 import BufferPerRoute

from router.domain.callers import Access, Anyone, CertificateHolders, KeyHolders, KeySlot, TokenHolders
from router.domain.limits import NO_LIMITS, CallerLimits, Limits
from router.domain.listening import Clients
from router.domain.routing import Routing, Shield
from router.domain.tokens import KeySetFile, TokenRules
from router.domain.traffic import Mirror, Traffic
from router.xds.routes import endpoint_routes
from tests.unit.xds.world import GATEWAY, routing, triton, upstream

RULES = TokenRules("https://login.example", KeySetFile("/keys.json"), ("fraud",))
PROTECTED: list[Access] = [
    KeyHolders(()),
    KeyHolders(((KeySlot.PRIMARY, "00"),)),
    CertificateHolders(("app",)),
    TokenHolders(RULES, ""),
    TokenHolders(RULES, '{"keys": []}'),
]


def host_of(wanted: Routing) -> Any:
    message = route_pb2.RouteConfiguration.FromString(endpoint_routes(wanted, GATEWAY).body)
    return message.virtual_hosts[0]


def switched_off(wanted: Routing) -> set[str]:
    found = set()
    for name, packed in host_of(wanted).typed_per_filter_config.items():
        config = route_components_pb2.FilterConfig()
        if packed.Unpack(config) and config.disabled:
            found.add(name)
    return found


def guarded(
    access: Access,
    clients: Clients = Clients(),  # noqa: B008  (it is frozen)
    limits: Limits = NO_LIMITS,
) -> Routing:
    blue = upstream("blue")
    return Routing("fraud", Traffic.of({"blue": 100}), None, (blue,), None, None, access, limits, clients=clients)


@pytest.mark.parametrize("access", PROTECTED, ids=lambda access: type(access).__name__)
def test_the_gate_of_a_protected_endpoint_is_never_switched_off(access: Access) -> None:
    assert "crossfade.gate" not in switched_off(guarded(access))


def test_an_endpoint_for_everybody_needs_no_gate() -> None:
    assert "crossfade.gate" in switched_off(guarded(Anyone()))


@pytest.mark.parametrize("access", [Anyone(), *PROTECTED], ids=lambda access: type(access).__name__)
def test_lists_of_clients_are_checked_twice_where_there_are_some(access: Access) -> None:
    filters = {"crossfade.address.front", "crossfade.address.back"}

    assert filters & switched_off(guarded(access, Clients(deny=("192.0.2.0/24",)))) == set()
    assert filters <= switched_off(guarded(access))


@pytest.mark.parametrize(
    "wanted",
    [
        routing("fraud", upstream("blue")),
        routing("fraud", triton("blue", "10.0.0.1")),
        routing(
            "fraud",
            upstream("blue"),
            upstream("green", version="2"),
            traffic={"blue": 90, "green": 10},
            mirror=Mirror("green", 10),
            shield=Shield("green", "blue"),
        ),
        routing("fraud", upstream("blue"), traffic={}),
    ],
    ids=["plain", "triton", "rollout", "without traffic"],
)
def test_no_route_of_an_endpoint_matches_a_path_that_could_become_anothers(wanted: Routing) -> None:
    """For what a route switches off is decided when the headers come, whatever the path becomes later."""
    for route in host_of(wanted).routes:
        if route.match.HasField("safe_regex"):
            assert re.fullmatch(route.match.safe_regex.regex, "/endpoints/fraud/score") is None
            assert route.match.safe_regex.regex.startswith("/v2/models/")
        else:
            beginning = route.match.path_separated_prefix
            assert beginning == "/v2/models/fraud" or beginning.startswith("/v2/models/fraud/")


def test_the_buffer_is_as_large_as_the_smallest_of_its_deployments_takes() -> None:
    config = route_components_pb2.FilterConfig()
    assert host_of(routing("fraud", upstream("blue"))).typed_per_filter_config["crossfade.buffer"].Unpack(config)
    own = BufferPerRoute()
    assert config.config.Unpack(own)

    assert (config.disabled, own.buffer.max_request_bytes.value) == (False, 1024 * 1024)


COUNTED = Limits(concurrent_requests=20, per_caller=CallerLimits(concurrent_requests=3))


def test_nothing_is_counted_for_an_endpoint_without_such_a_limit() -> None:
    wanted = guarded(KeyHolders(()), limits=Limits(5.0, per_caller=CallerLimits(1.0)))
    assert "crossfade.places" in switched_off(wanted)
    assert set(host_of(wanted).metadata.filter_metadata["crossfade.limits"].fields) == {"endpoint", "max_request_bytes"}


def test_all_endpoints_share_one_module_and_a_number_is_not_in_it() -> None:
    brought = [
        host_of(guarded(KeyHolders(()), limits=limits)).typed_per_filter_config["crossfade.places"]
        for limits in (COUNTED, Limits(concurrent_requests=7))
    ]
    assert brought[0] == brought[1]
    assert b"\0asm" in brought[0].value
    assert GATEWAY.token.encode() not in brought[0].value


@pytest.mark.parametrize(
    ("access", "known_by"),
    [
        (PROTECTED[1], "request\0headers\0x-crossfade-admitted"),
        (PROTECTED[2], "connection\0sha256_peer_certificate_digest"),
        (PROTECTED[4], "metadata\0filter_metadata\0envoy.filters.http.jwt_authn\0fraud\0sub"),
    ],
    ids=["key", "certificate", "token"],
)
def test_a_caller_is_known_by_what_lets_it_in(access: Access, known_by: str) -> None:
    said = host_of(guarded(access, limits=COUNTED)).metadata.filter_metadata["crossfade.limits"]
    assert said["places"] == f"00000200000003fraud|{known_by}"
