"""Whoever is told what a rollout did: the event log and the listeners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from router.domain.rollout import Announce, Page, Phase, Rollout
from router.events import EventLog
from router.rollout_ports import Entry, Listeners

# The kind of the event that tells of a new phase. Kinds are stable words: users' alerts depend on them.
_KINDS: Mapping[Phase, str] = MappingProxyType(
    {
        Phase.PENDING: "rollout_started",
        Phase.PROGRESSING: "rollout_progressing",
        Phase.PAUSED: "rollout_paused",
        Phase.PROMOTED: "rollout_promoted",
        Phase.RETIRING: "rollout_retiring",
        Phase.ROLLING_BACK: "rolling_back",
        Phase.ABORTING: "rollout_aborting",
        Phase.SUCCEEDED: "rollout_succeeded",
        Phase.ROLLED_BACK: "rolled_back",
        Phase.ABORTED: "rollout_aborted",
    }
)


def event_kind(what: Announce) -> str:
    """`page` when a person must see it now, else by the new phase, or `rollout_moved` within a phase."""
    if isinstance(what, Page):
        return "page"
    is_new = what.phase is not what.old_phase or what.revision == 1
    return _KINDS[what.phase] if is_new else "rollout_moved"


class Teller:
    def __init__(self, events: EventLog, listeners: Listeners) -> None:
        self._events = events
        self._listeners = listeners

    def tell(self, rollout: Rollout, announcements: Iterable[Announce]) -> None:
        for what in announcements:
            self._events.publish(
                event_kind(what),
                f"{rollout.endpoint}, {rollout.stable} → {rollout.candidate}: {what.message}",
                endpoint=rollout.endpoint,
                deployment=rollout.candidate,
            )
            self._listeners.tell(Entry(rollout.id, rollout.endpoint, what))

    def trouble(self, rollout: Rollout, message: str) -> None:
        """Something that a rollout asked for could not be done, and is tried again."""
        self._events.publish(
            "rollout_hindered",
            f"{rollout.endpoint}: {message}",
            endpoint=rollout.endpoint,
            deployment=rollout.candidate,
        )
