"""What follows from what, for a watched reference: the table, and what is to be done next. Pure.

The reference is asked for its revision every `every` seconds, a little earlier or later for each endpoint, and less and
less often while the source does not answer. Staleness is told, and nothing else: what serves goes on serving.

    Unseen ──► Current ──► Moved ──► Ready ──► Rolling ──► Current
                            │          │          └──► Stopped   rolled back, or aborted
                            └──────────┴─────────────► Stopped   refused, or barred before; until the reference moves
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from router.domain.errors import Conflict
from router.domain.watching import (
    MAX_BARRED,
    MAX_SPOILT,
    Accepted,
    Barred,
    Begin,
    Begun,
    CameSpoilt,
    Command,
    Current,
    Ended,
    Event,
    Failed,
    Hindered,
    InService,
    Known,
    Look,
    Moved,
    Named,
    News,
    Outcome,
    Prepare,
    Prepared,
    Ready,
    Refused,
    Rolling,
    Stage,
    Stopped,
    Terms,
    Transition,
    Unmoved,
    Unseen,
    Vanished,
    Watched,
    WatchPolicy,
)

AUTHOR = "crossfade"  # of what nobody asked for
MAX_BACKOFF_S = 3600.0
MAX_RETRY_AFTER_S = 86400.0  # so long a source may ask to be left alone
_JITTER = 0.1  # a fraction of every pause, to either side
_HINDERED_S = 30.0  # after a rollout could not begin


def begin(endpoint: str, seen: InService, terms: Terms, now: datetime) -> Watched:
    """A reference that nobody has looked at yet. Endpoints do not all ask at once after a restart."""
    first = min(terms.watch.every_s, 10.0) * terms.jitter
    return Watched(endpoint, seen.ref, seen.model, now + timedelta(seconds=first))


def resumed(watched: Watched, terms: Terms, now: datetime) -> Watched:
    """After a restart: nobody waits longer than the spec says now, and not all ask at once."""
    latest = now + timedelta(seconds=min(terms.watch.every_s, 10.0) * terms.jitter)
    return watched if watched.failures else replace(watched, next_at=min(watched.next_at, latest))


def advance(watched: Watched, event: Event, terms: Terms, now: datetime) -> Transition:
    """Raises `Conflict` for what does not fit; its words are for the operator, who alone may ask at any time."""
    handle = TRANSITIONS[type(watched.stage)].get(type(event))
    if handle is None:
        raise Conflict(f"endpoint {watched.endpoint!r}: {_WHY_NOT[type(watched.stage)]}")
    after = handle(watched, event, terms, now)
    kind, message = _told(watched, after, terms)
    if not message:
        return Transition(after)
    after = replace(after, revision=watched.revision + 1)
    return Transition(after, (News(kind, after.revision, now, message),))


def next_command(watched: Watched, terms: Terms, now: datetime, *, is_free: bool) -> Command | None:
    """What is due now. `is_free`: no rollout is under way, and one deployment has all the traffic."""
    stage = watched.stage
    if isinstance(stage, Ready) and is_free and now >= stage.try_at and (author := _author(stage, terms, now)):
        return Begin(stage.model, author)
    is_due = now >= watched.next_at
    if isinstance(stage, Moved) and is_free and _is_wanted(stage, terms) and (is_due or not watched.failures):
        return Prepare(stage.consent is not None and stage.consent.may_change_signature)
    return Look(watched.seen) if is_due else None


def wake_at(watched: Watched, terms: Terms, now: datetime) -> datetime:
    """When to ask `next_command` again if nothing else happens."""
    stage, window = watched.stage, terms.watch.window
    if not isinstance(stage, Ready):
        return watched.next_at
    moments = [watched.next_at, stage.try_at]
    if window is not None and terms.watch.policy is WatchPolicy.AUTO:
        moments.append(window.opens_at(now))
    return min((moment for moment in moments if moment > now), default=watched.next_at)


def waits_for(watched: Watched, terms: Terms, now: datetime, *, is_free: bool) -> str:
    """Why another model does not get traffic, in words; empty when it does, and when there is none."""
    stage = watched.stage
    needs_yes = f"waits for somebody's yes: crossfade model accept {watched.endpoint}"
    match stage:
        case Moved() if not _is_wanted(stage, terms):
            return needs_yes
        case Ready() if not _author(stage, terms, now):
            return (
                f"waits for its window, {terms.watch.window}" if terms.watch.policy is WatchPolicy.AUTO else needs_yes
            )
        case Moved() | Ready() if not is_free:
            return "waits until one deployment has all the traffic and no rollout is under way"
        case Ready(hindrance=hindrance):
            return hindrance
        case _:
            return ""


def _author(stage: Ready, terms: Terms, now: datetime) -> str:
    """In whose name a rollout may begin now; empty when it may not."""
    if stage.consent:
        return stage.consent.by
    window = terms.watch.window
    is_time = terms.watch.policy is WatchPolicy.AUTO and (window is None or window.is_open(now))
    return AUTHOR if is_time else ""


def _is_wanted(stage: Moved, terms: Terms) -> bool:
    """Whether the model is fetched without another word."""
    return stage.consent is not None or terms.watch.policy is not WatchPolicy.NOTIFY


# --- what an event says ---------------------------------------------------------------------------------------------


def _in_service(watched: Watched, event: InService, terms: Terms, now: datetime) -> Watched:
    """Another reference begins anew, and what was barred stays so. Another model: somebody moved the traffic by hand,
    so if the reference still names what was in service, that is not brought back by itself."""
    before, model, stage = watched.service, event.model, watched.stage
    if event.ref != watched.ref:
        fresh = begin(watched.endpoint, event, terms, now)
        return replace(fresh, barred=watched.barred, revision=watched.revision)
    if before.digest == model.digest:
        return replace(watched, service=_joined(model, before))
    if isinstance(stage, Moved | Ready | Stopped) and not stage.model.is_same(model):
        return replace(watched, service=model)
    return replace(watched, service=model, left=before, stage=Unseen(), next_at=now)


def _in_service_meanwhile(watched: Watched, event: InService, terms: Terms, now: datetime) -> Watched:
    """Told again when the rollout has ended."""
    return watched


def _unmoved(watched: Watched, event: Unmoved, terms: Terms, now: datetime) -> Watched:
    after = _answered(watched, terms, now)
    if isinstance(after.stage, Unseen) and event.revision == after.service.revision:
        return replace(after, stage=Current(), left=Known())
    return after


def _named(watched: Watched, event: Named, terms: Terms, now: datetime) -> Watched:
    after, model, stage = _answered(watched, terms, now), event.model, watched.stage
    if model.is_same(after.service):
        return replace(after, stage=Current(), service=_joined(after.service, model), left=Known())
    if isinstance(stage, Moved | Ready) and stage.model.is_same(model):
        return after
    if not isinstance(stage, Unseen):
        after = replace(after, left=Known())  # it has moved since
    elif not after.service.revision and terms.watch.policy is WatchPolicy.NOTIFY:
        # Nothing is fetched to find out: what it names at the first look is taken to be what is in service.
        return replace(after, stage=Current(), service=replace(model, digest=after.service.digest))
    return _stopped_or(after, model, Moved(model), now)


def _named_meanwhile(watched: Watched, event: Named, terms: Terms, now: datetime) -> Watched:
    """What it names by now is looked at again when the rollout has ended."""
    return _answered(watched, terms, now)


def _failed(watched: Watched, event: Failed, terms: Terms, now: datetime) -> Watched:
    failures, every_s = watched.failures + 1, terms.watch.every_s
    backoff_s = min(every_s * 2.0 ** min(failures - 1, 30), max(every_s, MAX_BACKOFF_S))
    asked_s = min(max(0.0, event.retry_after_s), MAX_RETRY_AFTER_S)
    pause_s = max(backoff_s * _spread(terms), asked_s)
    return replace(watched, failures=failures, trouble=event.reason, next_at=now + timedelta(seconds=pause_s))


def _prepared(watched: Watched, event: Prepared, terms: Terms, now: datetime) -> Watched:
    """A yes was for the model that it was said of, and for no other that the reference names by now."""
    after, model, stage = _answered(watched, terms, now), event.model, watched.stage
    assert isinstance(stage, Moved)
    if model.is_same(after.service):
        return replace(after, stage=Current(), service=_joined(after.service, model), left=Known())
    if stage.consent and stage.model.is_same(model):
        return replace(after, stage=Ready(model, now, now, stage.consent), left=Known())
    return replace(_stopped_or(after, model, Ready(model, now, now), now), left=Known())


def _refused(watched: Watched, event: Refused, terms: Terms, now: datetime) -> Watched:
    return _barred(_answered(watched, terms, now), event.model, event.reason, now)


def _came_spoilt(watched: Watched, event: CameSpoilt, terms: Terms, now: datetime) -> Watched:
    if watched.failures + 1 < MAX_SPOILT:
        return _failed(watched, Failed(event.reason), terms, now)
    return _refused(watched, Refused(event.model, f"{event.reason} (in {MAX_SPOILT} tries)"), terms, now)


def _begun(watched: Watched, event: Begun, terms: Terms, now: datetime) -> Watched:
    assert isinstance(watched.stage, Ready)
    return replace(watched, stage=Rolling(watched.stage.model, event.rollout))


def _hindered(watched: Watched, event: Hindered, terms: Terms, now: datetime) -> Watched:
    assert isinstance(watched.stage, Ready)
    try_at = now + timedelta(seconds=_HINDERED_S * _spread(terms))
    return replace(watched, stage=replace(watched.stage, try_at=try_at, hindrance=event.reason))


def _vanished(watched: Watched, event: Vanished, terms: Terms, now: datetime) -> Watched:
    stage = watched.stage
    assert isinstance(stage, Ready)
    return replace(watched, stage=Moved(stage.model, stage.consent), next_at=now)


def _ended(watched: Watched, event: Ended, terms: Terms, now: datetime) -> Watched:
    """In every case the source is asked at once what the reference names by now."""
    stage = watched.stage
    assert isinstance(stage, Rolling)
    after = replace(watched, next_at=now)
    match event.outcome:
        case Outcome.SUCCEEDED:
            kept = tuple(bar for bar in after.barred if not bar.model.is_same(stage.model))
            return replace(after, stage=Current(), service=stage.model, barred=kept)
        case Outcome.ROLLED_BACK:
            return _barred(after, stage.model, f"rolled back: {event.reason}", now)
        case Outcome.ABORTED:
            return _barred(after, stage.model, event.reason, now)
        case Outcome.LOST:
            return replace(after, stage=Unseen())


def _accepted(watched: Watched, event: Accepted, terms: Terms, now: datetime) -> Watched:
    stage = watched.stage
    assert isinstance(stage, Moved | Ready | Stopped)
    if isinstance(stage, Ready) and not event.consent.may_change_signature:
        return replace(watched, stage=replace(stage, consent=event.consent, try_at=now, hindrance=""))
    return replace(watched, stage=Moved(stage.model, event.consent), next_at=now)


# --- small things ---------------------------------------------------------------------------------------------------


def _answered(watched: Watched, terms: Terms, now: datetime) -> Watched:
    next_at = now + timedelta(seconds=terms.watch.every_s * _spread(terms))
    return replace(watched, answered_at=now, failures=0, trouble="", next_at=next_at)


def _stopped_or(watched: Watched, model: Known, stage: Stage, now: datetime) -> Watched:
    if model.is_same(watched.left):
        return _barred(watched, model, "it was in service, and was taken out of it", now)
    if bar := watched.bar_of(model):
        joined = _joined(bar.model, model)
        barred = tuple(replace(item, model=joined) if item is bar else item for item in watched.barred)
        return replace(watched, stage=Stopped(joined), barred=barred)
    return replace(watched, stage=stage)


def _barred(watched: Watched, model: Known, reason: str, now: datetime) -> Watched:
    others = tuple(bar for bar in watched.barred if not bar.model.is_same(model))
    barred = (*others, Barred(model, reason, now))[-MAX_BARRED:]
    return replace(watched, stage=Stopped(model), barred=barred)


def _joined(known: Known, more: Known) -> Known:
    """Both name one model: what either knows of it, the newer words first."""
    return Known(
        more.revision or known.revision,
        more.digest or known.digest,
        more.pinned or known.pinned,
        more.version or known.version,
    )


def _spread(terms: Terms) -> float:
    return 1.0 + _JITTER * (2.0 * terms.jitter - 1.0)


def _told(old: Watched, new: Watched, terms: Terms) -> tuple[str, str]:
    """The kind of the event and its words; no words when nothing happened that anybody must know."""
    if new.trouble != old.trouble and (new.trouble or old.trouble):
        if new.trouble:
            return "watch_failed", f"{new.ref}: {new.trouble}"
        if type(new.stage) is type(old.stage):
            return "watch_recovered", f"{new.ref}: its source answers again"
    if new.stage == old.stage:
        return "", ""
    match new.stage:
        case Moved() if isinstance(old.stage, Unseen) and not old.service.revision:
            return "", ""  # perhaps it is what is in service: nobody knows yet
        case Moved(model, consent):
            by = f", accepted by {consent.by}" if consent else ""
            return "model_moved", f"{new.ref} names {model} now{by}; in service is {new.service}"
        case Ready(model, _, _, consent, hindrance):
            if hindrance:
                is_new = not isinstance(old.stage, Ready) or old.stage.hindrance != hindrance
                words = f"{new.ref}: the rollout to {model} cannot begin, and is tried again: {hindrance}"
                return ("model_hindered", words) if is_new else ("", "")
            if consent is None and terms.watch.policy is not WatchPolicy.AUTO:
                words = f"accept it with: crossfade model accept {new.endpoint}"
                return "model_proposed", f"{new.ref}: {model} is here and passed its checks; {words}"
            by = f", accepted by {consent.by}" if consent else ""
            return "model_ready", f"{new.ref}: {model} is here and passed its checks{by}"
        case Rolling(model, rollout):
            return "model_rolling", f"{new.ref}: rollout {rollout} moves the traffic to {model}"
        case Stopped(model):
            bar = new.bar_of(model)
            reason = bar.reason if bar else ""
            return "model_stopped", f"{new.ref}: {model} is not tried by itself: {reason}"
        case Current() if isinstance(old.stage, Rolling):
            return "model_in_service", f"{new.ref}: {new.service} is in service"
        case Current() if isinstance(old.stage, Moved | Ready | Stopped) and old.service.revision:
            return "model_moved", f"{new.ref} names {new.service} again, which is in service"
        case _:
            return "", ""


_WHY_NOT: Mapping[type[Stage], str] = MappingProxyType(
    {
        Unseen: "its model's source has not said yet what the reference names: try again in a moment",
        Current: "its model's reference names what is in service already",
        Moved: "the model that its reference names is not here yet",
        Ready: "the model that its reference names waits to be rolled out",
        Rolling: "a rollout to the model that its reference names is under way",
        Stopped: "the model that its reference names is not tried by itself",
    }
)

Handler = Callable[[Watched, Any, Terms, datetime], Watched]  # each takes the event that it stands beside

_ASKED: Mapping[type[Event], Handler] = MappingProxyType(
    {InService: _in_service, Unmoved: _unmoved, Named: _named, Failed: _failed}
)

TRANSITIONS: Mapping[type[Stage], Mapping[type[Event], Handler]] = MappingProxyType(
    {
        Unseen: _ASKED,
        Current: _ASKED,
        Moved: {**_ASKED, Prepared: _prepared, Refused: _refused, CameSpoilt: _came_spoilt, Accepted: _accepted},
        Ready: {**_ASKED, Begun: _begun, Hindered: _hindered, Vanished: _vanished, Accepted: _accepted},
        Rolling: {**_ASKED, InService: _in_service_meanwhile, Named: _named_meanwhile, Ended: _ended},
        Stopped: {**_ASKED, Accepted: _accepted},
    }
)
