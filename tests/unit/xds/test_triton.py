"""What Envoy is told about deployments whose model a Triton serves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as aggregate_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as filter_mutation_pb2
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutationPerRoute
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from router.domain.routing import Routing, Shield, Upstream
from router.domain.tls import ClientTrust, Secret
from router.domain.triton import RunningTriton, TritonServer
from router.domain.triton_tls import TritonTls
from router.domain.triton_token import TritonToken
from router.xds.clusters import HTTP_OPTIONS
from router.xds.names import CLUSTER, ENDPOINTS, ROUTES, SECRET, Key, deployment_of_cluster, group_of
from router.xds.routes import SHIELD_FILTER
from router.xds.snapshot import Snapshot
from router.xds.upstream_tls import upstream_secret_keys, upstream_trust_secret
from tests.unit.xds.world import GATEWAY, routing, triton, upstream

GREEN = triton("green", "10.0.0.1", "10.0.0.2")
SERVERS = (TritonServer("10.0.0.1"), TritonServer("10.0.0.2"))


def built(wanted: Routing, kind: str, name: str, message: Any) -> Any:
    snapshot = Snapshot(GATEWAY)
    snapshot.set_endpoint(wanted)
    return message.FromString(snapshot.wanted[Key(kind, name)].body)


def cluster(wanted: Routing, name: str) -> Any:
    return built(wanted, CLUSTER, name, cluster_pb2.Cluster)


def options(message: Any) -> Any:
    packed = message.typed_extension_protocol_options[HTTP_OPTIONS]
    return http_protocol_options_pb2.HttpProtocolOptions.FromString(packed.value)


def live_routes(wanted: Routing) -> list[Any]:
    configuration = built(wanted, ROUTES, "endpoint/fraud", route_pb2.RouteConfiguration)
    return [route for route in configuration.virtual_hosts[0].routes if route.name == "live"]


def test_it_has_a_cluster_for_each_protocol_at_that_protocols_port() -> None:
    wanted = routing("fraud", GREEN)

    ports = {
        name: [
            member.endpoint.address.socket_address.port_value
            for member in built(wanted, ENDPOINTS, name, endpoint_pb2.ClusterLoadAssignment).endpoints[0].lb_endpoints
        ]
        for name in ("fraud/green", "fraud/green+grpc")
    }

    assert ports == {"fraud/green": [8000, 8000], "fraud/green+grpc": [8001, 8001]}
    assert options(cluster(wanted, "fraud/green")).explicit_http_config.HasField("http_protocol_options")
    assert options(cluster(wanted, "fraud/green+grpc")).explicit_http_config.HasField("http2_protocol_options")


@pytest.mark.parametrize("name", ["fraud/green", "fraud/green+grpc"])
def test_its_health_is_the_models_readiness_asked_over_http_without_our_token(name: str) -> None:
    wanted = routing("fraud", GREEN)

    (check,) = cluster(wanted, name).health_checks
    members = built(wanted, ENDPOINTS, name, endpoint_pb2.ClusterLoadAssignment).endpoints[0].lb_endpoints

    assert check.http_health_check.path == "/v2/models/fraud_v2/versions/3/ready"
    assert not check.http_health_check.request_headers_to_add
    assert {member.endpoint.health_check_config.port_value for member in members} == {8000}


def test_its_hosts_bear_the_deployments_name_and_what_triton_calls_the_model() -> None:
    message = built(
        routing("fraud", triton("green", "10.0.0.1", version="7")),
        ENDPOINTS,
        "fraud/green",
        endpoint_pb2.ClusterLoadAssignment,
    )
    (member,) = message.endpoints[0].lb_endpoints
    assert member.endpoint.hostname == "green"
    assert dict(member.metadata.filter_metadata["crossfade.triton"]) == {"served": "fraud_v2|3|7|1048576|"}


def test_calls_over_grpc_have_a_route_of_their_own_which_comes_first() -> None:
    wanted = routing("fraud", upstream("blue"), GREEN, traffic={"blue": 90, "green": 10})

    over_grpc, over_http = live_routes(wanted)

    assert over_grpc.match.HasField("grpc")
    assert not over_http.match.HasField("grpc")
    assert [one.name for one in over_grpc.route.weighted_clusters.clusters] == ["fraud/blue", "fraud/green+grpc"]
    assert [one.name for one in over_http.route.weighted_clusters.clusters] == ["fraud/blue", "fraud/green"]


def test_without_a_triton_both_protocols_have_the_same_route() -> None:
    (live,) = live_routes(routing("fraud", upstream("blue")))
    assert not live.match.HasField("grpc")


@pytest.mark.parametrize(
    ("candidate", "stable", "members"),
    [
        (GREEN, upstream("blue", "/b"), {"fraud/green/blue", "fraud/green+grpc/blue"}),
        (upstream("green", "/g"), triton("blue", "10.0.0.3"), {"fraud/green/blue", "fraud/green/blue+grpc"}),
        (GREEN, triton("blue", "10.0.0.3"), {"fraud/green/blue", "fraud/green+grpc/blue+grpc"}),
    ],
)
def test_a_shield_has_a_cluster_for_each_protocol_with_the_filters_of_a_triton(
    candidate: Upstream, stable: Upstream, members: set[str]
) -> None:
    wanted = routing("fraud", stable, candidate, traffic={"blue": 100}, shield=Shield("green", "blue"))
    snapshot = Snapshot(GATEWAY)
    snapshot.set_endpoint(wanted)

    shields = {key.name for key in snapshot.wanted if key.type_url == CLUSTER and key.name.count("/") == 2}

    assert shields == members
    for name in members:
        message = cluster(wanted, name)
        inner = aggregate_pb2.ClusterConfig.FromString(message.cluster_type.typed_config.value).clusters
        candidate_name, stable_name = name.removeprefix("fraud/").split("/")
        assert list(inner) == [f"fraud/{candidate_name}", f"fraud/{stable_name}"]
        assert len(options(message).http_filters) == 4
        assert deployment_of_cluster(name) == ("fraud", "green")
        assert group_of(Key(CLUSTER, name)) == "fraud"


@pytest.mark.parametrize(
    ("name", "green", "facts"),
    [
        ("fraud/green", GREEN, ('endpoint = "fraud"', 'model = "fraud_v2"', "is_grpc = false", "is_same = false")),
        ("fraud/green+grpc", GREEN, ("is_grpc = true", 'number = "3"', "limit = 1048576")),
        (
            "fraud/green",
            replace(GREEN, model_version="3", triton=RunningTriton(SERVERS, "fraud", 3)),
            ("is_same = true",),
        ),
    ],
)
def test_a_cluster_of_one_deployment_has_all_that_is_known_of_its_hosts_in_its_script(
    name: str, green: Upstream, facts: tuple[str, ...]
) -> None:
    script, codec = options(cluster(routing("fraud", green), name)).http_filters
    source = lua_pb2.Lua.FromString(script.typed_config.value).default_source_code.inline_string
    (line,) = [line for line in source.splitlines() if line.startswith("local OWN")]
    assert all(fact in line for fact in facts), line
    assert codec.name == "envoy.filters.http.upstream_codec"


def test_replicas_of_ours_pass_no_filter_of_a_triton() -> None:
    wanted = routing("fraud", upstream("blue", "/b"), GREEN)
    assert not options(cluster(wanted, "fraud/blue")).http_filters
    assert not cluster(wanted, "fraud/blue").HasField("per_connection_buffer_limit_bytes")


@pytest.mark.parametrize(("ips", "is_hedged"), [(("10.0.0.1",), False), (("10.0.0.1", "10.0.0.2"), True)])
def test_where_there_is_another_one_a_late_answer_is_asked_of_it_as_well(ips: tuple[str, ...], is_hedged: bool) -> None:
    for live in live_routes(routing("fraud", triton("green", *ips))):
        said = HeaderMutationPerRoute.FromString(live.typed_per_filter_config[SHIELD_FILTER].value)
        headers = {one.append.header.key: one.append.header.value for one in said.mutations.request_mutations}
        assert (headers.get("x-envoy-hedge-on-per-try-timeout") == "true") is is_hedged
        assert (headers.get("x-envoy-upstream-rq-per-try-timeout-ms") == "2500") is is_hedged


def test_a_triton_never_stands_in_for_the_control_plane() -> None:
    message = built(routing("fraud", GREEN), ENDPOINTS, "server", endpoint_pb2.ClusterLoadAssignment)
    assert [len(group.lb_endpoints) for group in message.endpoints] == [1, 0]


def test_what_did_not_change_is_not_built_anew() -> None:
    snapshot = Snapshot(GATEWAY)
    snapshot.set_endpoint(routing("fraud", upstream("blue"), GREEN))

    changed = snapshot.set_endpoint(routing("fraud", upstream("blue"), GREEN, traffic={"blue": 50, "green": 50}))

    assert changed == {Key(ROUTES, "endpoint/fraud")}


TLS = TritonTls("/ca.pem", "/c.pem", "/k.pem", "triton.example.com")


def secured(upstream: Upstream, tls: TritonTls = TLS) -> Upstream:
    return replace(upstream, tls=tls)


def test_with_tls_it_has_one_cluster_for_grpc_that_takes_its_certificates_from_secrets() -> None:
    wanted = routing("fraud", secured(GREEN))
    snapshot = Snapshot(GATEWAY)
    snapshot.set_endpoint(wanted)

    clusters = {key.name for key in snapshot.wanted if key.type_url == CLUSTER and key.name.startswith("fraud/")}
    message = cluster(wanted, "fraud/green+grpc")
    context = tls_pb2.UpstreamTlsContext.FromString(message.transport_socket.typed_config.value)
    common = context.common_tls_context
    validation = common.combined_validation_context
    (name,) = validation.default_validation_context.match_typed_subject_alt_names

    assert clusters == {"fraud/green+grpc"}
    assert (context.sni, list(common.alpn_protocols)) == ("triton.example.com", ["h2"])
    assert (name.san_type, name.matcher.exact) == (name.DNS, "triton.example.com")
    secrets = {common.tls_certificate_sds_secret_configs[0].name, validation.validation_context_sds_secret_config.name}
    assert {Key(SECRET, secret) for secret in secrets} == upstream_secret_keys(TLS)
    assert upstream_secret_keys(TLS) <= snapshot.wanted[Key(CLUSTER, "fraud/green+grpc")].keeps
    assert b"/k.pem" not in message.SerializeToString()


def test_with_tls_both_protocols_go_there_and_it_is_asked_over_grpc_whether_it_is_ready() -> None:
    wanted = routing("fraud", secured(GREEN))

    assert {live.route.cluster for live in live_routes(wanted)} == {"fraud/green+grpc"}
    (check,) = cluster(wanted, "fraud/green+grpc").health_checks
    assert check.http_health_check.path == "/inference.GRPCInferenceService/ModelReady"
    assert check.tls_options.alpn_protocols == ["h2"]
    (members,) = built(wanted, ENDPOINTS, "fraud/green+grpc", endpoint_pb2.ClusterLoadAssignment).endpoints
    assert {member.endpoint.health_check_config.port_value for member in members.lb_endpoints} == {0}


def test_a_cluster_that_has_nobody_to_talk_to_waits_for_no_secret() -> None:
    nobody = replace(secured(GREEN), addresses=())
    message = cluster(routing("fraud", nobody), "fraud/green+grpc")
    assert not message.HasField("transport_socket")


def test_with_a_proxy_before_http_both_ports_speak_tls_and_http_is_asked() -> None:
    wanted = routing("fraud", secured(GREEN, replace(TLS, has_http=True, server_name="10.0.0.1")))

    for name, protocol in (("fraud/green", "http/1.1"), ("fraud/green+grpc", "h2")):
        message = cluster(wanted, name)
        context = tls_pb2.UpstreamTlsContext.FromString(message.transport_socket.typed_config.value)
        trusted = context.common_tls_context.combined_validation_context.default_validation_context
        (san,) = trusted.match_typed_subject_alt_names
        assert list(context.common_tls_context.alpn_protocols) == [protocol]
        assert (context.sni, san.san_type, san.matcher.exact) == ("", san.IP_ADDRESS, "10.0.0.1")
        assert message.health_checks[0].tls_options.alpn_protocols == ["http/1.1"]


def test_secrets_that_nobody_names_any_more_go() -> None:
    snapshot = Snapshot(GATEWAY)
    trust = upstream_trust_secret(TLS, ClientTrust(b"ca"))
    assert snapshot.set_secret(trust) == {trust.key}

    assert snapshot.remove_secrets(upstream_secret_keys(TLS)) == {trust.key}

    assert trust.key not in snapshot.wanted
    assert snapshot.remove_secrets(upstream_secret_keys(TLS)) == frozenset()


def test_where_requests_form_sequences_their_id_chooses_the_deployment_and_the_host() -> None:
    sequential = replace(GREEN, keeps_sequences=True)
    wanted = routing("fraud", upstream("blue"), sequential, traffic={"blue": 50, "green": 50})

    for live in live_routes(wanted):
        (policy,) = live.route.hash_policy
        assert (policy.header.header_name, policy.terminal) == ("x-crossfade-sequence", True)
        assert live.route.weighted_clusters.use_hash_policy.value
    assert cluster(wanted, "fraud/green").lb_policy == cluster_pb2.Cluster.MAGLEV
    assert cluster(wanted, "fraud/blue").lb_policy == cluster_pb2.Cluster.LEAST_REQUEST


def test_a_request_of_a_sequence_is_never_asked_of_two() -> None:
    for live in live_routes(routing("fraud", replace(GREEN, keeps_sequences=True))):
        assert SHIELD_FILTER not in live.typed_per_filter_config


TOKEN = TritonToken("x-token", "/run/token")
HUSH = "a secret of Triton's"


def with_tokens(wanted: Routing) -> Snapshot:
    snapshot = Snapshot(GATEWAY)
    snapshot.set_token(TOKEN, Secret(HUSH.encode()))
    snapshot.set_endpoint(wanted)
    return snapshot


def test_a_token_is_with_the_hosts_of_its_deployment_and_nowhere_else() -> None:
    restricted = replace(GREEN, token=TOKEN)
    wanted = routing("fraud", triton("blue", "10.0.0.9"), restricted, shield=Shield("green", "blue"))

    holders = {key for key, one in with_tokens(wanted).wanted.items() if HUSH.encode() in one.body}

    assert holders == {Key(ENDPOINTS, "fraud/green"), Key(ENDPOINTS, "fraud/green+grpc")}


def test_a_token_stays_until_the_one_of_another_file_is_read() -> None:
    old, new = (routing("fraud", replace(GREEN, token=token)) for token in (TOKEN, TritonToken("x-token", "/other")))
    snapshot = with_tokens(old)

    snapshot.set_endpoint(new)
    assert HUSH.encode() in snapshot.wanted[Key(ENDPOINTS, "fraud/green")].body
    snapshot.set_token(TritonToken("x-token", "/other"), Secret(b"another"))
    assert b"another" in snapshot.wanted[Key(ENDPOINTS, "fraud/green")].body
    assert HUSH.encode() not in snapshot.wanted[Key(ENDPOINTS, "fraud/green")].body


def test_a_new_token_changes_the_endpoints_alone() -> None:
    snapshot = with_tokens(routing("fraud", replace(GREEN, token=TOKEN)))
    other = Secret(b"another")

    assert snapshot.set_token(TOKEN, other) == {Key(ENDPOINTS, "fraud/green"), Key(ENDPOINTS, "fraud/green+grpc")}
    assert snapshot.set_token(TOKEN, other) == frozenset()
    snapshot.keep_tokens([])
    assert snapshot.set_token(TritonToken("x-token", "/other"), other) == frozenset()


@pytest.mark.parametrize(
    ("name", "header"), [("fraud/green", "x-token"), ("fraud/green+grpc", "triton-grpc-protocol-x-token")]
)
def test_it_is_shown_under_the_name_that_the_protocol_has_for_it_and_to_health_checks_over_http(
    name: str, header: str
) -> None:
    message = cluster(routing("fraud", replace(GREEN, token=TOKEN)), name)

    first = options(message).http_filters[0]
    mutations = filter_mutation_pb2.HeaderMutation.FromString(first.typed_config.value).mutations.request_mutations
    (checked,) = message.health_checks[0].http_health_check.request_headers_to_add
    assert [mutation.remove or mutation.append.header.key for mutation in mutations] == [header, header]
    assert checked.header.key == "x-token"
    assert checked.header.value == mutations[1].append.header.value
