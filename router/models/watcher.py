"""The watcher: asks sources what watched references name, and does what `router.domain.watch_transitions` says.

One task for each endpoint, one step at a time: look at what is in service, decide, act. What follows from an event is
saved before anybody hears of it, and what is to be done is derived from what was saved, so a process that dies in
between begins no rollout twice. A source's trouble stays the watcher's: it is told, and whoever serves goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from router.desired import Desired
from router.domain.errors import Conflict, CrossfadeError, Invalid, ModelUnavailable, StoreFailed
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.model_tree import ModelTree, TreeFile
from router.domain.rollout import Phase, Rollout, RolloutSpec
from router.domain.watch_transitions import advance, begin, next_command, resumed, waits_for, wake_at
from router.domain.watching import (
    Accepted,
    Begin,
    Begun,
    CameSpoilt,
    Consent,
    Ended,
    Event,
    Failed,
    Hindered,
    InService,
    Known,
    Look,
    Named,
    Outcome,
    Prepare,
    Prepared,
    Ready,
    Refused,
    Rolling,
    Terms,
    Transition,
    Unmoved,
    Vanished,
    Watched,
)
from router.events import EventLog
from router.models.ports import AdmissionRefused, Resolution, SourceUnavailable
from router.models.succession import sole, successor
from router.models.watch_ports import Hears, Notice, Spoilt, Standing, Supply, Wanted, WatchStore
from router.operations import Operations
from router.rollout_ports import Rollouts
from router.rollouts.clock import Clock

log = logging.getLogger("crossfade")

_LOOK_EVERY = timedelta(seconds=1)  # at the control plane's own state, which is in memory
_ANSWER_WITHIN_S = 60.0  # a source that takes longer to say what a reference names does not answer
_TIMES_SAVED_EVERY = timedelta(minutes=5)
_SAVE_AGAIN_AFTER = timedelta(seconds=5)

_OUTCOMES = {
    Phase.SUCCEEDED: Outcome.SUCCEEDED,
    Phase.ROLLED_BACK: Outcome.ROLLED_BACK,
    Phase.ABORTED: Outcome.ABORTED,
}


@dataclass(frozen=True, slots=True)
class WatchSurroundings:
    """What watching needs of the rest of the control plane. `gateway`: tells gateways that ask one source apart."""

    supply: Supply
    store: WatchStore
    operations: Operations
    rollouts: Rollouts
    events: EventLog
    hears: Hears
    clock: Clock
    gateway: str

    @property
    def desired(self) -> Desired:
        return self.operations.desired


class Watcher:
    """Implements `Watching`. Belongs to one event loop; `run` must be running."""

    def __init__(self, surroundings: WatchSurroundings) -> None:
        """Raises `StoreFailed`."""
        self._surroundings = surroundings
        self._remembered = {watched.endpoint: watched for watched in surroundings.store.load_watched()}
        self._lookouts: dict[str, _Lookout] = {}

    async def run(self) -> None:
        """Does not return."""
        clock, never = self._surroundings.clock, asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            while True:
                for name, state in self._surroundings.desired.states.items():
                    if state.endpoint.watch is not None and name not in self._lookouts:
                        lookout = _Lookout(name, self._remembered.pop(name, None), self._surroundings)
                        self._lookouts[name] = lookout
                        tasks.create_task(self._keep(lookout))
                await clock.wait(never, clock.now() + _LOOK_EVERY)

    async def _keep(self, lookout: _Lookout) -> None:
        """Until the endpoint is gone, or not watched any more; what is barred is remembered as long as it is there."""
        await lookout.run()
        del self._lookouts[lookout.endpoint]
        if lookout.watched is not None and lookout.endpoint in self._surroundings.desired.states:
            self._remembered[lookout.endpoint] = lookout.watched

    def standings(self) -> tuple[Standing, ...]:
        found = (self._lookouts[name].standing() for name in sorted(self._lookouts))
        return tuple(standing for standing in found if standing is not None)

    def standing(self, endpoint: str) -> Standing:
        standing = self._lookout(endpoint).standing()
        if standing is None:
            raise Conflict(f"endpoint {endpoint!r} has no deployment with all the traffic yet, whose model is watched")
        return standing

    async def accept(self, endpoint: str, consent: Consent) -> Standing:
        await self._lookout(endpoint).accept(consent)
        return self.standing(endpoint)

    def _lookout(self, endpoint: str) -> _Lookout:
        state = self._surroundings.desired.state(endpoint)
        lookout = self._lookouts.get(endpoint)
        if state.endpoint.watch is None or lookout is None:
            raise Conflict(f"endpoint {endpoint!r} is not watched: give its spec a watch, such as {{policy: manual}}")
        return lookout


class _Lookout:
    """One endpoint's. `watched` is None until one deployment has all the traffic."""

    def __init__(self, endpoint: str, watched: Watched | None, surroundings: WatchSurroundings) -> None:
        self.endpoint = endpoint
        self.watched = watched
        self._saved = watched
        self._surroundings = surroundings
        self._clock = surroundings.clock
        self._jitter = _jitter(f"{surroundings.gateway}/{endpoint}")
        self._news = asyncio.Event()
        self._lock = asyncio.Lock()
        if watched is not None and (terms := self._terms()):
            self.watched = resumed(watched, terms, self._clock.now())

    async def run(self) -> None:
        while self._terms() is not None:
            self._news.clear()
            try:
                until = await self._step()
            except StoreFailed as error:
                self._surroundings.events.publish("watch_failed", f"{self.endpoint}: {error}", endpoint=self.endpoint)
                until = self._clock.now() + _SAVE_AGAIN_AFTER
            await self._clock.wait(self._news, until)

    async def accept(self, consent: Consent) -> None:
        if self.watched is None:
            raise Conflict(f"endpoint {self.endpoint!r}: nothing was seen yet: try again in a moment")
        await self._take(Accepted(consent))
        self._news.set()

    def standing(self) -> Standing | None:
        terms, watched, now = self._terms(), self.watched, self._clock.now()
        if terms is None or watched is None:
            return None
        return Standing(watched, terms, now, waits_for(watched, terms, now, is_free=self._is_free()))

    async def _step(self) -> datetime:
        """Take in what is new, do what is due. Returns when to look again."""
        await self._take_what_is_new()
        terms, watched, now = self._terms(), self.watched, self._clock.now()
        if terms is None or watched is None:
            return now + _LOOK_EVERY
        command = next_command(watched, terms, now, is_free=self._is_free())
        if command is None:
            return min(now + _LOOK_EVERY, wake_at(watched, terms, now))
        ref = ModelRef.parse(watched.ref)
        match command:
            case Look(seen):
                await self._take(await self._looked(ref, seen))
            case Prepare(may_change_signature):
                await self._take(await self._prepared(ref, may_change_signature))
            case Begin(model, by):
                await self._begin(ref, model, by, terms)
        return self._clock.now()

    # -- what is seen

    def _terms(self) -> Terms | None:
        state = self._surroundings.desired.states.get(self.endpoint)
        watch = state.endpoint.watch if state else None
        return None if watch is None else Terms(watch, self._jitter)

    def _rollout(self) -> Rollout | None:
        return self._surroundings.desired.rollout(self.endpoint)

    def _is_free(self) -> bool:
        """One that still keeps the old deployment counts as under way: the way back is not taken from it."""
        rollout = self._rollout()
        state = self._surroundings.desired.states.get(self.endpoint)
        is_over = rollout is None or rollout.phase.is_terminal
        live = sole(state) if state is not None else None
        return is_over and live is not None and not live.spec.is_elsewhere

    async def _take_what_is_new(self) -> None:
        if self.watched is not None and (event := self._of_rollout(self.watched)):
            await self._take(event)
        if not self._is_free():
            return
        live = sole(self._surroundings.desired.state(self.endpoint))
        assert live is not None
        ref, digest = live.spec.reference, live.content.sha256
        known = Known(self._surroundings.supply.revision_of(ref, digest), digest, version=live.model_version)
        await self._take(InService(str(ref), known))

    def _of_rollout(self, watched: Watched) -> Event | None:
        rollout = self._rollout()
        match watched.stage:
            case Rolling(_, number):
                if rollout is not None and rollout.id != number:  # another one came after it
                    history = self._surroundings.desired.rollouts(self.endpoint)
                    rollout = next((item for item in history if item.id == number), None)
                if rollout is None:
                    return Ended(number, Outcome.LOST)
                if rollout.phase.is_terminal:
                    return Ended(number, _OUTCOMES[rollout.phase], rollout.reason)
            case Ready(model, since):
                # It was begun before this process died, or by an operator.
                if rollout is not None and self._is_to(rollout, model) and _is_present(rollout, since):
                    return Begun(rollout.id)
        return None

    def _is_to(self, rollout: Rollout, model: Known) -> bool:
        state = self._surroundings.desired.states.get(self.endpoint)
        candidate = state.deployments.get(rollout.candidate) if state else None
        return candidate is not None and candidate.model_sha256 == model.digest

    # -- what is done

    async def _looked(self, ref: ModelRef, seen: str) -> Event:
        supply = self._surroundings.supply
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                if seen and not await supply.has_moved(ref, seen):
                    return Unmoved(seen)
                return Named(_known(await supply.resolve(ref)))
        except TimeoutError:
            return Failed(f"no answer within {_ANSWER_WITHIN_S:.0f} s")
        except Exception as error:
            return _failed(error)

    async def _prepared(self, ref: ModelRef, may_change_signature: bool) -> Event:
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                resolution = await self._surroundings.supply.resolve(ref)
            state = self._surroundings.desired.state(self.endpoint)
            spec = successor(state, resolution.version, self._rollout())
        except TimeoutError:
            return Failed(f"no answer within {_ANSWER_WITHIN_S:.0f} s")
        except Exception as error:
            return _failed(error)
        try:
            model = await self._surroundings.supply.prepare(Wanted(resolution, spec, state, may_change_signature))
        except AdmissionRefused as error:
            return Refused(_known(resolution), str(error))
        except Spoilt as error:
            return CameSpoilt(_known(resolution), str(error))
        except Exception as error:
            return _failed(error)
        return Prepared(_known(resolution, model))

    async def _begin(self, ref: ModelRef, model: Known, by: str, terms: Terms) -> None:
        """Deploying what is deployed changes nothing, and a rollout that has begun is found (`_of_rollout`)."""
        recipe = terms.watch.rollout
        try:
            state = self._surroundings.desired.state(self.endpoint)
            resolved = await self._surroundings.supply.fetched(ref, model.digest)
            spec = successor(state, model.version, self._rollout(), resolved)
            await self._surroundings.operations.deploy(spec, resolved, by=by)
            asked = RolloutSpec(self.endpoint, spec.name, recipe.strategy, recipe.policy)
            event: Event = Begun((await self._surroundings.rollouts.start(asked, by)).id)
        except StoreFailed:
            raise
        except ModelUnavailable as error:
            event = Vanished(str(error))
        except CrossfadeError as error:
            event = Hindered(str(error))
        with contextlib.suppress(Conflict):  # an operator asked for something else meanwhile
            await self._take(event)

    # -- what is saved

    def _must_be_saved(self, watched: Watched) -> bool:
        """Looks that find nothing new only move times on: those are saved now and then, each save is a sync."""
        saved = self._saved
        if saved is None or replace(watched, answered_at=saved.answered_at, next_at=saved.next_at) != saved:
            return True
        if watched.answered_at is None or saved.answered_at is None:
            return watched.answered_at != saved.answered_at
        return watched.answered_at - saved.answered_at >= _TIMES_SAVED_EVERY

    async def _take(self, event: Event) -> None:
        """Save what follows from the event, then let it be known."""
        async with self._lock:
            terms, now, before = self._terms(), self._clock.now(), self.watched
            if terms is None:
                return
            if before is None:
                assert isinstance(event, InService)
                transition = Transition(begin(self.endpoint, event, terms, now))
            else:
                transition = advance(before, event, terms, now)
            if transition.watched == before:
                return
            if self._must_be_saved(transition.watched):
                await asyncio.to_thread(self._surroundings.store.save_watched, transition.watched)
                self._saved = transition.watched
            self.watched = transition.watched
        for item in transition.news:
            self._surroundings.events.publish(item.kind, f"{self.endpoint}: {item.message}", endpoint=self.endpoint)
            if urls := terms.watch.rollout.policy.notify:
                self._surroundings.hears.hear(Notice(self.endpoint, urls, item))


def _known(resolution: Resolution, model: ResolvedModel | None = None) -> Known:
    digest = model.sha256 if model else _vouched(resolution)
    return Known(resolution.revision, digest, resolution.pinned, resolution.version)


def _vouched(resolution: Resolution) -> str:
    """The digest as the source says it is, "" when it does not say. Enough to recognise a model, not to trust it."""
    files = resolution.files
    if not files or not all(file.sha256 and file.size >= 0 for file in files):
        return ""
    try:
        return ModelTree.of(TreeFile(file.path, file.size, file.sha256) for file in files).digest
    except Invalid:
        return ""  # told when it is fetched


def _failed(error: Exception) -> Failed:
    """Whatever a source does wrong is a line in the event log."""
    if not isinstance(error, CrossfadeError):
        log.error("watching a model failed", exc_info=error)
    retry_after_s = error.retry_after_s if isinstance(error, SourceUnavailable) else 0.0
    return Failed(str(error) or type(error).__name__, retry_after_s)


def _is_present(rollout: Rollout, since: datetime) -> bool:
    return not rollout.phase.is_terminal or rollout.started_at >= since


def _jitter(name: str) -> float:
    """From 0 to 1, always the same for a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2.0**48
