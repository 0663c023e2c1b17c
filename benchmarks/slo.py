"""Open loop: the highest rate with 99% of the requests answered inside the objective, and what overload does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from benchmarks.arrivals import Arrivals, one_after_the_other, schedule
from benchmarks.goodput import SHARE_INSIDE, Answers, highest_rate
from benchmarks.offered import Target
from benchmarks.processes import Child
from benchmarks.progress import say

_SETTLED_WITHIN = 1.0  # of the objective: a request alone takes a quarter of it
_NEAR_MISS = 0.95  # below it, no neighbour is to blame
_LOOK_EVERY_S = 2.0
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Probing:
    """How long each rate is tried, how often one that fails gets a second chance, and how finely the search ends."""

    probe_s: float
    attempts: int
    bisections: int
    seed: int = 1


@dataclass(slots=True)
class Found:
    """`rate`: the highest that held. `goodput`: the most answers inside the objective a second, at any rate tried."""

    rate: float = 0.0
    goodput: float = 0.0
    probes: list[dict[str, float]] = field(default_factory=list)


def search(target: Target, arrivals: Arrivals, slo_s: float, start_rate: float, probing: Probing) -> Found:
    """Raises `LoadFailed`."""
    found = Found()

    def holds(rate: float) -> bool:
        for attempt in range(probing.attempts):
            share, goodput = _probe(target, arrivals, slo_s, rate, probing, attempt)
            found.goodput = max(found.goodput, goodput)
            found.probes.append({"rate": round(rate, 1), "share_inside": round(share, 5), "goodput": round(goodput, 1)})
            say(f"  {arrivals.value:<8} {rate:7.0f}/s  {share:7.2%} inside {slo_s * 1000:.1f} ms")
            if share >= SHARE_INSIDE or share < _NEAR_MISS:
                return share >= SHARE_INSIDE
        return False

    found.rate = highest_rate(holds, start_rate, probing.bisections)
    return found


def _probe(
    target: Target, arrivals: Arrivals, slo_s: float, rate: float, probing: Probing, attempt: int
) -> tuple[float, float]:
    """(share inside, goodput) at one rate."""
    target.settle(slo_s * _SETTLED_WITHIN)
    answers = target.offer(schedule(arrivals, rate, probing.probe_s, probing.seed + attempt))
    return answers.share_inside(slo_s), answers.goodput(slo_s, probing.probe_s)


@dataclass(frozen=True, slots=True)
class Overload:
    """What happened at `overload_rate` for `duration_s`, and at `calm_rate` after it.

    `memory_mib`: proportional set size of the whole server, every two seconds.
    """

    answers: Answers
    duration_s: float
    slo_s: float
    memory_mib: list[float]

    @property
    def during(self) -> Answers:
        return self.answers.between(0.0, self.duration_s)

    @property
    def goodput(self) -> float:
        return self.during.goodput(self.slo_s, self.duration_s)

    @property
    def refused_p99_ms(self) -> float:
        """NaN when nobody was refused."""
        refused_s = self.during.refusal_latencies_s()
        return float(np.percentile(refused_s, 99)) * 1000 if len(refused_s) else float("nan")

    @property
    def lost(self) -> int:
        """Requests without any answer, or with one that is neither 200 nor a refusal."""
        return (
            len(self.during.status)
            - int(np.count_nonzero(self.during.status == 200))
            - len(self.during.refusal_latencies_s())
        )

    @property
    def recovery_s(self) -> float:
        return self.answers.recovery_s(self.duration_s, self.slo_s)

    @property
    def memory_growth_mib(self) -> float:
        """From the first third of the overload to the most there was after it: what is not bounded grows on."""
        third = max(1, len(self.memory_mib) // 3)
        return max(self.memory_mib[third:], default=0.0) - max(self.memory_mib[:third], default=0.0)


def overload(
    target: Target, child: Child, slo_s: float, overload_rate: float, calm_rate: float, duration_s: float, calm_s: float
) -> Overload:
    """Poisson arrivals at `overload_rate`, then, without a pause, at `calm_rate`. Raises `LoadFailed`."""
    times = one_after_the_other(
        (schedule(Arrivals.POISSON, overload_rate, duration_s, seed=1), duration_s),
        (schedule(Arrivals.POISSON, calm_rate, calm_s, seed=2), calm_s),
    )
    with _sampled(lambda: sum(child.pss_bytes().values()) / MIB) as memory_mib:
        answers = target.offer(times)
    return Overload(answers, duration_s, slo_s, memory_mib)


@contextmanager
def _sampled(value: Callable[[], float]) -> Iterator[list[float]]:
    """A list that a thread appends `value()` to, every two seconds."""
    samples: list[float] = []
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(_LOOK_EVERY_S):
            samples.append(round(value(), 1))

    thread = threading.Thread(target=look, name="memory")
    thread.start()
    try:
        yield samples
    finally:
        is_over.set()
        thread.join()
