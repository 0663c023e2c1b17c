"""The course of one rollout: look, decide, save, do. Decides nothing itself; the domain does.

Everything that happens to a rollout goes through `_take`, one event at a time: the domain's answer is saved with its
announcements in one transaction before anybody hears of it and before anything is done. What is to be done is derived
from what was saved and may be done again, so a process that dies in between loses no step and takes none twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from router.admin_ports import Reconciling
from router.commits import Commits
from router.domain.analysis import judge
from router.domain.endpoint import EndpointState
from router.domain.errors import CrossfadeError, StoreFailed
from router.domain.evidence import Evidence
from router.domain.policy import CustomMetric
from router.domain.rollout import Announce, ApplyTraffic, Command, Event, Rollout, Scale, Ticked, VerdictReached
from router.domain.rollout_commands import commands_of, wake_at
from router.domain.rollout_transitions import advance
from router.domain.routing import Shield
from router.domain.strategy import Analyze
from router.plan_commands import plan_scale, plan_traffic
from router.ports import Meter
from router.rollout_ports import Comparer, Measures, RolloutStore
from router.rollouts.clock import Clock
from router.rollouts.observation import (
    Seen,
    is_candidate_known,
    is_compared,
    must_be_saved,
    next_event,
    report_between,
    split_asked,
)
from router.rollouts.telling import Teller
from router.rules import Rules
from router.spec.changes import TrafficChange

_EVIDENCE_SAVED_EVERY = timedelta(seconds=1)
_RETRY_AFTER = timedelta(seconds=1)
_SHIELD_MARGIN = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every rollout needs of the rest of the control plane."""

    store: RolloutStore
    commits: Commits
    reconciling: Reconciling
    meter: Meter
    comparer: Comparer
    measures: Measures
    teller: Teller
    clock: Clock


