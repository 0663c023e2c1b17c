"""The engine: every rollout of every endpoint, what operators ask of them, and what wakes them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from router.domain.comparable import COMPARABLE_HINT, why_not_compared
from router.domain.errors import Conflict, NotFound
from router.domain.evidence import Evidence
from router.domain.measurement import Totals
from router.domain.rollout import (
    AbortAsked,
    Announce,
    ApplyTraffic,
    Event,
    PauseAsked,
    Phase,
    PromoteAsked,
    ResumeAsked,
    Rollout,
    RolloutSpec,
    Standing,
    Superseded,
    start,
    undo,
)
from router.domain.rollout_commands import commands_of
from router.domain.rollout_transitions import advance
from router.rollout_ports import Entry
from router.rollouts.course import Course, Surroundings, shield_ends_at, shield_of
from router.rollouts.observation import split_asked, split_in_force

_LOOK_EVERY_S = 1.0  # at evidence, when nothing is reported
_GONE_BACK_WITHIN_S = 40.0  # an abort waits up to 30 s for stable's replicas

T = TypeVar("T")


class RolloutEngine:
    """Implements `Rollouts` and `MakesWay`. Belongs to one event loop.

    Built before anything is routed: it puts up the shields of the rollouts that a restart interrupted. `run` goes on
    with them, and needs to know first which replicas live.
    """

    def __init__(self, surroundings: Surroundings, new_id: Callable[[], str] = lambda: secrets.token_hex(4)) -> None:
        """Raises `StoreFailed`."""
        self._surroundings = surroundings
        self._desired = surroundings.commits.desired
        self._new_id = new_id
        self._courses: dict[str, Course] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._under_way: set[asyncio.Task[Any]] = set()
        self._moved = asyncio.Event()  # replaced each time it is set
        remembered = {rollout.id: (rollout, evidence) for rollout, evidence in surroundings.store.load_rollouts()}
        for rollout, _ in remembered.values():
            self._desired.publish_rollout(rollout)
        for endpoint in self._desired.states:
            latest = self._desired.rollout(endpoint)
            if latest is None:
                continue
            is_shielded = self._is_shielded(latest)
            if is_shielded:
                self._desired.set_shield(endpoint, shield_of(latest))
            if is_shielded or not latest.phase.is_terminal:
                self._courses[endpoint] = self._course(*remembered[latest.id])

    async def run(self) -> None:
        """Does not return."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for course in self._courses.values():
                tasks.create_task(course.conduct())
            tasks.create_task(self._follow_reports())
            tasks.create_task(self._follow_status())

    async def _follow_reports(self) -> None:
        while True:
            await self._surroundings.meter.reported(_LOOK_EVERY_S)
            for course in self._courses.values():
                course.report()

    async def _follow_status(self) -> None:
        while True:
            await self._surroundings.reconciling.status_changed()
            for course in self._courses.values():
                course.wake()

    # -- Rollouts

    async def start(self, spec: RolloutSpec, by: str) -> Rollout:
        return await self._whole(self._begin(spec.endpoint, lambda: self._started(spec, by), by))

    async def undo(self, endpoint: str, by: str) -> Rollout:
        return await self._whole(self._begin(endpoint, lambda: self._undone(endpoint, by), by))

    async def pause(self, endpoint: str, by: str) -> Rollout:
        return await self._ask(endpoint, PauseAsked(by))

    async def resume(self, endpoint: str, by: str) -> Rollout:
        return await self._ask(endpoint, ResumeAsked(by))

    async def promote(self, endpoint: str, by: str, *, is_full: bool) -> Rollout:
        return await self._ask(endpoint, PromoteAsked(by, is_full))

    async def abort(self, endpoint: str, by: str, reason: str = "") -> Rollout:
        return await self._ask(endpoint, AbortAsked(by, reason))

    def latest(self, endpoint: str) -> Rollout:
        self._desired.state(endpoint)
        rollout = self._desired.rollout(endpoint)
        if rollout is None:
            raise NotFound("rollout of endpoint", endpoint)
        return rollout

    def history(self, endpoint: str) -> tuple[Rollout, ...]:
        self.latest(endpoint)
        return self._desired.rollouts(endpoint)

    def trail(self, endpoint: str, limit: int = 1000) -> tuple[Entry, ...]:
        self.latest(endpoint)
        return self._surroundings.store.trail(endpoint, limit)

    async def changed(self, endpoint: str, seen: Rollout, timeout_s: float) -> Rollout:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.latest(endpoint) == seen:
                    await self._moved.wait()
        return self.latest(endpoint)

    # -- MakesWay

    async def make_way(self, endpoint: str, by: str) -> None:
        rollout = self.latest(endpoint)
        if rollout.phase.is_terminal:
            return
        if rollout.phase.is_decided:
            await self._ask(endpoint, Superseded(by, "a change was made by hand"))
            return
        if rollout.phase not in (Phase.ROLLING_BACK, Phase.ABORTING):
            rollout = await self.abort(endpoint, by, "a change was forced")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GONE_BACK_WITHIN_S):
                while not (rollout := self.latest(endpoint)).phase.is_terminal:
                    await self._moved.wait()
        if not rollout.phase.is_terminal:
            raise Conflict(f"the rollout was aborted, and has not gone back yet ({rollout}): try again when it has")

    # -- how they begin

    async def _begin(self, endpoint: str, decided: Callable[[], Rollout], by: str) -> Rollout:
        """`decided` raises when it cannot begin. It is asked twice: what ends another rollout must not be in vain."""
        decided()
        before = self._desired.rollout(endpoint)
        if before is not None and not before.phase.is_terminal:
            await self._ask(endpoint, Superseded(by))
        async with self._surroundings.commits.held():
            rollout = decided()
            evidence = Evidence.of_baseline(self._totals(rollout), rollout.policy)
            message = rollout.reason or f"{rollout.strategy.name} from {rollout.stable} to {rollout.candidate}"
            now = self._surroundings.clock.now()
            began = Announce(rollout.revision, now, by, rollout.phase, rollout.phase, f"started: {message}")
            await asyncio.to_thread(self._surroundings.store.save_rollout, rollout, evidence, (began,))
            self._take_over(rollout, evidence)
        self._surroundings.teller.tell(rollout, (began,))
        return rollout

    def _take_over(self, rollout: Rollout, evidence: Evidence) -> None:
        before = self._courses.get(rollout.endpoint)
        self._publish(rollout)
        course = self._courses[rollout.endpoint] = self._course(rollout, evidence)
        if before is not None:
            before.wake()  # so that it sees that it is not the present one any more
        if self._tasks is not None:
            self._tasks.create_task(course.conduct())

    def _started(self, spec: RolloutSpec, by: str) -> Rollout:
        state = self._desired.state(spec.endpoint)
        state.deployment(spec.candidate)
        present = self._desired.rollout(spec.endpoint)
        if present is not None and not present.phase.is_decided:
            raise Conflict(
                f"rollout {present.id} of endpoint {spec.endpoint!r} from {present.stable!r} to {present.candidate!r} "
                f"is under way ({present}): wait until it has ended, or abort it"
            )
        in_force = split_in_force(self._surroundings.reconciling.endpoint_status(spec.endpoint))
        if in_force != split_asked(state):
            raise Conflict("the traffic that was asked for is not in force yet: wait until it is")
        sizes = {name: deployed.spec.least_instances for name, deployed in state.deployments.items()}
        started = start(self._new_id(), spec, Standing(in_force, sizes), by, self._surroundings.clock.now())
        sides = (state.deployment(name).spec for name in (started.stable, started.candidate))
        if reason := why_not_compared(spec.strategy, sides):
            raise Conflict(f"{reason}: {COMPARABLE_HINT}")
        return started

    def _undone(self, endpoint: str, by: str) -> Rollout:
        state, present = self._desired.state(endpoint), self.latest(endpoint)
        back = undo(present, self._new_id(), by, self._surroundings.clock.now())
        if split_asked(state) != present.in_force:
            raise Conflict(
                f"the traffic was changed since rollout {present.id}: start a rollout to {present.stable!r} instead"
            )
        state.deployment(present.stable)
        return back

    # -- small things

    async def _ask(self, endpoint: str, event: Event) -> Rollout:
        rollout, course = self.latest(endpoint), self._courses.get(endpoint)
        if course is None or rollout.phase.is_terminal:
            advance(rollout, event, self._surroundings.clock.now())  # says why it does not fit
            raise Conflict(f"rollout {rollout.id} has ended")
        return await self._whole(course.ask(event))

    async def _whole(self, change: Coroutine[Any, Any, T]) -> T:
        """Run to the end even when the caller is cancelled: what is saved must be known."""
        task = asyncio.create_task(change)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    def _course(self, rollout: Rollout, evidence: Evidence) -> Course:
        return Course(rollout, evidence, self._surroundings, self._publish)

    def _publish(self, rollout: Rollout) -> None:
        self._desired.publish_rollout(rollout)
        self._moved.set()
        self._moved = asyncio.Event()

    def _totals(self, rollout: Rollout) -> Totals:
        return self._surroundings.meter.totals(rollout.endpoint).get(rollout.stable, Totals())

    def _is_shielded(self, rollout: Rollout) -> bool:
        """By what it asks for; or it ended so shortly before a restart that a request may still be under way."""
        if not rollout.phase.is_terminal:
            return any(isinstance(command, ApplyTraffic) and command.is_shielded for command in commands_of(rollout))
        last = self._surroundings.store.trail(rollout.endpoint, 1)
        if not last or not rollout.policy.shield:
            return False
        ends_at = shield_ends_at(rollout, self._desired.state(rollout.endpoint), last[0].what.at)
        return self._surroundings.clock.now() < ends_at
