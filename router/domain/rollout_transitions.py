"""What a rollout does when something happens: a table of phase and event, and the rules that traffic moves by.

Every event is handled in two moves: its function takes it in, then `_settled` goes on as far as the state allows. The
rules:
- a split is in force when `TrafficApplied` says so; a step's clock starts then;
- no weight grows before the candidate is complete, and stable as well, for it is the way back;
- no traffic moves onto a deployment without a ready replica, backwards neither: rather hold, say why, and page;
- going back waits for an incomplete stable, but not for ever: a failing candidate is worse than a small stable;
- lack of evidence pauses, and never passes or fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from router.domain.analysis import Result
from router.domain.errors import Conflict
from router.domain.rollout import (
    AbortAsked,
    Announce,
    Event,
    Page,
    PauseAsked,
    PauseCause,
    Phase,
    PromoteAsked,
    Replicas,
    ReplicasObserved,
    ResumeAsked,
    Rollout,
    Split,
    Superseded,
    Ticked,
    TrafficApplied,
    Transition,
    VerdictReached,
)
from router.domain.rollout_commands import ROOM_WAIT_S, commands_of
from router.domain.strategy import Analyze, ForSeconds, Pause, SetMirror, SetWeight

AUTHOR = "crossfade"  # of what nobody asked for


def advance(rollout: Rollout, event: Event, now: datetime) -> Transition:
    """The rollout after the event. Raises `Conflict` when the event does not fit the phase."""
    handle = TRANSITIONS[rollout.phase].get(type(event))
    if handle is None:
        raise Conflict(f"a rollout that is {rollout.phase} cannot be {_ASKED.get(type(event), 'moved by that')}")
    after = _settled(handle(rollout, event, now), now)
    message = _told(rollout, after, event)
    if not message:
        return Transition(after, commands_of(after))
    after = replace(after, revision=rollout.revision + 1)
    is_urgent = after.phase in _GOING_BACK and after.holding and after.holding != rollout.holding
    kind = Page if is_urgent else Announce
    author = getattr(event, "by", AUTHOR)
    announcement = kind(after.revision, now, author, rollout.phase, after.phase, message)
    return Transition(after, commands_of(after), (announcement,))


# --- what an event says ---------------------------------------------------------------------------------------------


def _ticked(rollout: Rollout, event: Ticked, now: datetime) -> Rollout:
    return rollout


def _observed(rollout: Rollout, event: ReplicasObserved, now: datetime) -> Rollout:
    return replace(rollout, stable_replicas=event.stable, candidate_replicas=event.candidate)


def _observed_underway(rollout: Rollout, event: ReplicasObserved, now: datetime) -> Rollout:
    """An operator may scale meanwhile; and a candidate that is gone is a breaker that trips."""
    after = replace(
        _observed(rollout, event, now),
        stable_size=event.stable.wanted or rollout.stable_size,
        candidate_size=event.candidate.wanted or rollout.candidate_size,
    )
    has_requests = rollout.candidate in rollout.asked.deployments | rollout.in_force.deployments
    if has_requests and not event.candidate.ready:
        return _going_back(after, Phase.ROLLING_BACK, f"{rollout.candidate} has no ready replica any more", now)
    return after


def _applied(rollout: Rollout, event: TrafficApplied, now: datetime) -> Rollout:
    return replace(rollout, in_force=event.split)


def _judged(rollout: Rollout, event: VerdictReached, now: datetime) -> Rollout:
    after = replace(rollout, verdict=event.verdict)
    if event.verdict.result is Result.FAIL:
        return _going_back(after, Phase.ROLLING_BACK, event.verdict.reason, now)
    return after


def _paused(rollout: Rollout, event: PauseAsked, now: datetime) -> Rollout:
    return _at_rest(rollout, PauseCause.OPERATOR, f"paused by {event.by}")


def _resumed(rollout: Rollout, event: ResumeAsked, now: datetime) -> Rollout:
    """The step's clock starts again; a pause that is a step is over."""
    after = _moving(rollout, f"resumed by {event.by}")
    return _next_step(after, now) if rollout.pause is PauseCause.STEP else replace(after, step_since=now, verdict=None)


