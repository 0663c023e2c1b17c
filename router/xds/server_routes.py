"""Routes of the server-level calls: live, ready, metadata, index, statistics of all models, gRPC health …"""

from __future__ import annotations

from typing import Any

from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2

from router.xds.clusters import token_header
from router.xds.gateway import CREDENTIAL_HEADERS, ORIGINAL_PATH_HEADER, RETRY_HEADER, Gateway
from router.xds.names import SERVER_CLUSTER, SERVER_ROUTES
from router.xds.resources import Resource, milliseconds
from router.xds.resources import resource as make_resource
from router.xds.retries import retry_policy_with_standby
from router.xds.routes import cluster_keys, scope

# translation.py puts this before the path of a server-level call, so that scoped routing finds it; it is taken off
# again before the call is answered.
SERVER_PREFIX = "/-/server/-"

_NEEDS = cluster_keys([SERVER_CLUSTER])


def server_routes(gateway: Gateway) -> Resource:
    timeout = milliseconds(gateway.server_timeout_ms)
    action = {"cluster": SERVER_CLUSTER, "timeout": timeout, "max_grpc_timeout": timeout}
    translated = rc.Route(
        # The header is the proof that the gateway, not the client, wrote the prefix.
        match=rc.RouteMatch(
            prefix=f"{SERVER_PREFIX}/", headers=[rc.HeaderMatcher(name=ORIGINAL_PATH_HEADER, present_match=True)]
        ),
        route=rc.RouteAction(prefix_rewrite="/", **action),
    )
    statistics = rc.Route(match=rc.RouteMatch(path="/v2/models/stats"), route=rc.RouteAction(**action))
    message = route_pb2.RouteConfiguration(
        name=SERVER_ROUTES,
        virtual_hosts=[
            rc.VirtualHost(
                name=SERVER_ROUTES,
                domains=["*"],
                routes=[translated, statistics],
                retry_policy=retry_policy_with_standby(gateway),
            )
        ],
        request_headers_to_add=[token_header(gateway)],
        request_headers_to_remove=CREDENTIAL_HEADERS,
        response_headers_to_remove=[RETRY_HEADER],
    )
    return make_resource(SERVER_ROUTES, message, needs=_NEEDS)


def server_scopes() -> tuple[Resource, ...]:
    return (
        _scope("server/translated", ("server", "-")),
        _scope("server/statistics", ("models", "stats")),
    )


def _scope(name: str, segments: tuple[str, str]) -> Any:
    return scope(name, SERVER_ROUTES, segments, _NEEDS)
