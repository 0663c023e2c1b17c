"""The scoring listeners. Each is for HTTP/1.1, HTTP/2 and gRPC, on all its ports."""

from __future__ import annotations

from typing import Any

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import address_pb2, extension_pb2, protocol_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as filter_mutation_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from google.protobuf.wrappers_pb2 import BoolValue

from router.domain.listening import DEFAULT, Offer
from router.domain.tls import ListenerTls
from router.xds.access import back_filters, front_filters, nobody_filter
from router.xds.access_log import json_access_log
from router.xds.attempts import attempt_logs, timeout_log
from router.xds.client_limits import keep_limits, socket_options
from router.xds.clients import (
    address_detection,
    back_clients_filter,
    front_clients_filter,
    listener_clients_filter,
    proxy_match,
    proxy_protocol_filters,
)
from router.xds.gateway import (
    ADMITTED_HEADER,
    CODING_HEADER,
    LISTENER_HEADER,
    MIRROR_HEADER,
    MODEL_HEADER,
    ORIGINAL_PATH_HEADER,
    PEER_HEADER,
    ROUTED_PATH_HEADER,
    SEQUENCE_HEADER,
    STREAM_HEADER,
    TOKEN_HEADER,
    UPSTREAM_HEADER,
    Gateway,
)
from router.xds.hot_path import NAMED_BOUND, buffers
from router.xds.limits import rate_filter, refusal_logs
from router.xds.local_replies import local_reply_config
from router.xds.names import Key, listener_name, view_name
from router.xds.places import places_filter
from router.xds.resources import Resource, overwritten, packed, resource, seconds
from router.xds.revocation import REVOCATIONS, peer_note, revocation_filters
from router.xds.routes import SHIELD_FILTER
from router.xds.scopes import scoped_routes
from router.xds.secrets import secret_keys, tls_socket
from router.xds.sequences import sequence_filter
from router.xds.stream_watch import stream_watch_filter
from router.xds.translation import if_translated, translation_filters
from router.xds.triton import withheld_headers

STAT_PREFIX = "scoring"  # statistics are called http.scoring.…

_INTERNAL_HEADERS = (
    ADMITTED_HEADER,
    CODING_HEADER,
    LISTENER_HEADER,
    MIRROR_HEADER,
    MODEL_HEADER,
    ORIGINAL_PATH_HEADER,
    PEER_HEADER,
    ROUTED_PATH_HEADER,
    SEQUENCE_HEADER,
    STREAM_HEADER,
    TOKEN_HEADER,
    UPSTREAM_HEADER,
)

_Hcm = hcm_pb2.HttpConnectionManager


def default_offer(gateway: Gateway) -> Offer:
    """Where the options of `crossfade up` say, for every endpoint and everybody."""
    return Offer(DEFAULT, gateway.bind, (gateway.http_port, gateway.grpc_port), is_tls=gateway.tls is not None)


def scoring_listener(gateway: Gateway, offer: Offer) -> Resource:
    """What changes while it is in use is mostly the filter chain: Envoy then replaces that, and leaves the sockets."""
    tls = gateway.tls if offer.is_tls else None
    manager = packed(_connection_manager(gateway, offer))
    filters = listener_components_pb2.FilterChain(
        filter_chain_match=proxy_match(offer),
        filters=[
            listener_components_pb2.Filter(name="envoy.filters.network.http_connection_manager", typed_config=manager)
        ],
        transport_socket=tls_socket(tls) if tls else None,
        transport_socket_connect_timeout=seconds(gateway.clients.handshake_s),
    )
    first, *others = (_address(offer.address, port) for port in offer.ports)
    name = listener_name(offer)
    message = listener_pb2.Listener(
        name=name,
        address=first,
        additional_addresses=[listener_pb2.AdditionalAddress(address=address) for address in others],
        listener_filters=proxy_protocol_filters(offer),
        filter_chains=[filters],
        socket_options=socket_options(gateway.clients),
        # A port in use is an error, not shared with whoever has it ...
        enable_reuse_port=BoolValue(value=False),
        # ... and few long-lived connections (gRPC) are spread evenly over the workers.
        connection_balance_config=listener_pb2.Listener.ConnectionBalanceConfig(
            exact_balance=listener_pb2.Listener.ConnectionBalanceConfig.ExactBalance()
        ),
    )
    return resource(name, message, keeps=_keeps(tls))