def _promoted(rollout: Rollout, event: PromoteAsked, now: datetime) -> Rollout:
    if event.is_full:
        after = _moving(rollout, f"promoted in full by {event.by}")
        return replace(after, step_index=len(rollout.strategy.steps), step_since=now, verdict=None)
    if not isinstance(rollout.step, (Pause, Analyze)):
        raise Conflict("the rollout moves traffic at this moment, and waits for nothing that could be skipped")
    return _next_step(_moving(rollout, f"promoted past {rollout.step} by {event.by}"), now)


def _aborted(rollout: Rollout, event: AbortAsked, now: datetime) -> Rollout:
    why = f": {event.reason}" if event.reason else ""
    return _going_back(rollout, Phase.ABORTING, f"aborted by {event.by}{why}", now)


def _superseded(rollout: Rollout, event: Superseded, now: datetime) -> Rollout:
    return replace(rollout, phase=Phase.SUCCEEDED, reason=f"{event.reason} by {event.by}")


# --- how far that lets it go ----------------------------------------------------------------------------------------


def _settled(rollout: Rollout, now: datetime) -> Rollout:
    """Go on until nothing more follows. Ends, because steps and phases only go forward here."""
    before: Rollout | None = None
    while rollout != before:
        before, rollout = rollout, _SETTLE.get(rollout.phase, _stay)(rollout, now)
    return rollout


def _stay(rollout: Rollout, now: datetime) -> Rollout:
    return rollout


def _settle_pending(rollout: Rollout, now: datetime) -> Rollout:
    needs = ((rollout.stable, rollout.stable_replicas, rollout.stable_size),) if not rollout.undoes else ()
    for name, replicas, size in (*needs, (rollout.candidate, rollout.candidate_replicas, rollout.candidate_size)):
        is_scaled = replicas.wanted >= size  # those that are still there of a larger past are about to end
        if not is_scaled or not replicas.is_complete:
            has = f"has {Replicas(replicas.ready, replicas.wanted)}"
            waiting = f"{name} {has if is_scaled else f'is to have {size} replicas, and is scaled up'}"
            if _elapsed_s(rollout, now) >= rollout.policy.max_wait_s:
                return _going_back(rollout, Phase.ROLLING_BACK, f"gave up waiting: {waiting}", now)
            return replace(rollout, holding=waiting)
    reason = rollout.reason or "both deployments are ready"
    return replace(rollout, phase=Phase.PROGRESSING, reason=reason, holding="", step_since=now)


def _settle_progressing(rollout: Rollout, now: datetime) -> Rollout:
    step = rollout.step
    match step:
        case SetWeight(percent):
            return _moved_forward(rollout, rollout.with_weight(percent), _next_step, now)
        case SetMirror(percent):
            return _moved_forward(rollout, rollout.with_weight(0, percent), _next_step, now)
        case Pause(ForSeconds(duration_s)):
            return _next_step(rollout, now) if _elapsed_s(rollout, now) >= duration_s else rollout
        case Pause():
            return _at_rest(rollout, PauseCause.STEP, "this step waits until it is promoted or resumed")
        case Analyze() as analyze:
            return _settle_analysis(rollout, analyze, now)
        case None:
            end = rollout.with_weight(100 if rollout.strategy.moves_traffic else 0)
            return _moved_forward(rollout, end, _finished, now)


def _settle_analysis(rollout: Rollout, analyze: Analyze, now: datetime) -> Rollout:
    elapsed_s, verdict = _elapsed_s(rollout, now), rollout.verdict
    if verdict and verdict.result is Result.PASS:
        return _next_step(rollout, now) if elapsed_s >= analyze.bake_s else rollout
    if elapsed_s >= max(analyze.bake_s, rollout.policy.max_wait_s):
        why = verdict.reason if verdict else "nothing was measured"
        return _at_rest(rollout, PauseCause.INCONCLUSIVE, f"no verdict after {elapsed_s:.0f} s: {why}")
    return rollout


