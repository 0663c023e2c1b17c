"""Routes: which deployment answers a request to an endpoint. One RouteConfiguration and one scope per endpoint.

Model-level gRPC calls arrive here under HTTP paths (translation.py), so one tree serves both protocols:
`/v2/models/<endpoint>[/versions/<version>]/<rest>`. The order of the routes is the order of precedence:

1. refused before anything else: the gRPC tree called by hand, a body over the limit
2. copies that come back from the mirror
3. pinned by header, first `x-crossfade-deployment`, then the Azure name
4. pinned by model version
5. by weight: first the share that is mirrored, then the rest; streams are never mirrored

Where an endpoint does not let in everybody, each of 3 to 5 is preceded by the same for streams alone (stream_watch.py).

The mirrored share has a route of its own, so that the live request can be marked as well as its copy: replicas then
know whose answers are to be compared. Envoy draws one random number a request for both the share and the weight, so
with several deployments of weight the share falls on the first of them; how the traffic is split stays exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from envoy.type.v3 import range_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value, UInt64Value

from router.domain.begun_streams import Terms
from router.domain.routing import Routing, Shield, Upstream
from router.domain.sticky import Sticky, StickyBy
from router.domain.traffic import Mirror
from router.xds.access import access_config
from router.xds.clients import clients_config
from router.xds.clusters import reached_by, token_header
from router.xds.gateway import (
    CREDENTIAL_HEADERS,
    DEPLOYMENT_HEADER,
    LISTENER_HEADER,
    MIRROR_HEADER,
    MODEL_HEADER,
    PIN_HEADERS,
    RETRY_HEADER,
    SEQUENCE_HEADER,
    STREAM_HEADER,
    Gateway,
)
from router.xds.hot_path import BUFFER_FILTER, buffering, without
from router.xds.limits import limits_metadata, rate_config
from router.xds.names import (
    CLUSTER,
    ENDPOINTS,
    MIRROR_CLUSTER,
    MIRROR_VIEW,
    Key,
    at_view,
    routes_name,
    shield_name,
)
from router.xds.places import places_config, places_metadata
from router.xds.resources import Resource, milliseconds, overwritten, packed, resource
from router.xds.retries import retry_policy
from router.xds.scopes import scope
from router.xds.sequences import sequence_config
from router.xds.stream_watch import STREAM_WATCH_FILTER, watched
from router.xds.translation import EXTRACTION_FILTER

SHIELD_FILTER = "crossfade.shield"

# The names of the routes whose requests are drawn by chance: the only ones that can be compared.
LIVE_ROUTE = "live"
MIRROR_ROUTE = "mirrored"

_UNLIMITED = 2**62

# The model is this endpoint, or the request had not come to its routes. With a long name in it, the expression would be
# larger than Envoy takes.
_BY_HAND = regex_pb2.RegexMatcher(regex="/v2/models/[^/]+(/versions/[^/]+)?/Model[A-Za-z]+")

_SEQUENCE = rc.RouteAction.HashPolicy(
    header=rc.RouteAction.HashPolicy.Header(header_name=SEQUENCE_HEADER), terminal=True
)


def endpoint_routes(routing: Routing, gateway: Gateway) -> Resource:
    return resource(routes_name(routing.endpoint), _Routes(routing, gateway).configuration(), needs=_needs(routing))


def endpoint_scope(routing: Routing, view: str = "") -> Resource:
    """What leads requests for `/v2/models/<endpoint>` to the endpoint's routes, where the view shows it."""
    name = routes_name(routing.endpoint)
    return scope(at_view(name, view), name, ("models", routing.endpoint), _needs(routing), view)


def cluster_keys(names: Iterable[str]) -> frozenset[Key]:
    """The resources without which a route to these clusters would answer 503."""
    return frozenset(Key(kind, name) for name in names for kind in (CLUSTER, ENDPOINTS))


