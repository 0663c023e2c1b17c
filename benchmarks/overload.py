"""More load than the model can do: how much of what is answered is still of use. A simulation in simulated time.

    python -m benchmarks.overload

The batcher's own core (serving/batching.py) runs against a model that takes what a real one took: the wide MLP on one
thread and magika, with 10 % of noise. Requests come as a Poisson process, or in bursts, at multiples of the highest
rate that the model can do. Prints goodput: answers within the objective, per second, as a share of that highest rate.
Nothing here depends on this machine's speed.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from serving.batching import BatchQueue
from serving.errors import Overloaded
from serving.lanes import Lanes
from serving.latency import LatencyTable
from serving.limits import BatchLimits
from serving.work import Batch, Outcome, Work

WIDE_MLP = {1: 0.00195, 2: 0.0020, 4: 0.00235, 8: 0.00334, 16: 0.00512, 32: 0.00725, 64: 0.01155}
MAGIKA = {1: 0.0045, 8: 0.0346, 16: 0.0692, 32: 0.1384, 64: 0.2768}  # joining does not pay
NOISE = 0.1


@dataclass
class Result:
    """`latencies_s` of those answered; `refused_after_s` of those that were not. Both beside the time of arrival."""

    seconds: float
    offered: int = 0
    answered: list[tuple[float, float]] = field(default_factory=list)
    refused: list[tuple[float, float]] = field(default_factory=list)
    most_waiting: int = 0

    def goodput(self, objective_s: float) -> float:
        """Answers within the objective, per second."""
        return sum(latency_s <= objective_s for _, latency_s in self.answered) / self.seconds


def poisson(rate: float, seconds: float, seed: int, start_s: float = 0.0) -> Iterator[float]:
    generator = random.Random(seed)
    now_s = start_s
    while (now_s := now_s + generator.expovariate(rate)) < start_s + seconds:
        yield now_s


def bursts(rate: float, seconds: float, seed: int, size: int = 32) -> Iterator[float]:
    """`size` at a time, at the same rate over all."""
    for at_s in poisson(rate / size, seconds, seed):
        yield from (at_s for _ in range(size))


def capacity(latency_s: Mapping[int, float]) -> float:
    """The highest rate, in rows a second, in batches of the best size."""
    return max(rows / seconds for rows, seconds in latency_s.items())


def simulate(
    latency_s: Mapping[int, float],
    arrivals: Iterator[float],
    seconds: float,
    objective_s: float,
    timeout_s: float = 5.0,
    max_waiting: int = 1000,
    seed: int = 1,
) -> Result:
    """One slot, one row a request, every request with the same deadline after `timeout_s`, as Envoy sets it."""
    noise = random.Random(seed)
    truth = LatencyTable(latency_s, max(latency_s))
    queue = BatchQueue(
        BatchLimits(max(latency_s), max_waiting, objective_s), Lanes(LatencyTable(latency_s, max(latency_s)))
    )
    result = Result(seconds)
    running: list[tuple[float, float, Batch]] = []
    wake_s = math.inf
    next_s = next(arrivals, math.inf)
    while next_s < math.inf or running or len(queue):
        done_s = running[0][0] if running else math.inf
        now_s = min(next_s, done_s, wake_s)
        if now_s == done_s:
            _, started_s, batch = heapq.heappop(running)
            batch.lane.table.observe(batch.rows, now_s - started_s)
            queue.ended(batch, now_s)
            result.answered += [(work.enqueued_s, now_s - work.enqueued_s) for work in batch.works]
        elif now_s == next_s:
            result.offered += 1
            next_s = next(arrivals, math.inf)
            try:
                queue.add(Work({}, ("y",), 1, now_s + timeout_s, now_s, _nobody))
            except Overloaded:
                result.refused.append((now_s, 0.0))
            result.most_waiting = max(result.most_waiting, len(queue))
        wake_s = math.inf
        if not running:
            batch_or_none, expired = queue.take(now_s)
            result.refused += [(work.enqueued_s, now_s - work.enqueued_s) for work in expired]
            wake_s = queue.deadline()
            if batch_or_none is not None:
                took_s = truth.typical_s(batch_or_none.rows) * noise.uniform(1 - NOISE, 1 + NOISE)
                heapq.heappush(running, (now_s + took_s, now_s, batch_or_none))
    return result


def _nobody(_: Outcome) -> None:
    """Nobody waits for the answer."""


def _percentile(values: list[float], percent: float) -> float:
    return sorted(values)[int(len(values) * percent / 100)] if values else 0.0


def main() -> None:
    seconds = 10.0
    for name, latency_s, objective_s in (("wide MLP", WIDE_MLP, 0.05), ("magika", MAGIKA, 0.05)):
        highest = capacity(latency_s)
        print(f"{name}: {highest:.0f} rows/s at most, objective {objective_s * 1e3:.0f} ms, {seconds:.0f} s")
        for kind, make in (("poisson", poisson), ("bursts of 32", bursts)):
            for load in (0.5, 0.8, 0.9, 1.0, 1.2, 2.0, 3.0):
                result = simulate(latency_s, make(load * highest, seconds, 7), seconds, objective_s)
                latencies = [latency_s for _, latency_s in result.answered]
                late = sum(waited_s > 0 for _, waited_s in result.refused)
                print(
                    f"  {kind:12} {load:4.1f}x  goodput {result.goodput(objective_s) / highest:4.0%}"
                    f"  answered {len(latencies) / result.offered:4.0%}  p50 {_percentile(latencies, 50) * 1e3:7.1f} ms"
                    f"  p99 {_percentile(latencies, 99) * 1e3:7.1f} ms  refused after waiting {late:4}"
                    f"  waiting {result.most_waiting:4} at most"
                )


if __name__ == "__main__":
    main()