def _settle_paused(rollout: Rollout, now: datetime) -> Rollout:
    """What was asked for before the pause may still come into force, but not once a side is lost."""
    has_way_back = rollout.undoes or rollout.stable_replicas.ready
    return rollout if rollout.candidate_replicas.ready and has_way_back else replace(rollout, asked=rollout.in_force)


def _settle_promoted(rollout: Rollout, now: datetime) -> Rollout:
    if _elapsed_s(rollout, now) < rollout.policy.keep_old_s:
        return rollout
    reason = f"{rollout.stable} was kept for {rollout.policy.keep_old_s:.0f} s and is scaled down"
    return replace(rollout, phase=Phase.RETIRING, reason=reason)


def _settle_retiring(rollout: Rollout, now: datetime) -> Rollout:
    if rollout.stable_replicas.wanted:
        return rollout
    return replace(rollout, phase=Phase.SUCCEEDED, reason=f"{rollout.candidate} has all the traffic")


def _settle_going_back(rollout: Rollout, now: datetime) -> Rollout:
    target, stable = rollout.all_on_stable, rollout.stable_replicas
    if rollout.in_force == target:
        ended = Phase.ROLLED_BACK if rollout.phase is Phase.ROLLING_BACK else Phase.ABORTED
        return replace(rollout, phase=ended, asked=target, holding="")
    if rollout.in_force.traffic != target.traffic:  # the end of a mirror moves nobody
        may_wait = rollout.candidate_replicas.ready and _elapsed_s(rollout, now) < ROOM_WAIT_S
        is_short = not stable.is_complete and may_wait and rollout.asked != target
        if not stable.ready or is_short:
            trouble = f"{rollout.stable} has {stable}, too few to take the traffic back"
            return replace(rollout, asked=rollout.in_force, holding=trouble)
    return replace(rollout, asked=target, holding="")


def _moved_forward(
    rollout: Rollout, wanted: Split, then: Callable[[Rollout, datetime], Rollout], now: datetime
) -> Rollout:
    if rollout.in_force == wanted == rollout.asked:
        return then(rollout, now)
    sides = {rollout.candidate: rollout.candidate_replicas}
    if not rollout.undoes:
        sides[rollout.stable] = rollout.stable_replicas
    is_asked = rollout.asked == wanted  # then only a total loss takes it back: a restart must not flap the traffic
    missing = [
        f"{name} has {side}"
        for name, side in sorted(sides.items())
        if not (side.ready if is_asked else side.is_complete)
    ]
    if missing and wanted != rollout.in_force:
        return replace(rollout, asked=rollout.in_force, holding=", ".join(missing))
    return replace(rollout, asked=wanted, holding="")


def _finished(rollout: Rollout, now: datetime) -> Rollout:
    if not rollout.strategy.moves_traffic:
        return replace(rollout, phase=Phase.SUCCEEDED, reason="the shadow ends, and no traffic was moved")
    reason = f"{rollout.candidate} has all the traffic; {rollout.stable} is kept for {rollout.policy.keep_old_s:.0f} s"
    return replace(rollout, phase=Phase.PROMOTED, reason=reason, step_since=now, holding="")


def _next_step(rollout: Rollout, now: datetime) -> Rollout:
    return replace(rollout, step_index=rollout.step_index + 1, step_since=now, verdict=None, holding="")


def _moving(rollout: Rollout, reason: str) -> Rollout:
    return replace(rollout, phase=Phase.PROGRESSING, pause=None, reason=reason)


def _at_rest(rollout: Rollout, cause: PauseCause, reason: str) -> Rollout:
    return replace(rollout, phase=Phase.PAUSED, pause=cause, reason=reason, holding="")


