"""What Tritons count: asked for, kept, shown."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from router.domain.deployment import Backend, DeployedModel
from router.domain.routing import Replica, ReplicaState, TritonAddress, UnixAddress
from router.domain.triton import RunningTriton
from router.domain.triton_managed import ManagedModel, ManagedTriton
from router.domain.triton_report import TritonAnswer, TritonCounts
from router.triton_reports import TritonReports, triton_metrics
from tests.unit.router.states import deployed, state
from tests.unit.router.test_tritons import green


@dataclass
class Statistics:
    """Implements `TritonStatistics`. `answers`: IP → answer; who has none does not answer."""

    answers: dict[str, TritonAnswer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def ask(self, address: TritonAddress, triton: RunningTriton | ManagedModel) -> TritonAnswer | None:
        self.asked.append(f"{address.ip} {triton.model}")
        return self.answers.get(address.ip)


GREEN = green("t1", "t2")
ANSWER = TritonAnswer('2.51.0"\n', TritonCounts(7, 2, 5, 0.5, 0.001, 0.25, 0.002))


def found(ip: str, condition: ReplicaState = ReplicaState.READY, of: DeployedModel = GREEN) -> Replica:
    return Replica(f"t~{ip}", "fraud", of.spec.name, of.generation, TritonAddress(ip, 8000, 8001), condition)


def reports(statistics: Statistics, *replicas: Replica) -> tuple[TritonReports, list[Replica]]:
    known = list(replicas)
    return TritonReports({"fraud": state({}, GREEN, deployed("blue"))}, lambda: known, statistics), known


async def test_those_that_are_ready_are_asked_and_nobody_else() -> None:
    statistics = Statistics({"10.0.0.1": ANSWER, "10.0.0.2": ANSWER})
    blue = deployed("blue")
    ours = Replica("r", "fraud", "blue", blue.generation, UnixAddress("/r"), ReplicaState.READY)
    looking, _ = reports(
        statistics, found("10.0.0.1"), found("10.0.0.2"), found("10.0.0.3", ReplicaState.LOADING), ours
    )

    await looking.look()

    assert sorted(statistics.asked) == ["10.0.0.1 fraud", "10.0.0.2 fraud"]
    assert [report.address.ip for report in looking.of("fraud", "green")] == ["10.0.0.1", "10.0.0.2"]
    assert looking.of("fraud", "blue") == ()


async def test_tritons_of_ours_are_asked_for_the_endpoints_model_where_nothing_stands_before_them() -> None:
    statistics = Statistics({"127.0.0.1": ANSWER, "10.0.0.1": ANSWER})
    own = DeployedModel(
        replace(deployed("own").spec, backend=Backend.TRITON, managed=ManagedTriton()), deployed("own").model
    )
    known = [found("127.0.0.1", of=own), found("10.0.0.1", of=own), found("127.0.0.2", ReplicaState.LOADING, own)]
    looking = TritonReports({"fraud": state({}, own)}, lambda: known, statistics)

    await looking.look()

    assert statistics.asked == ["127.0.0.1 fraud"]
    assert [report.answer for report in looking.of("fraud", "own")] == [ANSWER]


async def test_one_that_does_not_answer_keeps_its_last_answer_while_it_is_ready() -> None:
    statistics = Statistics({"10.0.0.1": ANSWER})
    looking, known = reports(statistics, found("10.0.0.1"))
    await looking.look()

    statistics.answers.clear()
    await looking.look()
    assert [report.answer for report in looking.all()] == [ANSWER]
    known[:] = [found("10.0.0.1", ReplicaState.LOADING)]
    await looking.look()
    assert looking.all() == ()


async def test_they_are_metrics_with_the_deployments_labels() -> None:
    looking, _ = reports(Statistics({"10.0.0.1": ANSWER}), found("10.0.0.1"))
    assert triton_metrics(looking.all()) == ""
    await looking.look()

    lines = triton_metrics(looking.all()).splitlines()

    labels = 'endpoint="fraud",deployment="green",triton="10.0.0.1:8000"'
    assert [line for line in lines if not line.startswith("#")] == [
        f'crossfade_triton_info{{{labels},version="2.51.0"}} 1',
        f'crossfade_triton_requests_total{{{labels},outcome="success"}} 7',
        f'crossfade_triton_requests_total{{{labels},outcome="failure"}} 2',
        f"crossfade_triton_executions_total{{{labels}}} 5",
        f'crossfade_triton_seconds_total{{{labels},phase="queue"}} 0.500000',
        f'crossfade_triton_seconds_total{{{labels},phase="compute_input"}} 0.001000',
        f'crossfade_triton_seconds_total{{{labels},phase="compute_infer"}} 0.250000',
        f'crossfade_triton_seconds_total{{{labels},phase="compute_output"}} 0.002000',
    ]
