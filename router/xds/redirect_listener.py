"""A plain-HTTP port that scores nothing: it sends every client to the same address over TLS.

It belongs to the default listener: whom that one does not take is told nothing here either, and who is whom is known in
the same way.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import address_pb2, protocol_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BoolValue

from router.domain.listening import Offer
from router.xds.clients import address_detection, listener_clients_filter, proxy_match, proxy_protocol_filters
from router.xds.gateway import Gateway
from router.xds.names import REDIRECT_LISTENER
from router.xds.resources import Resource, packed, resource


def redirect_listener(gateway: Gateway, offer: Offer) -> Resource:
    """`offer`: where it sends clients."""
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix="redirect",
        route_config=route_pb2.RouteConfiguration(
            virtual_hosts=[
                rc.VirtualHost(
                    name="redirect",
                    domains=["*"],
                    routes=[rc.Route(match=rc.RouteMatch(prefix="/"), redirect=_to_tls(gateway))],
                )
            ]
        ),
        http_filters=[
            *listener_clients_filter(offer.clients),
            hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=packed(router_pb2.Router())),
        ],
        **address_detection(offer),
        server_name="crossfade",
        request_headers_timeout=Duration(seconds=10),
        request_timeout=Duration(seconds=10),
        stream_idle_timeout=Duration(seconds=10),
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(idle_timeout=Duration(seconds=10)),
    )
    filters = listener_components_pb2.FilterChain(
        filter_chain_match=proxy_match(offer),
        filters=[
            listener_components_pb2.Filter(
                name="envoy.filters.network.http_connection_manager", typed_config=packed(manager)
            )
        ],
    )
    message = listener_pb2.Listener(
        name=REDIRECT_LISTENER,
        address=address_pb2.Address(
            socket_address=address_pb2.SocketAddress(address=gateway.bind, port_value=gateway.redirect_port)
        ),
        listener_filters=proxy_protocol_filters(offer),
        filter_chains=[filters],
        enable_reuse_port=BoolValue(value=False),
    )
    return resource(REDIRECT_LISTENER, message)


def _to_tls(gateway: Gateway) -> Any:
    """308: the method and the body stay what they were."""
    return rc.RedirectAction(
        https_redirect=True,
        port_redirect=gateway.http_port,
        response_code=rc.RedirectAction.PERMANENT_REDIRECT,
    )