def _needs(routing: Routing) -> frozenset[Key]:
    needs = cluster_keys(
        reached_by(routing.endpoint, upstream, is_grpc=is_grpc)
        for upstream in routing.upstreams
        for is_grpc in routing.ways
    )
    if routing.shield is not None:
        needs |= {Key(CLUSTER, _shield(routing, routing.shield, is_grpc=is_grpc)) for is_grpc in routing.ways}
    return needs


def _shield(routing: Routing, shield: Shield, *, is_grpc: bool) -> str:
    candidate, stable = (
        reached_by(routing.endpoint, routing.upstream(deployment), is_grpc=is_grpc)
        for deployment in (shield.candidate, shield.stable)
    )
    return shield_name(candidate, stable)


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
            routes=[
                *self._refusals(),
                *self._mirrored(),
                *self._with_streams([*self._header_pins(), *self._version_pins(), *self._weighted()]),
            ],
            retry_policy=retry_policy(self._gateway),
            metadata=limits_metadata(
                max_request_bytes=str(self._max_request_bytes),
                endpoint=self._endpoint,
                **places_metadata(self._endpoint, self._routing.limits, self._routing.access),
            ),
            # Retries and mirrors replay the body, so all of it is kept.
            request_body_buffer_limit=UInt64Value(value=self._max_request_bytes),
            typed_per_filter_config={
                **without(EXTRACTION_FILTER, STREAM_WATCH_FILTER, *([] if self._has_own_attempts else [SHIELD_FILTER])),
                **buffering(self._max_request_bytes),
                **access_config(self._endpoint, self._routing.access),
                **sequence_config(self._routing.upstreams),
                **rate_config(self._endpoint, self._routing.limits, self._routing.access),
                **places_config(self._routing.limits, self._gateway),
                **clients_config(self._routing.clients),
            },
        )
        return route_pb2.RouteConfiguration(
            name=routes_name(self._endpoint),
            virtual_hosts=[host],
            request_headers_to_add=[token_header(self._gateway)],
            request_headers_to_remove=[*CREDENTIAL_HEADERS, LISTENER_HEADER],
            response_headers_to_remove=[RETRY_HEADER],
        )

    @property
    def _has_own_attempts(self) -> bool:
        """Whether some of the routes say how long an attempt takes (`_target`)."""
        return self._routing.shield is not None or self._routing.has_triton

    def _refusals(self) -> list[Any]:
        by_hand = rc.RouteMatch(
            safe_regex=_BY_HAND,
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
                self._under(self._prefix, too_large),
                413,
                "the request body is too large",  # local_replies.py says it in full
            ),
        ]

    def _mirrored(self) -> list[Any]:
        """Copies that come back by mirror_listener.py."""
        mirror = self._routing.mirror
        if mirror is None:
            return []
        upstream = self._routing.upstream(mirror.deployment)
        pinned = _header(DEPLOYMENT_HEADER, exact=mirror.deployment)
        match = self._under(self._prefix, rc.HeaderMatcher(name=MIRROR_HEADER, present_match=True), pinned)
        routes = self._to(match, [(upstream, 100)])
        # Over a little before the original's time is: so it ends here as timed out, and not there as broken off.
        timeout = milliseconds(max(1, upstream.request_timeout_ms * 19 // 20))
        for route in routes:
            route.name = MIRROR_ROUTE
            route.route.timeout.CopyFrom(timeout)
            route.route.max_grpc_timeout.CopyFrom(timeout)
        return routes

    def _with_streams(self, routes: Iterable[Any]) -> Iterator[Any]:
        """Routes for streams alone stand before those whose streams are watched. What is mirrored is no stream."""
        terms = Terms.of(self._routing)
        for route in routes:
            if not terms.are_none and route.HasField("route") and not route.route.request_mirror_policies:
                yield watched(route, self._endpoint, terms)
            yield route

    def _header_pins(self) -> list[Any]:
        routes = []
        for header in PIN_HEADERS:
            for upstream in self._routing.upstreams:
                match = self._under(self._prefix, _header(header, exact=upstream.deployment))
                routes += self._to(match, [(upstream, 100)])
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
            routes += self._to(self._under(f"{self._prefix}/versions/{version}"), weights)
        unknown = f"endpoint '{self._endpoint}' has no such model version"
        routes.append(refusal(self._under(f"{self._prefix}/versions"), 404, unknown))
        return routes

    def _weighted(self) -> list[Any]:
        match = self._under(self._prefix)
        weights = [
            (upstream, self._routing.traffic.percent(upstream.deployment)) for upstream in self._routing.upstreams
        ]
        if not any(weight for _, weight in weights):
            return [refusal(match, 404, f"endpoint '{self._endpoint}' has no deployment with traffic")]
        routes = self._to(match, weights, self._routing.shield)
        for route in routes:
            route.name = LIVE_ROUTE
        mirror = self._routing.mirror
        if mirror is None:
            return routes
        mirrored = [self._copied_to(mirror, route) for route in routes]
        return [*mirrored, *routes]

    def _copied_to(self, mirror: Mirror, route: Any) -> Any:
        mirrored = rc.Route()
        mirrored.CopyFrom(route)
        mirrored.match.headers.append(rc.HeaderMatcher(name=STREAM_HEADER, present_match=False))
        mirrored.match.runtime_fraction.default_value.numerator = mirror.percent  # of a hundred
        mirrored.request_headers_to_add.append(overwritten(MIRROR_HEADER, "1"))  # for the copy too
        mirrored.route.request_mirror_policies.append(
            rc.RouteAction.RequestMirrorPolicy(
                cluster=MIRROR_CLUSTER,
                request_headers_mutations=[
                    mutation_rules_pb2.HeaderMutation(append=overwritten(DEPLOYMENT_HEADER, mirror.deployment)),
                    mutation_rules_pb2.HeaderMutation(append=overwritten(LISTENER_HEADER, MIRROR_VIEW)),
                ],
                disable_shadow_host_suffix_append=True,
                trace_sampled=BoolValue(value=False),
            )
        )
        return mirrored

    def _under(self, prefix: str, *headers: Any) -> Any:
        return rc.RouteMatch(path_separated_prefix=prefix, headers=headers)

    def _to(self, match: Any, weights: Sequence[tuple[Upstream, int]], shield: Shield | None = None) -> list[Any]:
        """`weights` has an upstream with a weight above 0. Requests to the shield's candidate go through the shield.

        One route; where a deployment has a port for each protocol, gRPC calls have one of their own, which comes first.
        """
        routes = []
        for is_grpc in self._routing.ways:
            of_protocol = rc.RouteMatch()
            of_protocol.CopyFrom(match)
            if is_grpc:
                of_protocol.grpc.SetInParent()
            routes.append(self._way(of_protocol, weights, shield, is_grpc=is_grpc))
        return routes

    def _way(self, match: Any, weights: Sequence[tuple[Upstream, int]], shield: Shield | None, *, is_grpc: bool) -> Any:
        live = [(upstream, weight) for upstream, weight in weights if weight]
        timeout_ms = max(upstream.request_timeout_ms for upstream, _ in live)
        timeout = milliseconds(timeout_ms)
        route = rc.Route(match=match, route=rc.RouteAction(timeout=timeout, max_grpc_timeout=timeout))
        hashed = [_SEQUENCE] if any(upstream.keeps_sequences for upstream, _ in live) else []
        if self._routing.sticky is not None and len(live) > 1:
            hashed.append(_hashed(self._routing.sticky))
        route.route.hash_policy.extend(hashed)
        if len(live) == 1:
            name, how = self._target(live[0][0], shield, timeout_ms, is_grpc=is_grpc)
            route.route.cluster = name
            route.MergeFrom(rc.Route(**how))
            return route
        if hashed:
            route.route.weighted_clusters.use_hash_policy.value = True
        for upstream, weight in live:
            name, how = self._target(upstream, shield, timeout_ms, is_grpc=is_grpc)
            cluster = rc.WeightedCluster.ClusterWeight(name=name, weight=UInt32Value(value=weight), **how)
            route.route.weighted_clusters.clusters.append(cluster)
        return route

    def _target(
        self, upstream: Upstream, shield: Shield | None, timeout_ms: int, *, is_grpc: bool
    ) -> tuple[str, dict[str, Any]]:
        """The cluster that requests to `upstream` go to, and what a route or a weighted cluster says besides."""
        if shield is None or shield.candidate != upstream.deployment:
            answered_by: dict[str, Any] = {"response_headers_to_add": [_answered_by(upstream.deployment)]}
            if upstream.triton is not None and len(upstream.addresses) > 1 and not upstream.keeps_sequences:
                answered_by["typed_per_filter_config"] = {SHIELD_FILTER: packed(_hedged(timeout_ms))}
            return reached_by(self._endpoint, upstream, is_grpc=is_grpc), answered_by
        # Replicas bear the name of their deployment. (attempts.py has what a shield costs.)
        first_try = {SHIELD_FILTER: packed(_first_try(timeout_ms))}
        return _shield(self._routing, shield, is_grpc=is_grpc), {
            "response_headers_to_add": [_answered_by("%UPSTREAM_HOST_NAME%")],
            "typed_per_filter_config": first_try,
        }


def refusal(match: Any, status: int, text: str) -> Any:
    """Envoy answers by itself. `text` is a format string; local_replies.py wraps it for HTTP or gRPC."""
    template = base_pb2.DataSource(inline_string=text)
    return rc.Route(
        match=match,
        direct_response=rc.DirectResponseAction(status=status, body_format={"text_format_source": template}),
        typed_per_filter_config=without(BUFFER_FILTER),  # nobody needs the body
    )


def _first_try(timeout_ms: int) -> Any:
    """An attempt may take half of the request's time, so that a candidate that hangs leaves the other half to stable.

    A client whose own deadline is shorter than that half gets a single attempt. The retry policy has a field for it,
    which Envoy heeds on routes only, where it would bind stable's own share as well; so it is said by a header.
    """
    return _with_headers(_half_of(timeout_ms))


def _hedged(timeout_ms: int) -> Any:
    """A Triton that hangs says nothing, and Envoy's health checks take their time to notice. So a request is sent to
    another one as well after half of its time, and whoever answers first is heard: one that is merely slow may go on.
    """
    return _with_headers(_half_of(timeout_ms), overwritten("x-envoy-hedge-on-per-try-timeout", "true"))


def _half_of(timeout_ms: int) -> Any:
    half = overwritten("x-envoy-upstream-rq-per-try-timeout-ms", str(max(1, timeout_ms // 2)))
    half.append_action = base_pb2.HeaderValueOption.ADD_IF_ABSENT  # a stream has said that it takes as long as it takes
    return half


def _with_headers(*headers: Any) -> Any:
    mutations = [mutation_rules_pb2.HeaderMutation(append=header) for header in headers]
    return header_mutation_pb2.HeaderMutationPerRoute(
        mutations=header_mutation_pb2.Mutations(request_mutations=mutations)
    )


def _hashed(sticky: Sticky) -> Any:
    """What is hashed to choose among the weighted clusters. Nothing there to hash: chance decides, as without it."""
    policy = rc.RouteAction.HashPolicy
    match sticky.by:
        case StickyBy.HEADER:
            return policy(header=policy.Header(header_name=sticky.name))
        case StickyBy.COOKIE:
            return policy(cookie=policy.Cookie(name=sticky.name))
        case StickyBy.CLIENT:
            return policy(connection_properties=policy.ConnectionProperties(source_ip=True))


def _answered_by(deployment: str) -> Any:
    return overwritten(DEPLOYMENT_HEADER, deployment)


def _header(name: str, **how: str) -> Any:
    return rc.HeaderMatcher(name=name, string_match=string_pb2.StringMatcher(**how))
