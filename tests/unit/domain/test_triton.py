"""Deployments whose model a Triton serves already: what may be said about them, and what they are called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.domain.deployment import Backend, DeployedModel, Deployment
from router.domain.deployment_settings import Batching, Execution, Resources
from router.domain.errors import Invalid
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.routing import Replica, ReplicaState, TritonAddress, UnixAddress, routing_for
from router.domain.scaling import ScaleSettings
from router.domain.traffic import Traffic
from router.domain.triton import RunningTriton, TritonMode, TritonServer
from router.domain.triton_tls import TritonTls
from router.domain.triton_token import TritonToken
from tests.unit.router.states import state

TRITON = RunningTriton((TritonServer("t1"), TritonServer("t2", 9000, 9001)), "fraud_v2", 3)
SPEC = Deployment("green", "fraud", TRITON, backend=Backend.TRITON)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"servers": ()}, "triton.servers"),
        ({"servers": (TritonServer("t1"), TritonServer("t1"))}, "triton.servers"),
        ({"model": "a/b"}, "triton.model"),
        ({"model": ".."}, "triton.model"),
        ({"model": ""}, "triton.model"),
        ({"version": -1}, "triton.version"),
        ({"version": 2**63}, "triton.version"),
    ],
)
def test_what_cannot_be_asked_of_a_triton_cannot_be_built(change: dict[str, Any], key: str) -> None:
    with pytest.raises(Invalid) as refused:
        replace(TRITON, **change)
    assert refused.value.key == key


@pytest.mark.parametrize("server", [("a b", 1, 2), ("", 1, 2), ("-a", 1, 2), ("a", 0, 2), ("a", 1, 65536), ("a", 7, 7)])
def test_a_server_that_nobody_can_reach_cannot_be_built(server: tuple[str, int, int]) -> None:
    with pytest.raises(Invalid):
        TritonServer(*server)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"backend": Backend.ONNX}, "backend"),
        ({"model": ModelRef("file", "/m.onnx")}, "triton"),
        ({"instance_count": 2}, "instance_count"),
        ({"scale_settings": ScaleSettings(2)}, "scale_settings"),
        ({"resources": Resources(2.0)}, "resources"),
        ({"batching": Batching(1)}, "batching"),
    ],
)
def test_nothing_is_said_about_replicas_that_there_are_not(change: dict[str, Any], key: str) -> None:
    with pytest.raises(Invalid) as refused:
        replace(SPEC, **change)
    assert refused.value.key == key


@pytest.mark.parametrize(
    ("tls", "key"),
    [
        ({"ca": ""}, "triton.tls.ca"),
        ({"ca": "ca.pem"}, "triton.tls.ca"),
        ({"key": ""}, "triton.tls.key"),
        ({"certificate": ""}, "triton.tls.certificate"),
        ({"server_name": "a b"}, "triton.tls.server_name"),
        ({"server_name": ""}, "triton.tls.server_name"),
    ],
)
def test_tls_that_could_reach_nobody_cannot_be_built(tls: dict[str, str], key: str) -> None:
    given = {"ca": "/ca", "certificate": "/c", "key": "/k", "server_name": "triton"}
    with pytest.raises(Invalid) as refused:
        replace(TRITON, tls=TritonTls(**{**given, **tls}))
    assert refused.value.key == key


def test_with_tls_the_name_in_the_certificate_is_the_host_if_there_is_one() -> None:
    both = (TritonServer("t1"), TritonServer("t1", 9000, 9001))
    named = replace(TRITON, servers=both, tls=TritonTls("/ca"))
    assert named.tls == TritonTls("/ca", server_name="t1")
    assert named.is_grpc_only
    assert not replace(named, tls=TritonTls("/ca", has_http=True)).is_grpc_only


def test_a_bridge_may_have_tls_and_no_http() -> None:
    bridge = replace(TRITON, mode=TritonMode.BRIDGE)
    secured = replace(bridge, tls=TritonTls("/ca", server_name="t"))
    spec = replace(SPEC, model=bridge)

    assert DeployedModel(replace(spec, model=secured), secured).generation != DeployedModel(spec, bridge).generation
    with pytest.raises(Invalid) as refused:
        replace(bridge, tls=TritonTls("/ca", server_name="t", has_http=True))
    assert refused.value.key == "triton.tls.http"


def test_replicas_that_show_another_token_are_others() -> None:
    bridge = replace(TRITON, mode=TritonMode.BRIDGE)
    models = [bridge, *(replace(bridge, restricted=TritonToken("x-token", path)) for path in ("/a", "/b"))]
    assert len({DeployedModel(replace(SPEC, model=model), model).generation for model in models}) == 3
    assert len({str(model) for model in models}) == 1


def test_with_tls_it_is_the_same_version_of_another_generation() -> None:
    plain = replace(TRITON, version=0)
    secured = replace(plain, tls=TritonTls("/ca", server_name="t"))
    one, other = (DeployedModel(replace(SPEC, model=model), model) for model in (plain, secured))
    assert one.model_version == other.model_version
    assert one.generation != other.generation
    (upstream,) = routing_for(state({}, other), Traffic(), ()).upstreams
    assert upstream.tls == secured.tls
    assert not upstream.keeps_sequences


def test_envoy_is_told_that_requests_form_sequences() -> None:
    sequential = replace(TRITON, has_sequences=True)
    (upstream,) = routing_for(
        state({}, DeployedModel(replace(SPEC, model=sequential), sequential)), Traffic(), ()
    ).upstreams
    assert upstream.keeps_sequences


BRIDGED = replace(TRITON, mode=TritonMode.BRIDGE)
BRIDGE = Deployment("green", "fraud", BRIDGED, backend=Backend.TRITON)


@pytest.mark.parametrize(
    "change",
    [
        {"instance_count": 3},
        {"scale_settings": ScaleSettings(2)},
        {"resources": Resources(2.0, 0, 2**30)},
        {"batching": Batching(1)},
    ],
)
def test_a_bridges_replicas_are_spoken_of_as_any_others(change: dict[str, Any]) -> None:
    changed = replace(BRIDGE, **change)
    assert changed.is_elsewhere  # nothing to fetch
    assert changed.direct is None
    assert changed.most_answering == changed.most_instances == max(1, changed.instance_count, changed.most_instances)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"execution": Execution(threads=2)}, "execution"),
        ({"resources": Resources(1.0, 1.0)}, "resources.gpu"),
        ({"backend": Backend.ONNX}, "backend"),
    ],
)
def test_how_a_bridged_model_is_computed_is_tritons_own_matter(change: dict[str, Any], key: str) -> None:
    with pytest.raises(Invalid) as refused:
        replace(BRIDGE, **change)
    assert refused.value.key == key


def test_a_bridges_generation_changes_with_where_it_goes_and_with_what_its_replicas_are_started_with() -> None:
    other = replace(BRIDGED, servers=TRITON.servers[:1])
    changes: list[tuple[Deployment, RunningTriton]] = [
        (BRIDGE, BRIDGED),
        (replace(BRIDGE, model=other), other),
        (replace(BRIDGE, batching=Batching(2)), BRIDGED),
        (replace(BRIDGE, request_settings=replace(BRIDGE.request_settings, request_timeout_ms=1)), BRIDGED),
        (SPEC, TRITON),
    ]
    assert len({DeployedModel(spec, model).generation for spec, model in changes}) == len(changes)
    assert DeployedModel(replace(BRIDGE, instance_count=2), BRIDGED).generation == DeployedModel(*changes[0]).generation


def test_envoy_sends_a_bridges_requests_to_its_replicas() -> None:
    green = DeployedModel(BRIDGE, BRIDGED)
    address = UnixAddress("/r1")
    ready = Replica("r1", "fraud", "green", green.generation, address, ReplicaState.READY)
    troubled = replace(ready, id="r2", address=UnixAddress("/r2"), state=ReplicaState.TROUBLED)
    (upstream,) = routing_for(state({}, green), Traffic(), [ready, troubled]).upstreams
    assert upstream.triton is None
    assert upstream.addresses == (address,)


def test_its_version_is_the_one_given_else_tritons_else_a_digest_of_where_it_is() -> None:
    unnumbered = replace(SPEC, model=replace(TRITON, version=0))
    assert DeployedModel(replace(SPEC, model_version="2026"), TRITON).model_version == "2026"
    assert DeployedModel(SPEC, TRITON).model_version == "3"
    assert len(DeployedModel(unnumbered, replace(TRITON, version=0)).model_version) == 12


def test_its_generation_changes_with_where_it_is_and_not_with_limits_that_envoy_keeps() -> None:
    other = replace(TRITON, servers=TRITON.servers[:1])
    faster = replace(SPEC, request_settings=replace(SPEC.request_settings, request_timeout_ms=1))
    generations = [
        DeployedModel(spec, model).generation
        for spec, model in ((SPEC, TRITON), (faster, TRITON), (replace(SPEC, model=other), other))
    ]
    assert generations[0] == generations[1] != generations[2]


def test_the_path_and_the_reference_name_the_model_as_triton_does() -> None:
    assert TRITON.path == "/v2/models/fraud_v2/versions/3"
    assert replace(TRITON, version=0).path == "/v2/models/fraud_v2"
    assert str(TRITON) == "triton://t1:8000+1/fraud_v2/3"


def a_triton(ip: str, condition: ReplicaState, generation: str) -> Replica:
    return Replica(f"{generation}~{ip}", "fraud", "green", generation, TritonAddress(ip, 8000, 8001), condition)


def test_envoy_balances_over_every_triton_of_a_generation_that_has_one_ready() -> None:
    green = DeployedModel(SPEC, TRITON)
    now, before = green.generation, "before"

    def addresses(*replicas: Replica) -> list[str]:
        (upstream,) = routing_for(state({}, green), Traffic(), replicas).upstreams
        assert upstream.triton == TRITON
        return [str(address) for address in upstream.addresses]

    ready, loading = a_triton("10.0.0.1", ReplicaState.READY, now), a_triton("10.0.0.2", ReplicaState.LOADING, now)
    nowhere, old = a_triton("t9", ReplicaState.FAILED, now), a_triton("10.0.0.3", ReplicaState.READY, before)
    assert addresses(ready, loading, nowhere) == ["triton:10.0.0.1:8000:8001", "triton:10.0.0.2:8000:8001"]
    assert addresses(loading) == ["triton:10.0.0.2:8000:8001"]
    assert addresses(loading, old) == ["triton:10.0.0.3:8000:8001"]
    assert addresses(nowhere) == addresses() == []


def test_it_can_have_requests_under_way_for_each_of_its_servers() -> None:
    green = DeployedModel(SPEC, TRITON)
    (upstream,) = routing_for(state({}, green), Traffic(), ()).upstreams
    assert upstream.max_requests == 2 * SPEC.request_settings.max_concurrent_requests_per_instance


def test_a_model_of_ours_has_a_digest_and_tritons_has_none() -> None:
    ours = Deployment("blue", "fraud", ModelRef("file", "/m.onnx"))
    assert DeployedModel(ours, ResolvedModel("/m.onnx", "ab" * 32)).model_sha256 == "ab" * 32
    assert DeployedModel(SPEC, TRITON).model_sha256 == ""
