"""What the Tritons of deployments count and which version they are, asked for as long as the control plane runs.

Bounded: each ready Triton once in `EVERY_S`, whoever looks at the metrics; so many at a time. One that does not answer
keeps its last answer while it is ready, and none afterwards.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from router.domain.endpoint import EndpointState
from router.domain.routing import Replica, ReplicaState, TritonAddress
from router.domain.triton import RunningTriton
from router.domain.triton_managed import ManagedModel
from router.domain.triton_report import TritonAnswer, TritonReport

EVERY_S = 5.0
_AT_A_TIME = 16


class TritonStatistics(Protocol):
    """Asks Tritons. Answers within a few seconds. Implemented by adapters/triton/statistics.py."""

    async def ask(self, address: TritonAddress, triton: RunningTriton | ManagedModel) -> TritonAnswer | None:
        """None when it does not answer."""


class TritonReports:
    """Belongs to one event loop."""

    def __init__(
        self,
        states: Mapping[str, EndpointState],
        replicas: Callable[[], Iterable[Replica]],
        statistics: TritonStatistics,
    ) -> None:
        """`states` is a live view."""
        self._states = states
        self._replicas = replicas
        self._statistics = statistics
        self._answers: dict[str, TritonReport] = {}  # replica → its last
        self._slots = asyncio.Semaphore(_AT_A_TIME)

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Ask all of them once, beside each other."""
        found = dict(await asyncio.gather(*(self._asked(replica) for replica in self._replicas())))
        self._answers = {name: report for name, report in found.items() if report is not None}

    def all(self) -> tuple[TritonReport, ...]:
        return tuple(sorted(self._answers.values(), key=lambda one: (one.endpoint, one.deployment, str(one.address))))

    def of(self, endpoint: str, deployment: str) -> tuple[TritonReport, ...]:
        return tuple(one for one in self.all() if (one.endpoint, one.deployment) == (endpoint, deployment))

    async def _asked(self, replica: Replica) -> tuple[str, TritonReport | None]:
        if not isinstance(replica.address, TritonAddress):
            return replica.id, None
        triton = self._triton_of(replica, replica.address)
        if triton is None:
            return replica.id, None
        async with self._slots:
            answer = await self._statistics.ask(replica.address, triton)
        if answer is None:
            return replica.id, self._answers.get(replica.id)
        return replica.id, TritonReport(replica.endpoint, replica.deployment, replica.address, answer)

    def _triton_of(self, replica: Replica, address: TritonAddress) -> RunningTriton | ManagedModel | None:
        """Of a Triton of ours on another host, nothing is asked: its replica lets nobody but Envoy through to it."""
        state = self._states.get(replica.endpoint)
        deployed = state.deployments.get(replica.deployment) if state else None
        if deployed is None or replica.state is not ReplicaState.READY or replica.generation != deployed.generation:
            return None
        if deployed.spec.managed is not None and ipaddress.ip_address(address.ip).is_loopback:
            return ManagedModel(replica.endpoint)
        return deployed.direct


def triton_metrics(reports: Iterable[TritonReport]) -> str:
    """Prometheus text. Names and addresses have a narrow alphabet, so labels need no escaping."""
    requests, executions, seconds, versions = [], [], [], []
    for report in reports:
        counts = report.answer.counts
        labels = f'endpoint="{report.endpoint}",deployment="{report.deployment}",triton="{_name(report.address)}"'
        versions.append(f'crossfade_triton_info{{{labels},version="{_narrow(report.answer.version)}"}} 1')
        requests += [
            f'crossfade_triton_requests_total{{{labels},outcome="{outcome}"}} {count}'
            for outcome, count in (("success", counts.successes), ("failure", counts.failures))
        ]
        executions.append(f"crossfade_triton_executions_total{{{labels}}} {counts.executions}")
        seconds += [
            f'crossfade_triton_seconds_total{{{labels},phase="{phase}"}} {spent:.6f}'
            for phase, spent in (
                ("queue", counts.queue_s),
                ("compute_input", counts.input_s),
                ("compute_infer", counts.infer_s),
                ("compute_output", counts.output_s),
            )
        ]
    if not versions:
        return ""
    lines = [
        "# HELP crossfade_triton_info The version of a Triton that serves a deployment.",
        "# TYPE crossfade_triton_info gauge",
        *versions,
        "# HELP crossfade_triton_requests_total Requests for the model, as Triton counts them since it started.",
        "# TYPE crossfade_triton_requests_total counter",
        *requests,
        "# HELP crossfade_triton_executions_total Batches that Triton ran.",
        "# TYPE crossfade_triton_executions_total counter",
        *executions,
        "# HELP crossfade_triton_seconds_total Where Triton spent the time of its requests.",
        "# TYPE crossfade_triton_seconds_total counter",
        *seconds,
    ]
    return "\n".join(lines) + "\n"


def _name(address: TritonAddress) -> str:
    return f"{address.ip}:{address.http_port}"


def _narrow(text: str) -> str:
    """What a server says of itself."""
    return "".join(letter for letter in text[:40] if letter.isascii() and (letter.isalnum() or letter in "._+-"))
