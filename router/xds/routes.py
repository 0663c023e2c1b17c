"""Routes: which deployment answers a request to an endpoint. One RouteConfiguration and one scope per endpoint.

Model-level gRPC calls arrive here under HTTP paths (translation.py), so one tree serves both protocols:
`/v2/models/<endpoint>[/versions/<version>]/<rest>`. The order of the routes is the order of precedence:

1. refused before anything else: the gRPC tree called by hand, a body over the limit
2. pinned by header, first `x-crossfade-deployment`, then the Azure name
3. pinned by model version
4. by weight, with a mirrored copy
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2, scoped_route_pb2
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from envoy.type.v3 import percent_pb2, range_pb2
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value, UInt64Value

from router.domain.routing import Routing, Upstream
from router.xds.clusters import milliseconds, token_header
from router.xds.gateway import DEPLOYMENT_HEADER, LIMITS_METADATA, MODEL_HEADER, PIN_HEADERS, RETRY_HEADER, Gateway
from router.xds.names import CLUSTER, ENDPOINTS, ROUTES, Key, cluster_name, routes_name
from router.xds.resources import Resource, packed, resource
from router.xds.retries import retry_policy

BUFFER_FILTER = "crossfade.buffer"

_UNLIMITED = 2**62


def endpoint_routes(routing: Routing, gateway: Gateway) -> Resource:
    return resource(routes_name(routing.endpoint), _Routes(routing, gateway).configuration(), needs=_needs(routing))


def endpoint_scope(routing: Routing) -> Resource:
    """What leads requests for `/v2/models/<endpoint>` to the endpoint's routes."""
    name = routes_name(routing.endpoint)
    return scope(name, name, ("models", routing.endpoint), _needs(routing))


def scope(name: str, routes: str, segments: tuple[str, str], needs: frozenset[Key]) -> Resource:
    """Requests whose second and third path segments are `segments` are answered by `routes`."""
    fragment = scoped_route_pb2.ScopedRouteConfiguration.Key.Fragment
    message = scoped_route_pb2.ScopedRouteConfiguration(
        name=name,
        route_configuration_name=routes,
        key=scoped_route_pb2.ScopedRouteConfiguration.Key(fragments=[fragment(string_key=text) for text in segments]),
    )
    return resource(name, message, needs=needs, keeps=frozenset({Key(ROUTES, routes)}))


def cluster_keys(names: Iterable[str]) -> frozenset[Key]:
    """The resources without which a route to these clusters would answer 503."""
    return frozenset(Key(kind, name) for name in names for kind in (CLUSTER, ENDPOINTS))


def _needs(routing: Routing) -> frozenset[Key]:
    return cluster_keys(cluster_name(routing.endpoint, upstream.deployment) for upstream in routing.upstreams)