def _keeps(tls: ListenerTls | None) -> frozenset[Key]:
    """What it asks for over discovery streams of their own."""
    kept = frozenset({NAMED_BOUND})
    if tls is not None:
        kept |= secret_keys(tls) | (frozenset({REVOCATIONS}) if tls.has_client_ca else frozenset())
    return kept


def _address(ip: str, port: int) -> Any:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=ip, port_value=port))


def _connection_manager(gateway: Gateway, offer: Offer) -> Any:
    manager = _Hcm(
        stat_prefix=STAT_PREFIX,
        codec_type=_Hcm.AUTO,
        scoped_routes=scoped_routes(by_header=bool(view_name(offer))),
        http_filters=_http_filters(gateway, offer),
        access_log=[json_access_log(gateway.access_log, offer.name), timeout_log(), *refusal_logs()],
        local_reply_config=local_reply_config(),
        # No address is internal unless internal_address_config says so, whereas an empty one makes all private
        # addresses internal.
        **address_detection(offer),
        early_header_mutation_extensions=[_without_internal_headers(gateway, offer)],
        server_name="crossfade",
        generate_request_id=BoolValue(value=True),
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        request_id_extension=hcm_pb2.RequestIDExtension(
            typed_config=packed(uuid_pb2.UuidRequestIdConfig(pack_trace_reason=BoolValue(value=False)))
        ),
        # One spelling of a path, so that routes and scopes cannot be walked around.
        normalize_path=BoolValue(value=True),
        merge_slashes=True,
        path_with_escaped_slashes_action=_Hcm.REJECT_REQUEST,
        http_protocol_options=protocol_pb2.Http1ProtocolOptions(
            enable_trailers=True,
            # Nothing here upgrades. Such a request would have no end, and the buffer would wait for it.
            ignore_http_11_upgrade=[string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=".*"))],
        ),
        upgrade_configs=[_no_tunnels()],
    )
    keep_limits(manager, gateway.clients)
    return manager


def _http_filters(gateway: Gateway, offer: Offer) -> list[Any]:
    """Strangers are turned away first. Then the whole request is gathered. All of these do what a route says; what its
    requests need not pass, an endpoint's routes switch off (hot_path.py). None but buffers are `disabled` until then:
    that is decided before a gRPC call has found its route."""
    return [
        *listener_clients_filter(offer.clients),
        *(revocation_filters() if _verifies_clients(gateway, offer) else []),
        front_clients_filter(),
        *front_filters(),
        *buffers(gateway),
        *translation_filters(),
        back_clients_filter(),
        *back_filters(if_translated),
        rate_filter(),
        places_filter(),
        sequence_filter(),
        stream_watch_filter(),
        hcm_pb2.HttpFilter(name=SHIELD_FILTER, typed_config=packed(filter_mutation_pb2.HeaderMutation())),
        hcm_pb2.HttpFilter(
            name="envoy.filters.http.router", typed_config=packed(router_pb2.Router(upstream_log=attempt_logs()))
        ),
    ]


def _no_tunnels() -> Any:
    """CONNECT is refused at once, for the same reason. A kind of upgrade has filters of its own."""
    router = hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=packed(router_pb2.Router()))
    return _Hcm.UpgradeConfig(upgrade_type="CONNECT", filters=[nobody_filter(), router])


def _verifies_clients(gateway: Gateway, offer: Offer) -> bool:
    return offer.is_tls and gateway.tls is not None and gateway.tls.has_client_ca


def _without_internal_headers(gateway: Gateway, offer: Offer) -> Any:
    """None of ours are taken from clients. Of Envoy's own headers it drops some by itself; all of them where it looks
    for the client behind a proxy, for then it takes everybody for one."""
    change = mutation_rules_pb2.HeaderMutation
    mutations = [*(change(remove=name) for name in _INTERNAL_HEADERS), *withheld_headers()]
    if offer.trusted_proxies:
        envoys_own = string_pb2.StringMatcher(prefix="x-envoy-")
        mutations.append(change(remove_on_match=change.RemoveOnMatch(key_matcher=envoys_own)))
    if view := view_name(offer):
        mutations.append(change(append=overwritten(LISTENER_HEADER, view)))
    if _verifies_clients(gateway, offer):
        mutations.append(peer_note())
    mutation = header_mutation_pb2.HeaderMutation(mutations=mutations)
    return extension_pb2.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation", typed_config=packed(mutation)
    )
