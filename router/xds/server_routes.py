"""Routes of the server-level calls: live, ready, metadata, index, statistics of all models, gRPC health …"""

from __future__ import annotations

from typing import Any

from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2

from router.xds.clusters import token_header
from router.xds.gateway import CREDENTIAL_HEADERS, ORIGINAL_PATH_HEADER, RETRY_HEADER, SERVER_PREFIX, Gateway
from router.xds.hot_path import MAX_SERVER_BYTES, buffering
from router.xds.names import SERVER_CLUSTER, SERVER_ROUTES, Key, at_view
from router.xds.resources import Resource, milliseconds
from router.xds.resources import resource as make_resource
from router.xds.retries import retry_policy_with_standby
from router.xds.routes import cluster_keys
from router.xds.scopes import scope


def server_routes(gateway: Gateway, view: str = "") -> Resource:
    """The control plane reads from a header by which listener a call came, and tells of the endpoints there alone."""
    timeout = milliseconds(gateway.server_timeout_ms)
    action = {"cluster": at_view(SERVER_CLUSTER, view), "timeout": timeout, "max_grpc_timeout": timeout}
    translated = rc.Route(
        # The header is the proof that the gateway, not the client, wrote the prefix.
        match=rc.RouteMatch(
            prefix=f"{SERVER_PREFIX}/", headers=[rc.HeaderMatcher(name=ORIGINAL_PATH_HEADER, present_match=True)]
        ),
        route=rc.RouteAction(prefix_rewrite="/", **action),
    )
    statistics = rc.Route(match=rc.RouteMatch(path="/v2/models/stats"), route=rc.RouteAction(**action))
    message = route_pb2.RouteConfiguration(
        name=at_view(SERVER_ROUTES, view),
        virtual_hosts=[
            rc.VirtualHost(
                name=SERVER_ROUTES,
                domains=["*"],
                routes=[translated, statistics],
                retry_policy=retry_policy_with_standby(gateway),
                typed_per_filter_config=buffering(MAX_SERVER_BYTES),
            )
        ],
        request_headers_to_add=[token_header(gateway)],
        request_headers_to_remove=CREDENTIAL_HEADERS,
        response_headers_to_remove=[RETRY_HEADER],
    )
    return make_resource(message.name, message, needs=_needs(view))


def server_scopes(view: str = "") -> tuple[Resource, ...]:
    return (
        _scope("server/translated", ("server", "-"), view),
        _scope("server/statistics", ("models", "stats"), view),
    )


def _scope(name: str, segments: tuple[str, str], view: str) -> Any:
    routes = at_view(SERVER_ROUTES, view)
    return scope(at_view(name, view), routes, segments, _needs(view), view)


def _needs(view: str) -> frozenset[Key]:
    return cluster_keys([at_view(SERVER_CLUSTER, view)])