class _Routes:
    def __init__(self, routing: Routing, gateway: Gateway) -> None:
        self._routing = routing
        self._gateway = gateway
        self._endpoint = routing.endpoint
        self._prefix = f"/v2/models/{routing.endpoint}"
        limits = [upstream.max_request_bytes for upstream in routing.upstreams]
        # The smallest, so that no replica sees more than it agreed to, whoever is drawn.
        self._max_request_bytes = min([*limits, gateway.max_request_bytes])

    def configuration(self) -> Any:
        host = rc.VirtualHost(
            name=self._endpoint,
            domains=["*"],
            routes=[*self._refusals(), *self._header_pins(), *self._version_pins(), self._weighted()],
            retry_policy=retry_policy(self._gateway),
            metadata=_limits(self._max_request_bytes),
            # Retries and mirrors replay the body, so all of it is kept.
            request_body_buffer_limit=UInt64Value(value=self._max_request_bytes),
            typed_per_filter_config={
                BUFFER_FILTER: packed(
                    buffer_pb2.BufferPerRoute(
                        buffer=buffer_pb2.Buffer(max_request_bytes=UInt32Value(value=self._max_request_bytes))
                    )
                )
            },
        )
        return route_pb2.RouteConfiguration(
            name=routes_name(self._endpoint),
            virtual_hosts=[host],
            request_headers_to_add=[token_header(self._gateway)],
            response_headers_to_remove=[RETRY_HEADER],
        )

    def _refusals(self) -> list[Any]:
        by_hand = rc.RouteMatch(
            safe_regex=regex_pb2.RegexMatcher(
                regex=f"{self._prefix.replace('.', '[.]')}(/versions/[^/]+)?/Model[A-Za-z]+"
            ),
            headers=[
                _header(":path", contains="/Model"),  # cheap, so that the expression hardly ever runs
                rc.HeaderMatcher(name=MODEL_HEADER, present_match=False),
            ],
        )
        too_large = rc.HeaderMatcher(
            name="content-length", range_match=range_pb2.Int64Range(start=self._max_request_bytes + 1, end=_UNLIMITED)
        )
        return [
            refusal(by_hand, 404, f"no such path under model '{self._endpoint}'"),
            refusal(
                rc.RouteMatch(prefix="/", headers=[too_large]),
                413,
                "the request body is too large",  # local_replies.py says it in full
            ),
        ]

    def _header_pins(self) -> list[Any]:
        routes = []
        for header in PIN_HEADERS:
            for upstream in self._routing.upstreams:
                match = self._under(self._prefix, _header(header, exact=upstream.deployment))
                routes.append(self._to(match, [(upstream, 100)]))
            routes.append(
                refusal(
                    self._under(self._prefix, rc.HeaderMatcher(name=header, present_match=True)),
                    404,
                    f"endpoint '{self._endpoint}' has no deployment '%REQ({header})%'",
                )
            )
        return routes

    def _version_pins(self) -> list[Any]:
        routes = []
        for version in sorted({upstream.model_version for upstream in self._routing.upstreams}):
            having = [upstream for upstream in self._routing.upstreams if upstream.model_version == version]
            weights = [(upstream, self._routing.traffic.percent(upstream.deployment)) for upstream in having]
            if not any(weight for _, weight in weights):
                weights = [(upstream, 1) for upstream in having]
            routes.append(self._to(self._under(f"{self._prefix}/versions/{version}"), weights))
        unknown = f"endpoint '{self._endpoint}' has no such model version"
        routes.append(refusal(self._under(f"{self._prefix}/versions"), 404, unknown))
        return routes

    def _weighted(self) -> Any:
        match = self._under(self._prefix)
        weights = [
            (upstream, self._routing.traffic.percent(upstream.deployment)) for upstream in self._routing.upstreams
        ]
        if not any(weight for _, weight in weights):
            return refusal(match, 404, f"endpoint '{self._endpoint}' has no deployment with traffic")
        route = self._to(match, weights)
        mirror = self._routing.mirror
        if mirror is not None:
            route.route.request_mirror_policies.append(
                rc.RouteAction.RequestMirrorPolicy(
                    cluster=cluster_name(self._endpoint, mirror.deployment),
                    runtime_fraction=base_pb2.RuntimeFractionalPercent(
                        default_value=percent_pb2.FractionalPercent(numerator=mirror.percent)
                    ),
                    disable_shadow_host_suffix_append=True,
                    trace_sampled=BoolValue(value=False),
                )
            )
        return route

    def _under(self, prefix: str, *headers: Any) -> Any:
        return rc.RouteMatch(path_separated_prefix=prefix, headers=headers)

    def _to(self, match: Any, weights: Sequence[tuple[Upstream, int]]) -> Any:
        live = [(upstream, weight) for upstream, weight in weights if weight]
        timeout = milliseconds(max(upstream.request_timeout_ms for upstream, _ in live))
        action = rc.RouteAction(timeout=timeout, max_grpc_timeout=timeout)
        route = rc.Route(match=match, route=action)
        if len(live) == 1:
            upstream = live[0][0]
            route.route.cluster = cluster_name(self._endpoint, upstream.deployment)
            route.response_headers_to_add.append(_answered_by(upstream))
            return route
        route.route.weighted_clusters.clusters.extend(
            rc.WeightedCluster.ClusterWeight(
                name=cluster_name(self._endpoint, upstream.deployment),
                weight=UInt32Value(value=weight),
                response_headers_to_add=[_answered_by(upstream)],
            )
            for upstream, weight in live
        )
        return route


def refusal(match: Any, status: int, text: str) -> Any:
    """Envoy answers by itself. `text` is a format string; local_replies.py wraps it for HTTP or gRPC."""
    template = base_pb2.DataSource(inline_string=text)
    return rc.Route(
        match=match,
        direct_response=rc.DirectResponseAction(status=status, body_format={"text_format_source": template}),
    )


def _limits(max_request_bytes: int) -> Any:
    limits = Struct()
    limits.update({"max_request_bytes": str(max_request_bytes)})
    return base_pb2.Metadata(filter_metadata={LIMITS_METADATA: limits})


def _answered_by(upstream: Upstream) -> Any:
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=DEPLOYMENT_HEADER, value=upstream.deployment),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _header(name: str, **how: str) -> Any:
    return rc.HeaderMatcher(name=name, string_match=string_pb2.StringMatcher(**how))
