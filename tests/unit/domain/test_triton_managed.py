"""Deployments that are given a Triton of their own: what may be said about them, and how Envoy reaches it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.domain.deployment import Backend, DeployedModel, Deployment
from router.domain.deployment_settings import Batching, Execution, RequestSettings, Resources
from router.domain.errors import Invalid
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.routing import Address, Replica, ReplicaState, TritonAddress, UnixAddress, routing_for
from router.domain.scaling import ScaleSettings
from router.domain.traffic import Traffic
from router.domain.triton import RunningTriton, TritonServer
from router.domain.triton_managed import ManagedModel, ManagedTriton
from tests.unit.router.states import state

SPEC = Deployment("green", "fraud", ModelRef("file", "/m.onnx"), backend=Backend.TRITON, managed=ManagedTriton())
MODEL = ResolvedModel("/m.onnx", "ab" * 32)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"max_queue_delay_us": -1}, "triton.max_queue_delay_us"),
        ({"max_queue_delay_us": 60_000_001}, "triton.max_queue_delay_us"),
        ({"start_timeout_s": 0}, "triton.start_timeout_s"),
        ({"model": "*"}, "triton.model"),
        ({"model": "../a"}, "triton.model"),
        ({"preferred_batch_sizes": (4, 2)}, "triton.preferred_batch_sizes"),
        ({"preferred_batch_sizes": (2, 2)}, "triton.preferred_batch_sizes"),
        ({"preferred_batch_sizes": (0,)}, "triton.preferred_batch_sizes"),
        ({"preferred_batch_sizes": tuple(range(1, 18))}, "triton.preferred_batch_sizes"),
    ],
)
def test_settings_that_triton_could_not_follow_cannot_be_built(change: dict[str, Any], key: str) -> None:
    with pytest.raises(Invalid) as refused:
        ManagedTriton(**change)
    assert refused.value.key == key


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"backend": Backend.ONNX}, "backend"),
        ({"model": RunningTriton((TritonServer("t"),), "m")}, "triton.mode"),
        ({"scale_settings": ScaleSettings(2, min_instances=0)}, "scale_settings.min_instances"),
        ({"resources": Resources(gpu=1), "execution": Execution(options=(("a", "b"),))}, "execution.options"),
        ({"execution": Execution(is_spinning=True)}, "execution.spinning"),
        ({"batching": Batching(padding_mask="mask")}, "batching.padding_mask"),
        ({"batching": Batching(latency_slo_ms=50)}, "batching.latency_slo_ms"),
        ({"managed": ManagedTriton(preferred_batch_sizes=(8, 65))}, "triton.preferred_batch_sizes"),
        ({"managed": ManagedTriton(model="a"), "model": ModelRef("file", "/m#b/1/model.onnx")}, "triton.model"),
    ],
)
def test_nothing_is_said_that_it_would_not_heed(change: dict[str, Any], key: str) -> None:
    with pytest.raises(Invalid) as refused:
        replace(SPEC, **change)
    assert refused.value.key == key


def test_it_has_replicas_as_others_have_and_scales_as_they_do() -> None:
    assert not SPEC.is_elsewhere
    assert replace(SPEC, instance_count=3).most_answering == 3
    assert replace(SPEC, scale_settings=ScaleSettings(4, min_instances=2)).least_instances == 2


def test_replicas_are_started_anew_when_settings_change_that_they_heed_and_those_of_onnx_stay_as_they_are() -> None:
    chosen = replace(SPEC, model=ModelRef("file", "/m#a/1/model.onnx"))
    others = (
        replace(SPEC, managed=ManagedTriton(max_queue_delay_us=100)),
        replace(SPEC, managed=ManagedTriton(model="score")),
        replace(SPEC, batching=Batching(max_batch_size=2)),
        replace(SPEC, resources=Resources(cpu=2)),
        replace(SPEC, execution=Execution(instances_per_replica=2)),
        replace(SPEC, request_settings=RequestSettings(request_timeout_ms=1000)),
        replace(SPEC, scale_settings=ScaleSettings(2)),
        chosen,
        replace(chosen, model=ModelRef("file", "/m#b/1/model.onnx")),
    )
    generations = {DeployedModel(spec, MODEL).generation for spec in (SPEC, *others)}
    generations.add(DeployedModel(SPEC, ResolvedModel("/m.onnx", "cd" * 32)).generation)
    assert len(generations) == len(others) + 2
    onnx = Deployment("green", "fraud", ModelRef("file", "/m.onnx"))
    assert DeployedModel(onnx, MODEL).generation == "47457c55"  # without a trace of that


def test_no_triton_is_started_anew_for_what_envoy_alone_heeds() -> None:
    before = DeployedModel(SPEC, MODEL)
    limits = RequestSettings(max_concurrent_requests_per_instance=7, max_request_bytes=4096)
    after = DeployedModel(replace(SPEC, model_version="2", request_settings=limits), MODEL)
    assert after.generation == before.generation
    replica = Replica("r", "fraud", "green", before.generation, TritonAddress("127.0.0.1", 10, 11), ReplicaState.READY)
    (upstream,) = routing_for(state({}, after), Traffic(), (replica,)).upstreams
    assert (upstream.model_version, upstream.max_requests, upstream.max_request_bytes) == ("2", 7, 4096)


def test_envoy_asks_the_tritons_that_are_ready_for_the_endpoints_name() -> None:
    green = DeployedModel(SPEC, MODEL)

    def one(number: int, condition: ReplicaState) -> Replica:
        address = TritonAddress("127.0.0.1", number, number + 1)
        return Replica(f"r-{number}", "fraud", "green", green.generation, address, condition)

    replicas = (one(10, ReplicaState.READY), one(20, ReplicaState.DRAINING), one(30, ReplicaState.READY))
    (upstream,) = routing_for(state({}, green), Traffic(), replicas).upstreams
    assert upstream.triton == ManagedModel("fraud")
    assert upstream.triton.path == "/v2/models/fraud"
    assert [str(address) for address in upstream.addresses] == ["triton:127.0.0.1:10:11", "triton:127.0.0.1:30:31"]


ONNX = DeployedModel(Deployment("green", "fraud", ModelRef("file", "/m.onnx")), MODEL)
MANAGED = DeployedModel(SPEC, MODEL)
RUNNING = RunningTriton((TritonServer("t"),), "m", has_sequences=True)
DIRECT = DeployedModel(Deployment("green", "fraud", RUNNING, backend=Backend.TRITON), RUNNING)


@pytest.mark.parametrize(
    ("before", "after", "address", "asked"),
    [
        (ONNX, MANAGED, UnixAddress("/r"), None),
        (ONNX, DIRECT, UnixAddress("/r"), None),
        (MANAGED, ONNX, TritonAddress("127.0.0.1", 10, 11), ManagedModel("fraud")),
    ],
)
def test_who_answers_until_a_change_in_place_is_done_is_asked_as_before(
    before: DeployedModel, after: DeployedModel, address: Address, asked: ManagedModel | None
) -> None:
    old = Replica("r", "fraud", "green", before.generation, address, ReplicaState.READY)
    (upstream,) = routing_for(state({}, after), Traffic(), [old]).upstreams
    assert upstream.addresses == (address,)
    assert upstream.triton == asked
    assert not upstream.keeps_sequences
