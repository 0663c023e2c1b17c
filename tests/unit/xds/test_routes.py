"""Routes of an endpoint as data. What they do is tested with the real Envoy."""

from dataclasses import replace
from typing import Any

from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutationPerRoute

from router.domain.routing import Routing, Shield
from router.domain.traffic import Mirror
from router.xds.gateway import MIRROR_HEADER, STREAM_HEADER
from router.xds.names import CLUSTER, ENDPOINTS, Key
from router.xds.routes import LIVE_ROUTE, SHIELD_FILTER, endpoint_routes
from tests.unit.xds.world import GATEWAY, routing, upstream


def routes_of(wanted: Routing) -> list[Any]:
    message = route_pb2.RouteConfiguration.FromString(endpoint_routes(wanted, GATEWAY).body)
    return list(message.virtual_hosts[0].routes)


def weights(route: Any) -> dict[str, int]:
    return {cluster.name: cluster.weight.value for cluster in route.route.weighted_clusters.clusters}


def test_all_traffic_on_one_deployment_needs_no_weights() -> None:
    route = routes_of(routing("fraud", upstream("blue"), upstream("green")))[-1]

    assert route.route.cluster == "fraud/blue"


def test_weights_name_only_deployments_with_traffic() -> None:
    wanted = routing("fraud", upstream("blue"), upstream("green"), upstream("grey"), traffic={"blue": 90, "grey": 10})

    assert weights(routes_of(wanted)[-1]) == {"fraud/blue": 90, "fraud/grey": 10}


def test_a_version_is_split_by_the_weights_of_those_who_have_it() -> None:
    wanted = routing(
        "fraud",
        upstream("blue", version="1"),
        upstream("green", version="2"),
        upstream("grey", version="2"),
        traffic={"blue": 70, "green": 20, "grey": 10},
    )

    by_prefix = {route.match.path_separated_prefix: route for route in routes_of(wanted) if not route.match.headers}

    assert weights(by_prefix["/v2/models/fraud/versions/2"]) == {"fraud/green": 20, "fraud/grey": 10}
    assert by_prefix["/v2/models/fraud/versions/1"].route.cluster == "fraud/blue"


def test_the_timeout_is_the_longest_of_those_who_may_answer() -> None:
    fast, slow = upstream("blue"), replace(upstream("green"), request_timeout_ms=60_000)

    live = routes_of(routing("fraud", fast, slow, traffic={"blue": 50, "green": 50}))[-1]
    alone = routes_of(routing("fraud", fast, slow))[-1]

    assert live.route.timeout.seconds == 60
    assert alone.route.timeout.seconds == 5


def test_routes_need_every_cluster_that_a_request_may_be_pinned_to() -> None:
    needs = endpoint_routes(routing("fraud", upstream("blue"), upstream("green")), GATEWAY).needs

    assert needs == {Key(kind, name) for kind in (CLUSTER, ENDPOINTS) for name in ("fraud/blue", "fraud/green")}


def test_only_the_candidates_share_by_weight_goes_through_the_shield() -> None:
    wanted = routing(
        "fraud",
        upstream("blue", version="1"),
        upstream("green", version="2"),
        traffic={"blue": 90, "green": 10},
        shield=Shield("green", "blue"),
    )

    *others, live = routes_of(wanted)

    assert weights(live) == {"fraud/blue": 90, "fraud/green/blue": 10}
    assert {route.route.cluster for route in others} == {"", "fraud/blue", "fraud/green"}


def test_a_shielded_attempt_may_take_half_of_the_requests_time() -> None:
    wanted = routing(
        "fraud", upstream("blue"), upstream("green"), traffic={"green": 100}, shield=Shield("green", "blue")
    )

    live = routes_of(wanted)[-1]

    said = HeaderMutationPerRoute.FromString(live.typed_per_filter_config[SHIELD_FILTER].value)
    (mutation,) = said.mutations.request_mutations
    assert live.route.cluster == "fraud/green/blue"
    assert live.route.timeout.seconds == 5
    assert (mutation.append.header.key, mutation.append.header.value) == (
        "x-envoy-upstream-rq-per-try-timeout-ms",
        "2500",
    )


def test_routes_wait_for_the_shields_cluster() -> None:
    wanted = routing("fraud", upstream("blue"), upstream("green"), shield=Shield("green", "blue"))

    assert Key(CLUSTER, "fraud/green/blue") in endpoint_routes(wanted, GATEWAY).needs


def test_without_stickiness_nothing_is_hashed() -> None:
    live = routes_of(routing("fraud", upstream("blue"), upstream("green"), traffic={"blue": 50, "green": 50}))[-1]

    assert not live.route.hash_policy
    assert not live.route.weighted_clusters.HasField("use_hash_policy")


def test_the_mirrored_share_is_a_route_of_its_own_that_differs_in_nothing_else() -> None:
    two = (upstream("blue"), upstream("green"), upstream("grey"))
    wanted = routing("fraud", *two, traffic={"blue": 90, "green": 10}, mirror=Mirror("grey", 30))

    mirrored, rest = routes_of(wanted)[-2:]

    assert mirrored.match.runtime_fraction.default_value.numerator == 30
    assert [(header.name, header.present_match) for header in mirrored.match.headers] == [(STREAM_HEADER, False)]
    assert [header.header.key for header in mirrored.request_headers_to_add] == [MIRROR_HEADER]
    assert len(mirrored.route.request_mirror_policies) == 1
    mirrored.ClearField("request_headers_to_add")
    mirrored.match.ClearField("runtime_fraction")
    mirrored.match.ClearField("headers")
    mirrored.route.ClearField("request_mirror_policies")
    assert mirrored == rest


def test_when_everything_is_mirrored_the_rest_is_streams() -> None:
    routes = routes_of(routing("fraud", upstream("blue"), upstream("green"), mirror=Mirror("green", 100)))

    assert [bool(route.route.request_mirror_policies) for route in routes if route.name == LIVE_ROUTE] == [
        True,
        False,
    ]
