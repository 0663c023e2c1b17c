"""How fast, and at what cost: the same load on Crossfade and on a peer, in turns, so that both see the same machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.load import Load
from benchmarks.progress import say
from benchmarks.servers import Server


@dataclass(frozen=True, slots=True)
class Contender:
    """`run` puts load on `server` for so many seconds."""

    name: str
    server: Server
    run: Callable[[int], Load]


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn. CPU in microseconds per request: of the processes on the request's path, and of all the server's."""

    per_second: float
    p50_us: float
    p99_us: float
    path_cpu_us: float
    all_cpu_us: float


Samples = dict[str, list[Sample]]


def in_turns(contenders: Sequence[Contender], rounds: int, duration_s: int) -> Samples:
    """A B A B …; every contender is warmed up by one turn that does not count. Raises `LoadFailed`."""
    samples: Samples = {contender.name: [] for contender in contenders}
    for contender in contenders:
        contender.run(1)
    for number in range(1, rounds + 1):
        for contender in contenders:
            sample = _turn(contender, duration_s)
            samples[contender.name].append(sample)
            say(
                f"  round {number}/{rounds}  {contender.name:<32} {sample.per_second:>7.0f}/s"
                f"  p50 {sample.p50_us / 1000:.2f} ms  CPU {sample.path_cpu_us:.0f} µs/request"
            )
    return samples


def middle(samples: Samples, name: str, value: str) -> float:
    """The median of one value over a contender's turns."""
    return float(median(getattr(sample, value) for sample in samples[name]))


def ratios(samples: Samples, ours: str, theirs: str, value: str) -> tuple[float, float]:
    """Ours over theirs: (ratio of the medians, median of the ratios round by round)."""
    pairs = zip(samples[ours], samples[theirs], strict=True)
    by_round = [getattr(our, value) / getattr(their, value) for our, their in pairs]
    return middle(samples, ours, value) / middle(samples, theirs, value), median(by_round)


def numbers(samples: Samples) -> dict[str, list[dict[str, Any]]]:
    """For the JSON file: every turn of every contender."""
    fields = Sample.__slots__
    return {
        name: [{field: round(getattr(sample, field), 1) for field in fields} for sample in taken]
        for name, taken in samples.items()
    }


def _turn(contender: Contender, duration_s: int) -> Sample:
    path_before, all_before = contender.server.cpu_s()
    load = contender.run(duration_s)
    path_after, all_after = contender.server.cpu_s()
    return Sample(
        load.per_second,
        load.p50_us,
        load.p99_us,
        (path_after - path_before) / load.requests * 1e6,
        (all_after - all_before) / load.requests * 1e6,
    )
