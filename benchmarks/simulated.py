"""The batcher's own core (serving/batching.py) in simulated time, against a model that takes what a real one took.

Nothing here depends on this machine's speed. One slot, and a row a request.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from serving.batching import BatchQueue
from serving.errors import Overloaded
from serving.lanes import Lane, Lanes
from serving.latency import LatencyTable
from serving.queue_limits import BatchLimits
from serving.work import Batch, Outcome, Work

Latencies = Mapping[int, float]  # rows → seconds of one run

WIDE_MLP: Latencies = {1: 0.0016, 2: 0.0018, 4: 0.0022, 8: 0.0030, 16: 0.0043, 32: 0.0068, 64: 0.0109}
MAGIKA: Latencies = {1: 0.0045, 8: 0.0346, 16: 0.0692, 32: 0.1384, 64: 0.2768}  # joining does not pay


@dataclass(frozen=True, slots=True)
class Noise:
    """Runs vary by `share` (log-normal), and `slow_share` of them take `slow_times` as long."""

    share: float = 0.05
    slow_share: float = 0.01
    slow_times: float = 2.0

    def factor(self, generator: random.Random) -> float:
        factor = math.exp(generator.gauss(0.0, self.share))
        return factor * self.slow_times if generator.random() < self.slow_share else factor


QUIET = Noise()


@dataclass
class Result:
    """`answered`: when each came, and its latency. `refused`: when each came, and how long it waited to be told."""

    seconds: float
    offered: int = 0
    answered: list[tuple[float, float]] = field(default_factory=list)
    refused: list[tuple[float, float]] = field(default_factory=list)
    most_waiting: int = 0
    batches: int = 0

    def goodput(self, objective_s: float) -> float:
        """Answers within the objective, per second."""
        return sum(latency_s <= objective_s for _, latency_s in self.answered) / self.seconds

    def inside(self, objective_s: float) -> float:
        """The share of all requests that were answered within the objective."""
        return self.goodput(objective_s) * self.seconds / max(self.offered, 1)

    def percentile_s(self, percent: float) -> float:
        """Of the latencies of those that were answered."""
        latencies = sorted(latency_s for _, latency_s in self.answered)
        return latencies[int(len(latencies) * percent / 100)] if latencies else 0.0


class Queue(Protocol):
    """What decides: `BatchQueue`, or a rule to compare it with."""

    def __len__(self) -> int: ...
    def add(self, work: Work) -> None: ...
    def take(self, now_s: float) -> tuple[Batch | None, Sequence[Work]]: ...
    def ended(self, batch: Batch, now_s: float) -> None: ...
    def deadline(self) -> float: ...


class WhateverWaits:
    """Runs at once whatever waits, up to `max_rows`, first come first served: Triton's rule when it does not delay."""

    def __init__(self, latency_s: Latencies) -> None:
        self._max_rows = max(latency_s)
        self._lane = Lane(LatencyTable(latency_s, self._max_rows))
        self._waiting: list[Work] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: Work) -> None:
        self._waiting.append(work)

    def take(self, now_s: float) -> tuple[Batch | None, Sequence[Work]]:
        works, self._waiting = self._waiting[: self._max_rows], self._waiting[self._max_rows :]
        return (Batch(self._lane, works, len(works)) if works else None), ()

    def ended(self, batch: Batch, now_s: float) -> None:
        """It keeps no account."""

    def deadline(self) -> float:
        return math.inf


class Clients(Protocol):
    """Who sends requests. `next_s`: when the next one comes."""

    @property
    def next_s(self) -> float: ...
    def sent(self) -> None: ...
    def told(self, now_s: float) -> None: ...


class Open:
    """Requests that come when they come, whatever becomes of the others."""

    def __init__(self, arrivals_s: Iterator[float]) -> None:
        self._arrivals_s = arrivals_s
        self.next_s = next(arrivals_s, math.inf)

    def sent(self) -> None:
        self.next_s = next(self._arrivals_s, math.inf)

    def told(self, now_s: float) -> None:
        """They do not wait for one another."""


