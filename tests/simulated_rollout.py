"""Rollouts over simulated traffic: counts per look instead of requests, so that thousands fit into seconds."""

import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from router.domain.analysis import Result, judge
from router.domain.evidence import Evidence, Report
from router.domain.measurement import Latencies, Totals
from router.domain.policy import Policy
from router.domain.rollout import (
    ApplyTraffic,
    Phase,
    Replicas,
    ReplicasObserved,
    Rollout,
    RolloutSpec,
    Split,
    Standing,
    Ticked,
    TrafficApplied,
    VerdictReached,
    start,
)
from router.domain.rollout_commands import commands_of
from router.domain.rollout_transitions import advance
from router.domain.strategy import Analyze, Strategy, canary
from router.domain.traffic import Traffic

T0 = datetime(2026, 1, 1, tzinfo=UTC)
BOUNDS_MS = (10.0, 15.0, 20.0, 25.0, 35.0, 50.0, 70.0, 100.0)


def lognormal(median_ms: float, spread: float = 0.5) -> tuple[float, ...]:
    """How likely a duration falls into each bucket."""
    reached = [0.5 * math.erfc(-math.log(bound / median_ms) / spread / math.sqrt(2)) for bound in BOUNDS_MS]
    return tuple(b - a for a, b in zip((0.0, *reached), (*reached, 1.0), strict=True))


def binomial(chance: random.Random, of: int, rate: float) -> int:
    """By geometric gaps where hits are rare, else by the normal approximation (a mean of 30 or more)."""
    if of <= 0 or rate <= 0:
        return 0
    if rate > 0.5:
        return of - binomial(chance, of, 1 - rate)
    mean = of * rate
    if mean >= 30:
        return min(of, max(0, round(chance.gauss(mean, math.sqrt(mean * (1 - rate))))))
    hits, position, scale = 0, 0, math.log1p(-rate)
    while True:
        position += 1 + int(math.log(1 - chance.random()) / scale)
        if position > of:
            return hits
        hits += 1


def multinomial(chance: random.Random, of: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    counts, rest = [], 1.0
    for share in shares[:-1]:
        count = binomial(chance, of, min(1.0, share / rest)) if rest > 1e-12 else 0
        counts.append(count)
        of, rest = of - count, rest - share
    return (*counts, of)


@dataclass(frozen=True)
class Bursts:
    """Each deployment, by itself, now and then fails a share of its requests for the length of a look."""

    per_s: float
    error_rate: float


@dataclass(frozen=True)
class World:
    """What the traffic and the two deployments are like."""

    requests_per_s: float = 300.0
    stable_errors: float = 0.001
    candidate_errors: float = 0.001
    stable_ms: tuple[float, ...] = lognormal(20)
    candidate_ms: tuple[float, ...] = lognormal(20)
    bursts: Bursts | None = None
    look_s: float = 2.0
    misrouted: float = 1.0  # the candidate's share is this many times what was configured
    strategy: Strategy = field(default_factory=canary)
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class Outcome:
    rollout: Rollout
    evidence: Evidence
    seconds: float

    @property
    def phase(self) -> Phase:
        return self.rollout.phase


def run(world: World, seed: int) -> Outcome:
    """Walk a rollout to its decision, or until it pauses, judging at every look."""
    chance = random.Random(seed)
    spec = RolloutSpec("fraud", "green", world.strategy, world.policy)
    blue = Split(Traffic.of({"blue": 100}))
    rollout = start("r1", spec, Standing(blue, {"blue": 1, "green": 1}), "ann", T0)
    rollout = advance(rollout, ReplicasObserved(Replicas(1, 1), Replicas(1, 1)), T0).rollout
    evidence = Evidence.of_baseline(_totals(chance, world, 5000, world.stable_errors, world.stable_ms), world.policy)
    now = T0
    while not rollout.phase.is_decided and rollout.phase is not Phase.PAUSED:
        for command in commands_of(rollout):
            if isinstance(command, ApplyTraffic) and command.split != rollout.in_force:
                rollout = advance(rollout, TrafficApplied(command.split), now).rollout
        if rollout.phase is not Phase.PROGRESSING:
            continue
        now += timedelta(seconds=world.look_s)
        report = _report(chance, world, rollout)
        evidence = evidence.observed(report, rollout.weight_percent, rollout.mirror_percent, world.policy, now)
        step = rollout.step if isinstance(rollout.step, Analyze) else Analyze(0, 0)
        verdict = judge(evidence, world.policy, now, step)
        rollout = advance(rollout, VerdictReached(verdict), now).rollout
        if rollout.phase is Phase.PROGRESSING and verdict.result is not Result.FAIL:
            rollout = advance(rollout, Ticked(), now).rollout
    return Outcome(rollout, evidence, (now - T0).total_seconds())


def _report(chance: random.Random, world: World, rollout: Rollout) -> Report:
    requests = _arrivals(chance, world.requests_per_s * world.look_s)
    mirrored = binomial(chance, requests, rollout.mirror_percent / 100 * world.misrouted)
    live = binomial(chance, requests, rollout.weight_percent / 100 * world.misrouted)
    candidate = _totals(chance, world, mirrored + live, world.candidate_errors, world.candidate_ms)
    stable = _totals(chance, world, requests - live, world.stable_errors, world.stable_ms)
    return Report(stable, candidate)


def _arrivals(chance: random.Random, mean: float) -> int:
    return binomial(chance, max(1, round(mean * 10)), mean / max(1, round(mean * 10))) if mean else 0


def _totals(
    chance: random.Random, world: World, requests: int, error_rate: float, durations: tuple[float, ...]
) -> Totals:
    if world.bursts and chance.random() < world.bursts.per_s * world.look_s:
        error_rate = max(error_rate, world.bursts.error_rate)
    errors = binomial(chance, requests, error_rate)
    return Totals(requests, errors, Latencies(BOUNDS_MS, multinomial(chance, requests - errors, durations)))