def _going_back(rollout: Rollout, phase: Phase, reason: str, now: datetime) -> Rollout:
    """What was asked for and not acknowledged may be in force by now, so that must be taken back, too."""
    return replace(rollout, phase=phase, pause=None, reason=reason, step_since=now, holding="", in_force=rollout.asked)


def _elapsed_s(rollout: Rollout, now: datetime) -> float:
    return (now - rollout.step_since).total_seconds()


def _told(old: Rollout, new: Rollout, event: Event) -> str:
    """What changed, for the audit; empty when nothing did that anybody must know."""
    said: list[str] = []
    if isinstance(event, TrafficApplied) and new.in_force != old.in_force:
        said.append(f"traffic {_shown(old.in_force)} → {_shown(new.in_force)}")
    if new.phase is not old.phase:
        said.append(f"{new.phase}: {new.reason}")
    if new.step_index != old.step_index and new.phase is Phase.PROGRESSING:
        number = f"{new.step_index + 1} of {len(new.strategy.steps)}"
        said.append(f"step {number}: {new.step}" if new.step else "all steps are done")
    if new.holding != old.holding:
        said.append(f"holding: {new.holding}" if new.holding else "goes on")
    return "; ".join(said)


def _shown(split: Split) -> str:
    traffic = " ".join(f"{name}={percent}" for name, percent in split.traffic.shares)
    return f"{traffic} (mirror {split.mirror.deployment}={split.mirror.percent})" if split.mirror else traffic


_GOING_BACK = (Phase.ROLLING_BACK, Phase.ABORTING)

_ASKED: Mapping[type, str] = MappingProxyType(
    {
        PauseAsked: "paused",
        ResumeAsked: "resumed",
        PromoteAsked: "promoted",
        AbortAsked: "aborted",
        Superseded: "followed by another one yet",
    }
)

_SETTLE: Mapping[Phase, Callable[[Rollout, datetime], Rollout]] = MappingProxyType(
    {
        Phase.PENDING: _settle_pending,
        Phase.PROGRESSING: _settle_progressing,
        Phase.PAUSED: _settle_paused,
        Phase.PROMOTED: _settle_promoted,
        Phase.RETIRING: _settle_retiring,
        Phase.ROLLING_BACK: _settle_going_back,
        Phase.ABORTING: _settle_going_back,
    }
)

Handler = Callable[[Rollout, Any, datetime], Rollout]  # each takes the event that it stands beside

TRANSITIONS: Mapping[Phase, Mapping[type[Event], Handler]] = MappingProxyType(
    {
        Phase.PENDING: {
            Ticked: _ticked,
            ReplicasObserved: _observed,
            TrafficApplied: _applied,
            AbortAsked: _aborted,
        },
        Phase.PROGRESSING: {
            Ticked: _ticked,
            ReplicasObserved: _observed_underway,
            TrafficApplied: _applied,
            VerdictReached: _judged,
            PauseAsked: _paused,
            PromoteAsked: _promoted,
            AbortAsked: _aborted,
        },
        Phase.PAUSED: {
            Ticked: _ticked,
            ReplicasObserved: _observed_underway,
            TrafficApplied: _applied,
            VerdictReached: _judged,
            ResumeAsked: _resumed,
            PromoteAsked: _promoted,
            AbortAsked: _aborted,
        },
        Phase.PROMOTED: {
            Ticked: _ticked,
            ReplicasObserved: _observed_underway,
            TrafficApplied: _applied,
            VerdictReached: _judged,
            Superseded: _superseded,
        },
        Phase.RETIRING: {
            Ticked: _ticked,
            ReplicasObserved: _observed,
            TrafficApplied: _applied,
            Superseded: _superseded,
        },
        Phase.ROLLING_BACK: {
            Ticked: _ticked,
            ReplicasObserved: _observed,
            TrafficApplied: _applied,
        },
        Phase.ABORTING: {
            Ticked: _ticked,
            ReplicasObserved: _observed,
            TrafficApplied: _applied,
        },
        Phase.SUCCEEDED: {},
        Phase.ROLLED_BACK: {},
        Phase.ABORTED: {},
    }
)
