"""Hundreds of endpoints: the work to tell how they are grows with their number, not with its square.

Counted, not timed: how often the replicas are walked through, and how often anything is hashed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from router.admin_ports import DeploymentCondition, EndpointStatus
from router.conditions import deployment_status
from router.decisions import replicas_by_endpoint
from router.domain.deployment import DeployedModel
from router.domain.deployment_settings import Batching, Execution
from router.domain.routing import Replica, ReplicaState
from router.domain.traffic import Traffic
from router.metrics import gateway_metrics
from router.server_state import server_view
from tests.fake_world import replica_of
from tests.unit.router.states import deployed, state

MODELS = [deployed("blue", count=2, endpoint=f"endpoint-{number}") for number in range(300)]
STATES = [state({"blue": 100}, model) for model in MODELS]


class Walked(Collection[Replica]):
    """Replicas that count how many of them were looked at."""

    def __init__(self, *replicas: Replica) -> None:
        self._replicas = replicas
        self.looks = 0

    def __iter__(self) -> Iterator[Replica]:
        for replica in self._replicas:
            self.looks += 1
            yield replica

    def __contains__(self, replica: object) -> bool:
        return replica in self._replicas

    def __len__(self) -> int:
        return len(self._replicas)


def replicas() -> Walked:
    """Two for each endpoint, interleaved: one is ready, one has failed."""
    ready = [replica_of(model, 1) for model in MODELS]
    failed = [replica_of(model, 2, ReplicaState.FAILED, "no such file") for model in MODELS]
    return Walked(*ready, *failed)


def hashes_during(work: Callable[[], object]) -> int:
    """How many times `work` calls SHA-256."""
    count = 0

    def note(_frame: FrameType, event: str, called: Any) -> None:
        nonlocal count
        count += event == "c_call" and called.__name__.endswith("sha256")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_the_status_of_many_endpoints_hashes_nothing_and_looks_at_each_replica_once() -> None:
    world = replicas()

    def look() -> None:
        own = replicas_by_endpoint(world)
        for model in MODELS:
            status = deployment_status(model, own[model.spec.endpoint], {}, {})
            assert (status.condition, status.replicas_ready) == (DeploymentCondition.READY, 1)

    assert hashes_during(look) == 0
    assert world.looks == len(world)


def test_the_generation_is_hashed_once_when_a_deployment_is_made() -> None:
    made: list[DeployedModel] = []

    def make_and_ask() -> None:
        model = deployed("blue")
        made.extend(model for _ in range(100) if model.generation)

    assert hashes_during(make_and_ask) == 1
    assert len(made) == 100


def test_the_metrics_page_hashes_nothing_and_looks_at_each_replica_once() -> None:
    world, status = replicas(), EndpointStatus(Traffic.of({"blue": 100}), None, (), 1)

    def look() -> None:
        page = gateway_metrics("1", STATES, lambda _: status, world, [], is_ray_connected=True)
        for model in MODELS:
            labels = f'endpoint="{model.spec.endpoint}",deployment="blue"'
            for kind, count in (("ready", 1), ("failed", 1), ("loading", 0)):
                assert f'crossfade_replicas{{{labels},state="{kind}"}} {count}\n' in page

    assert hashes_during(look) == 0
    assert world.looks == len(world)


def test_the_index_of_many_endpoints_hashes_nothing_and_looks_at_each_replica_once() -> None:
    world = replicas()

    def look() -> None:
        view = server_view("1", STATES, world)
        assert view.is_ready
        assert {entry.state for entry in view.index} == {"READY"}
        assert len(view.index) == len(MODELS)

    assert hashes_during(look) == 0
    assert world.looks == len(world)


BLUE = deployed("blue")


@pytest.mark.parametrize(
    ("spec", "is_new"),
    [
        (replace(BLUE.spec, batching=Batching(latency_slo_ms=7)), True),
        (replace(BLUE.spec, instance_count=7), False),
        (replace(BLUE.spec, batching=Batching(max_batch_size=7)), True),
        (replace(BLUE.spec, model_version="7"), True),
        (replace(BLUE.spec, execution=Execution(threads=7)), True),
    ],
)
def test_replicas_are_replaced_only_for_what_they_act_on(spec: Any, is_new: bool) -> None:
    assert (replace(BLUE, spec=spec).generation != BLUE.generation) is is_new
