"""Which routes tell the control plane of streams, what they tell, and how that is read."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2
from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.http.composite.v3 import composite_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2

from router.domain.begun_streams import PeerCertificate, Terms, keys_in
from router.domain.callers import Access, Anyone, CertificateHolders, KeyHolders, KeySlot, TokenHolders
from router.domain.listening import Clients
from router.domain.routing import Routing, Shield
from router.domain.tokens import KeySetFile, TokenRules
from router.domain.traffic import Mirror, Traffic
from router.xds.gateway import ADMITTED_HEADER, STREAM_HEADER
from router.xds.routes import endpoint_routes
from router.xds.stream_watch import MAX_STREAM_S, STREAM_WATCH_FILTER, endpoint_of, shown_in, terms_id, terms_of
from router.xds.tokens import TOKENS_METADATA
from tests.unit.xds.world import GATEWAY, upstream

KEY_SET = '{"keys": [{"kid": "k1", "x": "1"}, {"kid": "k2", "x": "2"}]}'
KEYS = KeyHolders(((KeySlot.PRIMARY, "ab" * 32),))
TOKENS = TokenHolders(TokenRules("https://login.example", KeySetFile("/keys.json"), ("fraud",)), KEY_SET)


def routes(access: Access, clients: Clients = Clients()) -> list[Any]:  # noqa: B008  (it is frozen)
    wanted = Routing(
        "fraud",
        Traffic.of({"blue": 90, "green": 10}),
        Mirror("green", 10),
        (upstream("blue"), upstream("green", version="2")),
        Shield("green", "blue"),
        access=access,
        clients=clients,
    )
    message = route_pb2.RouteConfiguration.FromString(endpoint_routes(wanted, GATEWAY).body)
    return list(message.virtual_hosts[0].routes)


def is_for_streams(route: Any) -> bool:
    return any(header.name == STREAM_HEADER and header.present_match for header in route.match.headers)


def told(access: Access) -> Any:
    """What the filter of the first route for streams is told to do."""
    route = next(filter(is_for_streams, routes(access)))
    matching = extension_matcher_pb2.ExtensionWithMatcherPerRoute()
    assert route.typed_per_filter_config[STREAM_WATCH_FILTER].Unpack(matching)
    execute = composite_pb2.ExecuteFilterAction()
    assert matching.xds_matcher.on_no_match.action.typed_config.Unpack(execute)
    config = ext_proc_pb2.ExternalProcessor()
    assert execute.typed_config.typed_config.Unpack(config)
    return config


@pytest.mark.parametrize("access", [KEYS, CertificateHolders(("app",)), TOKENS], ids=["keys", "names", "tokens"])
def test_every_route_to_a_deployment_has_one_for_streams_before_it(access: Access) -> None:
    found = routes(access)
    for before, route in pairwise(found):
        if not route.HasField("route") or is_for_streams(route):
            continue
        if any(header.name == STREAM_HEADER for header in route.match.headers):  # mirrored: no streams
            continue
        if any(header.name == "x-crossfade-mirrored" for header in route.match.headers):  # a copy
            continue
        assert is_for_streams(before)
        assert before.route.max_stream_duration.max_stream_duration.ToSeconds() == MAX_STREAM_S
        before.match.headers.pop()
        del before.typed_per_filter_config[STREAM_WATCH_FILTER]
        before.route.ClearField("max_stream_duration")
        assert before == route
    assert any(map(is_for_streams, routes(access)))


def test_streams_of_an_open_endpoint_are_watched_only_for_their_addresses() -> None:
    assert not any(map(is_for_streams, routes(Anyone())))
    assert any(map(is_for_streams, routes(Anyone(), Clients(deny=("192.0.2.0/24",)))))


def test_credentials_are_told_to_nobody_and_claims_where_tokens_are_asked_for() -> None:
    for access in (KEYS, CertificateHolders(("app",)), TOKENS):
        config = told(access)
        assert [one.exact for one in config.forward_rules.allowed_headers.patterns] == [ADMITTED_HEADER]
        forwarded = config.metadata_options.forwarding_namespaces
        assert list(forwarded.untyped) == ([TOKENS_METADATA] if access == TOKENS else [])
        assert config.failure_mode_allow


def test_what_envoy_tells_is_read_back() -> None:
    config = told(TOKENS)
    metadata = {one.key: one.value for one in config.grpc_service.initial_metadata}
    assert endpoint_of(metadata) == "fraud"
    assert terms_of(metadata) == terms_id(Terms(TOKENS)) != terms_id(Terms(KEYS))
    values = {"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%": "192.0.2.7", "%DOWNSTREAM_PEER_CERT%": "PEM"}
    metadata = {name: values.get(value, value) for name, value in metadata.items()}
    message = external_processor_pb2.ProcessingRequest()
    message.request_headers.headers.headers.add(key=ADMITTED_HEADER, raw_value=b"fraud/primary/abababababab")
    message.metadata_context.filter_metadata[TOKENS_METADATA].update(
        {"@verified": {"alg": "ES256", "kid": "k2"}, "fraud": {"iss": "https://login.example", "exp": 7}}
    )
    certificate = PeerCertificate(1, frozenset(), None, b"")  # type: ignore[arg-type]  # it is only passed on

    shown = shown_in(message, metadata, Terms(TOKENS), {"PEM": certificate}.__getitem__)

    assert (shown.address, shown.key, shown.certificate) == ("192.0.2.7", "abababababab", certificate)
    assert shown.token is not None
    assert shown.token.claims == {"iss": "https://login.example", "exp": 7}
    assert shown.token.signers == keys_in('{"keys": [{"kid": "k2", "x": "2"}]}')


def test_a_call_without_an_address_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="IPv4"):
        shown_in(external_processor_pb2.ProcessingRequest(), {}, Terms(KEYS), _never)


def _never(_shown: str) -> PeerCertificate:
    raise AssertionError("there is no certificate")