class Course:
    """Belongs to one event loop. `moved` is told of every new state, after it was saved."""

    def __init__(
        self, rollout: Rollout, evidence: Evidence, surroundings: Surroundings, moved: Callable[[Rollout], None]
    ) -> None:
        self.rollout = rollout
        self.evidence = evidence
        self._surroundings = surroundings
        self._moved = moved
        self._endpoint = rollout.endpoint
        self._seen = self._look_at_meter()
        self._saved_evidence = evidence
        self._saved_at = surroundings.clock.now()
        self._retry_at: datetime | None = None
        self._trouble = ""
        self._is_report_due = True  # so that evidence begins before any weight does
        self._knows_candidate = False
        self._news = asyncio.Event()
        self._lock = asyncio.Lock()

    # -- from outside

    def wake(self) -> None:
        """Something may have changed."""
        self._news.set()

    def report(self) -> None:
        """It is time to weigh what the meter has counted."""
        self._is_report_due = True
        self._news.set()

    async def ask(self, event: Event) -> Rollout:
        """Returns when it is saved. Raises `Conflict` when the event does not fit the phase, or `StoreFailed`."""
        async with self._lock:
            await self._take(event)
        self._news.set()
        return self.rollout

    async def conduct(self) -> None:
        """Until the rollout has ended, or its endpoint is gone."""
        async with asyncio.TaskGroup() as tasks:
            measuring = [tasks.create_task(self._measure(metric)) for metric in self.rollout.policy.metrics]
            while self._is_present and not self.rollout.phase.is_terminal:
                self._news.clear()
                await self.look()
                if not self.rollout.phase.is_terminal:
                    await self._surroundings.clock.wait(self._news, self._next_moment())
            for measurement in measuring:
                measurement.cancel()
        if self._is_present or self._state() is None:
            self._surroundings.comparer.stop(self._endpoint)
        await self._lower_shield(self._surroundings.clock.now())

    async def look(self) -> None:
        """Take in what is new, and do what follows."""
        async with self._lock:
            self._retry_at = None
            try:
                await self._weigh()
                await self._take_what_is_new()
                await self._perform()
                await self._keep_evidence()
            except StoreFailed as error:
                self._hindered(f"cannot save the rollout: {error}")
            else:
                if self._retry_at is None:
                    self._trouble = ""

    # -- what is seen

    @property
    def _is_present(self) -> bool:
        """The endpoint is there, and no other rollout of it began."""
        present = self._surroundings.commits.desired.rollout(self._endpoint)
        return present is not None and present.id == self.rollout.id

    def _state(self) -> EndpointState | None:
        return self._surroundings.commits.desired.states.get(self._endpoint)

    def _look_at_meter(self) -> Seen:
        surroundings = self._surroundings
        totals = surroundings.meter.totals(self._endpoint)
        return Seen.of(self.rollout, totals, surroundings.comparer.pairs(self._endpoint))

    async def _weigh(self) -> None:
        """Add to the evidence what was counted since the last look, under the weight that was in force."""
        if not self._is_report_due:
            return
        self._is_report_due = False
        now, rollout = self._surroundings.clock.now(), self.rollout
        before, self._seen = self._seen, self._look_at_meter()
        if rollout.phase.is_terminal:
            return
        report = report_between(before, self._seen)
        self.evidence = self.evidence.observed(
            report, rollout.weight_percent, rollout.mirror_percent, rollout.policy, now
        )
        if rollout.phase.is_judged:
            arguments = (self.evidence, rollout.policy, now)
            verdict = judge(*arguments, rollout.step) if isinstance(rollout.step, Analyze) else judge(*arguments)
            await self._take(VerdictReached(verdict))

    async def _take_what_is_new(self) -> None:
        while (state := self._state()) is not None:
            status = self._surroundings.reconciling.endpoint_status(self._endpoint)
            self._knows_candidate = self._knows_candidate or is_candidate_known(self.rollout, status)
            now = self._surroundings.clock.now()
            event = next_event(self.rollout, state, status, now, knows_candidate=self._knows_candidate)
            if event is None:
                return
            before = self.rollout
            await self._take(event)
            if isinstance(event, Ticked) and self.rollout == before:
                return

    async def _measure(self, metric: CustomMetric) -> None:
        """Sample a metric of the user's own. What was begun at another weight says nothing about this one."""
        clock, never = self._surroundings.clock, asyncio.Event()
        while True:
            due = clock.now() + timedelta(seconds=metric.every_s)
            if self.rollout.phase.is_judged:
                epoch = self.evidence.epoch.number
                measurement = await self._surroundings.measures.measure(self.rollout, metric)
                if self.evidence.epoch.number == epoch:
                    self.evidence = self.evidence.measured(measurement, self.rollout.policy)
            while clock.now() < due:
                await clock.wait(never, due)

    # -- what is saved

    async def _take(self, event: Event) -> None:
        """Save what follows from the event, then let it be known."""
        before = self.rollout
        transition = advance(before, event, self._surroundings.clock.now())
        if transition.announcements or must_be_saved(before, transition.rollout):
            await self._save(transition.rollout, transition.announcements)
        self.rollout = transition.rollout
        if self.rollout != before and self._is_present:
            self._moved(self.rollout)
            self._surroundings.teller.tell(self.rollout, transition.announcements)

    async def _keep_evidence(self) -> None:
        is_new = self.evidence is not self._saved_evidence and self.evidence != self._saved_evidence
        if is_new and self._surroundings.clock.now() - self._saved_at >= _EVIDENCE_SAVED_EVERY:
            await self._save(self.rollout, ())

    async def _save(self, rollout: Rollout, announcements: Collection[Announce]) -> None:
        evidence = self.evidence
        await asyncio.to_thread(self._surroundings.store.save_rollout, rollout, evidence, announcements)
        self._saved_evidence, self._saved_at = evidence, self._surroundings.clock.now()

    # -- what is done

    async def _perform(self) -> None:
        """Make true what the rollout asks for, as far as it is not. What cannot be done is tried again."""
        rollout, comparer = self.rollout, self._surroundings.comparer
        if is_compared(rollout):
            comparer.compare(self._endpoint, rollout.stable, rollout.candidate)
        else:
            comparer.stop(self._endpoint)
        for command in commands_of(rollout):
            try:
                await self._do(command)
            except CrossfadeError as error:
                self._hindered(f"cannot do what the rollout asks for, and tries again: {error}")
                return

    async def _do(self, command: Command) -> None:
        state, commits = self._state(), self._surroundings.commits
        if state is None:
            return
        match command:
            case ApplyTraffic(split, is_shielded):
                self._set_shield(is_shielded)
                if split_asked(state) != split:
                    change = TrafficChange(split.traffic, split.mirror)
                    await commits.commit_one(self._endpoint, lambda state: plan_traffic(state, change, Rules()))
            case Scale(deployment, instance_count):
                spec = state.deployment(deployment).spec
                if spec.scale_settings is None and spec.instance_count != instance_count:
                    await commits.commit_one(
                        self._endpoint, lambda state: plan_scale(state, deployment, instance_count)
                    )

    def _set_shield(self, is_up: bool) -> None:
        desired = self._surroundings.commits.desired
        if desired.set_shield(self._endpoint, shield_of(self.rollout) if is_up else None):
            self._surroundings.reconciling.endpoint_changed(self._endpoint)

    async def _lower_shield(self, ended_at: datetime) -> None:
        """When the last request that may need it is over."""
        clock = self._surroundings.clock
        while self._is_present and (state := self._state()) is not None:
            until = shield_ends_at(self.rollout, state, ended_at)
            if clock.now() >= until:
                self._set_shield(False)
                return
            self._news.clear()
            await clock.wait(self._news, until)

    def _hindered(self, trouble: str) -> None:
        self._retry_at = self._surroundings.clock.now() + _RETRY_AFTER
        if trouble != self._trouble and self._is_present:
            self._trouble = trouble
            self._surroundings.teller.trouble(self.rollout, trouble)

    def _next_moment(self) -> datetime | None:
        """When to look again although nothing was heard."""
        moment = wake_at(self.rollout)
        now = self._surroundings.clock.now()
        if moment is not None and moment <= now:  # it was looked at just now, and waits for something else
            moment = now + _RETRY_AFTER
        return min((at for at in (moment, self._retry_at) if at is not None), default=None)


def shield_of(rollout: Rollout) -> Shield:
    return Shield(candidate=rollout.candidate, stable=rollout.stable)


def shield_ends_at(rollout: Rollout, state: EndpointState, ended_at: datetime) -> datetime:
    """A request that the candidate got just before the rollout ended may need its shield until then."""
    candidate = state.deployments.get(rollout.candidate)
    timeout_ms = candidate.spec.request_settings.request_timeout_ms if candidate else 0
    return ended_at + timedelta(milliseconds=timeout_ms) + _SHIELD_MARGIN
