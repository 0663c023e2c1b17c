"""The listener: one, on both ports, for HTTP/1.1, HTTP/2 and gRPC."""

from __future__ import annotations

from typing import Any

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import address_pb2, extension_pb2, protocol_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as filter_mutation_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from router.xds.access import back_filters, front_filters, nobody_filter
from router.xds.access_log import json_access_log
from router.xds.attempts import attempt_logs, timeout_log
from router.xds.client_limits import keep_limits, socket_options
from router.xds.decompression import decompression_filter
from router.xds.gateway import (
    ADMITTED_HEADER,
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
from router.xds.limits import rate_filter, refusal_logs
from router.xds.local_replies import local_reply_config
from router.xds.names import LISTENER_NAME, Key
from router.xds.resources import Resource, packed, resource, seconds
from router.xds.revocation import REVOCATIONS, peer_note, revocation_filters
from router.xds.routes import BUFFER_FILTER, SHIELD_FILTER
from router.xds.scopes import scoped_routes
from router.xds.secrets import secret_keys, tls_socket
from router.xds.sequences import sequence_filter
from router.xds.translation import if_translated, translation_filters, unless_streaming
from router.xds.triton import withheld_headers

STAT_PREFIX = "scoring"  # statistics are called http.scoring.…

_INTERNAL_HEADERS = (
    ADMITTED_HEADER,
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


def gateway_listener(gateway: Gateway) -> Resource:
    filters = listener_components_pb2.FilterChain(
        filters=[
            listener_components_pb2.Filter(
                name="envoy.filters.network.http_connection_manager", typed_config=packed(_connection_manager(gateway))
            )
        ],
        transport_socket=tls_socket(gateway.tls) if gateway.tls else None,
        transport_socket_connect_timeout=seconds(gateway.clients.handshake_s),
    )
    message = listener_pb2.Listener(
        name=LISTENER_NAME,
        address=_address(gateway.bind, gateway.http_port),
        additional_addresses=[listener_pb2.AdditionalAddress(address=_address(gateway.bind, gateway.grpc_port))],
        filter_chains=[filters],
        socket_options=socket_options(gateway.clients),
        # A port in use is an error, not shared with whoever has it ...
        enable_reuse_port=BoolValue(value=False),
        # ... and few long-lived connections (gRPC) are spread evenly over the workers.
        connection_balance_config=listener_pb2.Listener.ConnectionBalanceConfig(
            exact_balance=listener_pb2.Listener.ConnectionBalanceConfig.ExactBalance()
        ),
    )
    return resource(LISTENER_NAME, message, keeps=_keeps(gateway))


def _keeps(gateway: Gateway) -> frozenset[Key]:
    """What it asks for over discovery streams of their own."""
    if gateway.tls is None:
        return frozenset()
    return secret_keys(gateway.tls) | (frozenset({REVOCATIONS}) if gateway.tls.has_client_ca else frozenset())


def _address(ip: str, port: int) -> Any:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=ip, port_value=port))


def _connection_manager(gateway: Gateway) -> Any:
    manager = _Hcm(
        stat_prefix=STAT_PREFIX,
        codec_type=_Hcm.AUTO,
        scoped_routes=scoped_routes(),
        http_filters=_http_filters(gateway),
        access_log=[json_access_log(gateway.access_log), timeout_log(), *refusal_logs()],
        local_reply_config=local_reply_config(),
        # Clients are not trusted with Envoy's own headers. No address is internal unless internal_address_config says
        # so, whereas an empty one makes all private addresses internal.
        use_remote_address=BoolValue(value=True),
        early_header_mutation_extensions=[_without_internal_headers(gateway)],
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


def _http_filters(gateway: Gateway) -> list[Any]:
    """Strangers are turned away first. Then the buffer: a replica never waits for a slow client, and limits are kept
    before it sees a byte."""
    whole_request = buffer_pb2.Buffer(max_request_bytes=UInt32Value(value=gateway.max_request_bytes))
    return [
        *(revocation_filters() if gateway.tls and gateway.tls.has_client_ca else []),
        *front_filters(),
        decompression_filter(),
        unless_streaming(BUFFER_FILTER, packed(whole_request)),
        *translation_filters(),
        *back_filters(if_translated),
        rate_filter(),
        sequence_filter(),
        # Does what a route says. Not `disabled` until then: that is decided before a gRPC call has found its route.
        hcm_pb2.HttpFilter(name=SHIELD_FILTER, typed_config=packed(filter_mutation_pb2.HeaderMutation())),
        hcm_pb2.HttpFilter(
            name="envoy.filters.http.router", typed_config=packed(router_pb2.Router(upstream_log=attempt_logs()))
        ),
    ]


def _no_tunnels() -> Any:
    """CONNECT is refused at once, for the same reason. A kind of upgrade has filters of its own."""
    router = hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=packed(router_pb2.Router()))
    return _Hcm.UpgradeConfig(upgrade_type="CONNECT", filters=[nobody_filter(), router])


def _without_internal_headers(gateway: Gateway) -> Any:
    mutations = [mutation_rules_pb2.HeaderMutation(remove=name) for name in _INTERNAL_HEADERS]
    mutations += withheld_headers()
    if gateway.tls and gateway.tls.has_client_ca:
        mutations.append(peer_note())
    mutation = header_mutation_pb2.HeaderMutation(mutations=mutations)
    return extension_pb2.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation", typed_config=packed(mutation)
    )
