"""How fast, and at what cost: the same load on Crossfade and on a peer, in turns, so that both see the same machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Protocol

from benchmarks.load import Load
from benchmarks.machine import QUIET_BELOW, Patience, cpu_use
from benchmarks.processes import Child
from benchmarks.progress import say
from benchmarks.servers import Server

PATIENCE_PER_ROUND_S = 10.0
MIN_ROUNDS = 2


class Meter(Protocol):
    """Tells the CPU seconds used so far, by kind of process."""

    def cpu_s(self) -> Mapping[str, float]: ...


@dataclass(frozen=True, slots=True)
class Contender:
    """`run` puts load on it for so many seconds. `path_kinds`: the processes that a request passes; none: all."""

    name: str
    meter: Meter
    path_kinds: frozenset[str]
    run: Callable[[int], Load]

    @classmethod
    def on(cls, server: Server, name: str, run: Callable[[int], Load]) -> Contender:
        return cls(name, server.child, server.path_kinds, run)


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn. CPU in microseconds per request: on the request's path, of all of the server, and by kind of process.

    `elsewhere`: the share of the machine that others used meanwhile.
    """

    per_second: float
    p50_us: float
    p99_us: float
    path_cpu_us: float
    all_cpu_us: float
    cpu_us_by_kind: Mapping[str, float]
    elsewhere: float

    @property
    def is_undisturbed(self) -> bool:
        return self.elsewhere < QUIET_BELOW


Samples = dict[str, list[Sample]]


def in_turns(
    contenders: Sequence[Contender],
    rounds: int,
    duration_s: int,
    patience_per_round_s: float = PATIENCE_PER_ROUND_S,
) -> Samples:
    """A B A B …; every contender is warmed up by one turn that does not count. Raises `LoadFailed`.

    A turn during which others used the machine is taken again when they rest, as long as patience lasts.
    """
    samples: Samples = {contender.name: [] for contender in contenders}
    meters = {id(contender.meter): contender.meter for contender in contenders}.values()
    servers = [
        meter for meter in meters if isinstance(meter, Child)
    ]  # what runs in this process is counted as ours anyway
    patience = Patience(servers, rounds * patience_per_round_s)
    for contender in contenders:
        contender.run(1)
    for number in range(1, rounds + 1):
        for contender in contenders:
            sample = _undisturbed_turn(contender, servers, duration_s, patience)
            samples[contender.name].append(sample)
            say(
                f"  round {number}/{rounds}  {contender.name:<20} {sample.per_second:>6.0f}/s"
                f"  p50 {sample.p50_us / 1000:5.2f} ms  CPU {sample.path_cpu_us:4.0f} µs/request"
                f"  others {sample.elsewhere:.0%}"
            )
    return samples


def middle(taken: Sequence[Sample], value: str) -> float:
    """The median of one value over a contender's turns, the disturbed ones left out if others remain."""
    undisturbed = [sample for sample in taken if sample.is_undisturbed]
    return float(median(getattr(sample, value) for sample in undisturbed or taken))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two contenders' turns, round by round. `rounds`: how many were taken, of which these are the undisturbed ones.

    When fewer than `MIN_ROUNDS` are, all are here.
    """

    ours: list[Sample]
    theirs: list[Sample]
    rounds: int

    @classmethod
    def of(cls, ours: Sequence[Sample], theirs: Sequence[Sample]) -> Pair:
        both = list(zip(ours, theirs, strict=True))
        undisturbed = [(our, their) for our, their in both if our.is_undisturbed and their.is_undisturbed]
        chosen = undisturbed if len(undisturbed) >= MIN_ROUNDS else both
        return cls([our for our, _ in chosen], [their for _, their in chosen], len(both))

    @property
    def remark(self) -> str:
        """What a reader must know about disturbed rounds; empty when there were none."""
        if not all(sample.is_undisturbed for sample in (*self.ours, *self.theirs)):
            return "; machine busy"
        return f"; {len(self.ours)} of {self.rounds} rounds, machine busy in the others" * (
            len(self.ours) < self.rounds
        )

    def middles(self, value: str) -> tuple[float, float]:
        """(ours, theirs), the medians."""
        return middle(self.ours, value), middle(self.theirs, value)

    def ratios(self, value: str) -> tuple[float, float]:
        """Ours over theirs: (ratio of the medians, median of the ratios round by round)."""
        our_middle, their_middle = self.middles(value)
        by_round = [
            getattr(our, value) / getattr(their, value) for our, their in zip(self.ours, self.theirs, strict=True)
        ]
        return our_middle / their_middle, float(median(by_round))


def numbers(samples: Samples) -> dict[str, list[dict[str, Any]]]:
    """For the JSON file: every turn of every contender."""
    return {name: [_rounded(asdict(sample)) for sample in taken] for name, taken in samples.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 3)


def _undisturbed_turn(contender: Contender, servers: Sequence[Child], duration_s: int, patience: Patience) -> Sample:
    """The least disturbed one when all are disturbed."""
    attempts = [_turn(contender, servers, duration_s)]
    while not attempts[-1].is_undisturbed and not patience.is_used_up:
        patience.wait_until_quiet()
        patience.spend(duration_s)
        attempts.append(_turn(contender, servers, duration_s))
    return min(attempts, key=lambda sample: sample.elsewhere)


def _turn(contender: Contender, servers: Sequence[Child], duration_s: int) -> Sample:
    machine_before = cpu_use(servers)
    before = contender.meter.cpu_s()
    load = contender.run(duration_s)
    after = contender.meter.cpu_s()
    elsewhere = cpu_use(servers).elsewhere_since(machine_before)
    used = {kind: (cpu_s - before.get(kind, 0.0)) / load.requests * 1e6 for kind, cpu_s in after.items()}
    path = contender.path_kinds or used.keys()
    on_path = sum(cpu_us for kind, cpu_us in used.items() if kind in path)
    return Sample(load.per_second, load.p50_us, load.p99_us, on_path, sum(used.values()), used, elsewhere)
