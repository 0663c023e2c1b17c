"""Rollouts in memory: the real domain decides, the world obeys at once, and the test says what the evidence is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from router.desired import Desired
from router.domain.analysis import Result, Row, Verdict
from router.domain.errors import Conflict, NotFound
from router.domain.evidence import Answers
from router.domain.rollout import (
    AbortAsked,
    Announce,
    Event,
    PauseAsked,
    PromoteAsked,
    Replicas,
    ReplicasObserved,
    ResumeAsked,
    Rollout,
    RolloutSpec,
    Scale,
    Split,
    Standing,
    Superseded,
    Ticked,
    TrafficApplied,
    VerdictReached,
    start,
    undo,
)
from router.domain.rollout_commands import commands_of
from router.domain.rollout_transitions import advance
from router.domain.sequential import Tally
from router.ports import Store
from router.rollout_ports import Difference, Entry, Pairs


def verdict(result: Result, reason: str, *rows: Row, exposure_s: float = 0.0) -> VerdictReached:
    return VerdictReached(Verdict(result, reason, rows, exposure_s))


ERRORS = Row(
    "errors",
    Result.INCONCLUSIVE,
    "errors: 0.5% of 200 candidate requests failed, against stable's 0.1%; needs about 420 more candidate requests, "
    "about 3 min at this rate",
    Tally(12_000, 12),
    Tally(200, 1),
    0.004,
    0.021,
    0.005,
    1.7,
    1000.0,
)
UNSURE = verdict(Result.INCONCLUSIVE, ERRORS.sentence, ERRORS, exposure_s=0.2)
PASS = verdict(
    Result.PASS, "the candidate is as good as stable, within the margins", replace(ERRORS, result=Result.PASS)
)
FAIL = verdict(Result.FAIL, "20 of the candidate's last 20 requests failed", replace(ERRORS, result=Result.FAIL))
MINUTE = Ticked()  # in a script: a minute goes by


@dataclass
class MemoryRollouts:
    """Implements `Rollouts`. Traffic and sizes become true at once, unless the endpoint is `held`.

    `script`: what happens, one event at a time, whenever somebody waits for a change.
    """

    desired: Desired
    store: Store
    now: datetime
    held: set[str] = field(default_factory=set)
    script: list[Event] = field(default_factory=list)
    _rollouts: dict[str, list[Rollout]] = field(default_factory=dict)
    _trail: dict[str, list[Entry]] = field(default_factory=dict)

    async def start(self, spec: RolloutSpec, by: str) -> Rollout:
        state = self.desired.state(spec.endpoint)
        state.deployment(spec.candidate)
        if (old := self._last(spec.endpoint)) and not old.phase.is_decided:
            raise Conflict(f"a rollout of endpoint {spec.endpoint!r} to {old.candidate!r} is under way")
        endpoint = state.endpoint
        sizes = {name: deployed.spec.instance_count for name, deployed in state.deployments.items()}
        standing = Standing(Split(endpoint.traffic, endpoint.mirror), sizes)
        return self._begin(start(self._next_id(), spec, standing, by, self.now), by)

    async def pause(self, endpoint: str, by: str) -> Rollout:
        return self.happen(endpoint, PauseAsked(by))

    async def resume(self, endpoint: str, by: str) -> Rollout:
        return self.happen(endpoint, ResumeAsked(by))

    async def promote(self, endpoint: str, by: str, *, is_full: bool) -> Rollout:
        return self.happen(endpoint, PromoteAsked(by, is_full))

    async def abort(self, endpoint: str, by: str, reason: str = "") -> Rollout:
        return self.happen(endpoint, AbortAsked(by, reason))

    async def undo(self, endpoint: str, by: str) -> Rollout:
        return self._begin(undo(self.latest(endpoint), self._next_id(), by, self.now), by)

    def latest(self, endpoint: str) -> Rollout:
        self.desired.state(endpoint)
        if rollout := self._last(endpoint):
            return rollout
        raise NotFound("rollout of endpoint", endpoint)

    def history(self, endpoint: str) -> tuple[Rollout, ...]:
        return tuple(reversed(self._rollouts.get(endpoint, ())))

    def trail(self, endpoint: str, limit: int = 1000) -> tuple[Entry, ...]:
        return tuple(self._trail.get(endpoint, ())[-limit:])

    async def changed(self, endpoint: str, seen: Rollout, timeout_s: float) -> Rollout:
        if self.latest(endpoint) == seen:
            if self.script:
                return self.happen(endpoint, self.script.pop(0))
            await asyncio.sleep(min(timeout_s, 0.01))
        return self.latest(endpoint)

    def happen(self, endpoint: str, *events: Event) -> Rollout:
        """Each event, and what follows from it while the world obeys."""
        for event in events:
            if isinstance(event, Ticked):
                self.now += timedelta(minutes=1)
            self._advance(endpoint, event)
            self._obey(endpoint)
        return self.latest(endpoint)

    def end(self, endpoint: str, by: str) -> None:
        """As `MakesWay` wants it."""
        is_decided = self.latest(endpoint).phase.is_decided
        self.happen(endpoint, Superseded(by) if is_decided else AbortAsked(by))

    def _begin(self, rollout: Rollout, by: str) -> Rollout:
        endpoint = rollout.endpoint
        if (old := self._last(endpoint)) and not old.phase.is_terminal:
            self._advance(endpoint, Superseded(by))
        self._rollouts.setdefault(endpoint, []).append(rollout)
        self.desired.publish_rollout(rollout)
        told = Announce(
            1, self.now, by, rollout.phase, rollout.phase, f"started: {rollout.stable} → {rollout.candidate}"
        )
        self._trail.setdefault(endpoint, []).append(Entry(rollout.id, endpoint, told))
        self._obey(endpoint)
        return self.latest(endpoint)

    def _advance(self, endpoint: str, event: Event) -> None:
        transition = advance(self.latest(endpoint), event, self.now)
        self._rollouts[endpoint][-1] = transition.rollout
        self.desired.publish_rollout(transition.rollout)
        entries = [Entry(transition.rollout.id, endpoint, what) for what in transition.announcements]
        self._trail.setdefault(endpoint, []).extend(entries)

    def _obey(self, endpoint: str) -> None:
        """Do what the rollout asks for until it asks for nothing new."""
        if endpoint in self.held:
            return
        while True:
            before = self.latest(endpoint)
            if before.phase.is_terminal:
                return
            self._make_true(before)
            seen = self._replicas(before)
            if seen != ReplicasObserved(before.stable_replicas, before.candidate_replicas):
                self._advance(endpoint, seen)
            elif before.in_force != before.asked:
                self._advance(endpoint, TrafficApplied(before.asked))
            else:
                return

    def _make_true(self, rollout: Rollout) -> None:
        state = self.desired.state(rollout.endpoint)
        asked = replace(state.endpoint, traffic=rollout.asked.traffic, mirror=rollout.asked.mirror)
        new = state.with_endpoint(asked)
        for command in commands_of(rollout):
            if isinstance(command, Scale):
                deployed = new.deployment(command.deployment)
                sized = replace(deployed.spec, instance_count=command.instance_count)
                new = new.with_deployment(replace(deployed, spec=sized))
        if new != state:
            new = replace(new, revision=state.revision + 1)
            self.store.save([new], [])
            self.desired.publish([new], [])

    def _replicas(self, rollout: Rollout) -> ReplicasObserved:
        state = self.desired.state(rollout.endpoint)
        counts = [state.deployment(name).spec.instance_count for name in (rollout.stable, rollout.candidate)]
        stable, candidate = (Replicas(count, count) for count in counts)
        return ReplicasObserved(stable, candidate)

    def _last(self, endpoint: str) -> Rollout | None:
        return self._rollouts[endpoint][-1] if self._rollouts.get(endpoint) else None

    def _next_id(self) -> str:
        return f"r{sum(len(items) for items in self._rollouts.values()) + 1}"


class TwoPairs:
    """Implements `Comparer`: two of a hundred pairs differ."""

    def compare(self, endpoint: str, stable: str, candidate: str) -> None:
        return

    def stop(self, endpoint: str) -> None:
        return

    def pairs(self, endpoint: str) -> Pairs:
        return Pairs(Answers(100, 2), Answers(50, 0), mirrored=105, arrived=100)

    def differences(self, endpoint: str, limit: int) -> tuple[Difference, ...]:
        at = datetime.fromisoformat("2026-01-02T12:00:00+00:00")
        return tuple(
            Difference(f"request-{number}", at, "top class 3 → 7", _answer(3), _answer(7)) for number in (2, 1)
        )[:limit]


def _answer(top: int) -> Mapping[str, str]:
    return {"scores": f"top class {top} (0.91)"}