class Closed:
    """`count` clients, each of which sends its next request when it has been told about its last, until `until_s`.

    The way there and back takes `transport_s` of another core, one after the other, and `think_s` more.
    """

    def __init__(self, count: int, until_s: float, think_s: float = 0.0003, transport_s: float = 0.00005) -> None:
        self._until_s = until_s
        self._think_s = think_s
        self._transport_s = transport_s
        self._random = random.Random(count)
        self._free_s = 0.0
        self._coming_s: list[float] = []
        for _ in range(count):
            self.told(0.0)

    @property
    def next_s(self) -> float:
        return self._coming_s[0] if self._coming_s else math.inf

    def sent(self) -> None:
        heapq.heappop(self._coming_s)

    def told(self, now_s: float) -> None:
        self._free_s = max(self._free_s, now_s) + self._transport_s
        comes_s = self._free_s + self._think_s * self._random.uniform(0.8, 1.2)
        if comes_s < self._until_s:
            heapq.heappush(self._coming_s, comes_s)


def poisson(rate: float, seconds: float, seed: int, start_s: float = 0.0) -> Iterator[float]:
    generator = random.Random(seed)
    now_s = start_s
    while (now_s := now_s + generator.expovariate(rate)) < start_s + seconds:
        yield now_s


def bursts(rate: float, seconds: float, seed: int, size: int = 32) -> Iterator[float]:
    """`size` at a time, at the same rate over all."""
    for at_s in poisson(rate / size, seconds, seed):
        yield from (at_s for _ in range(size))


def on_and_off(rate: float, seconds: float, seed: int, phase_s: float = 0.1) -> Iterator[float]:
    """Poisson at twice the rate for `phase_s`, then nothing for as long, and so on."""
    for at_s in poisson(2 * rate, seconds / 2, seed):
        yield at_s + at_s // phase_s * phase_s


def capacity(latency_s: Latencies) -> float:
    """The highest rate, in rows a second, in batches of the best size."""
    return max(rows / seconds for rows, seconds in latency_s.items())


def our_queue(latency_s: Latencies, objective_s: float, is_binding: bool = True, max_waiting: int = 1000) -> BatchQueue:
    max_rows = max(latency_s)
    limits = BatchLimits(max_rows, max_waiting, objective_s, is_binding=is_binding)
    return BatchQueue(limits, Lanes(LatencyTable(latency_s, max_rows)))


def simulate(
    queue: Queue, latency_s: Latencies, clients: Clients, seconds: float, timeout_s: float = 5.0, noise: Noise = QUIET
) -> Result:
    """Until nobody sends any more and everybody has been told. All requests have the same timeout, as Envoy sets it."""
    generator = random.Random(1)
    truth = LatencyTable(latency_s, max(latency_s))
    result = Result(seconds)
    running: tuple[float, float, Batch] | None = None  # until, since, what
    wake_s = math.inf
    while clients.next_s < math.inf or running or len(queue):
        done_s = running[0] if running else math.inf
        now_s = min(clients.next_s, done_s, wake_s)
        if running and now_s == done_s:
            _, started_s, batch = running
            running = None
            batch.lane.table.observe(batch.rows, now_s - started_s)
            queue.ended(batch, now_s)
            result.batches += 1
            for work in batch.works:
                result.answered.append((work.enqueued_s, now_s - work.enqueued_s))
                clients.told(now_s)
        elif now_s == clients.next_s:
            result.offered += 1
            clients.sent()
            try:
                queue.add(Work({}, ("y",), 1, now_s + timeout_s, now_s, _nobody))
            except Overloaded:
                result.refused.append((now_s, 0.0))
                clients.told(now_s)
            result.most_waiting = max(result.most_waiting, len(queue))
        wake_s = math.inf
        if running is None:
            following, expired = queue.take(now_s)
            for work in expired:
                result.refused.append((work.enqueued_s, now_s - work.enqueued_s))
                clients.told(now_s)
            wake_s = queue.deadline()
            if following is not None:
                running = (now_s + truth.typical_s(following.rows) * noise.factor(generator), now_s, following)
    return result


def _nobody(_: Outcome) -> None:
    """Nobody waits for the answer."""
