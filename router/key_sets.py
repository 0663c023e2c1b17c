"""Key sets of identity providers: read from files and URLs, kept, and put in force for the endpoints that name them.

Envoy is given keys, never a URL to fetch them from: it dials nobody. Files are looked at twice a second, URLs asked
again when their answer has aged. What cannot be read, or is no set of keys, changes nothing: the keys of before stay in
force, also over a restart, and an event, `status` and a metric say so. An endpoint whose keys were never there lets in
nobody.

A single failure is not told while older keys do: files are often replaced in two steps, and networks blink.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from router.admin_ports import Changes
from router.desired import Desired
from router.domain.errors import StoreFailed
from router.domain.tokens import BadKeySet, KeySet, KeySetFile, KeySetStatus, KeySource
from router.events import EventLog

_LOOK_EVERY_S = 0.4
_FRESH_AT_LEAST_S, _FRESH_AT_MOST_S = 60.0, 300.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0
_TOLD_FAILURES = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """What a source said. `mark`: recognises the same answer again; `fresh_s`: for how long it says it holds."""

    keys: KeySet
    mark: str
    fresh_s: float = _FRESH_AT_MOST_S


class KeySetReader(Protocol):
    """Implemented by adapters/key_sets.py."""

    async def read(self, source: KeySource, mark: str) -> Reading | None:
        """None: it still is what it was at `mark`. Raises `BadKeySet`."""


@dataclass(frozen=True, slots=True)
class Kept:
    keys: KeySet
    taken_at: datetime


class KeySetStore(Protocol):
    """Durable. Implemented by adapters/sqlite_key_sets.py. Raises `StoreFailed`."""

    def load(self) -> Mapping[KeySource, Kept]: ...

    def put(self, source: KeySource, kept: Kept) -> None: ...

    def forget(self, source: KeySource) -> None: ...


@dataclass(slots=True)
class _Known:
    """One source: what is in force of it, and how it goes with asking."""

    source: KeySource
    due_at: datetime
    kept: Kept | None = None
    mark: str = ""
    fault: str = ""
    failures: int = 0
    is_asked: bool = False

    @property
    def told_fault(self) -> str:
        return self.fault if self.kept is None or self.failures >= _TOLD_FAILURES else ""


class KeySets:
    """Belongs to one event loop."""

    def __init__(
        self, desired: Desired, reader: KeySetReader, store: KeySetStore, changes: Changes, events: EventLog
    ) -> None:
        self._desired = desired
        self._reader = reader
        self._store = store
        self._changes = changes
        self._events = events
        self._known: dict[KeySource, _Known] = {}
        for source, kept in store.load().items():
            self._known[source] = _Known(source, events.now(), kept)
            desired.publish_key_set(source, kept.keys)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as asking:
            while True:
                for known in self._begun():
                    asking.create_task(self._ask(known), name=f"keys of {known.source}")
                await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Ask every source that is due, and wait for them."""
        await asyncio.gather(*(self._ask(known) for known in self._begun()))

    def status(self) -> tuple[KeySetStatus, ...]:
        rows = []
        for source, endpoints in sorted(self._wanted().items(), key=lambda row: str(row[0])):
            known = self._known.get(source)
            kept = known.kept if known else None
            fault = known.told_fault if known else ""
            keys, taken_at = (kept.keys, kept.taken_at) if kept else (None, None)
            rows.append(KeySetStatus(source, endpoints, keys, taken_at, fault))
        return tuple(rows)

    def _wanted(self) -> dict[KeySource, tuple[str, ...]]:
        """Source → the endpoints that name it."""
        wanted: dict[KeySource, tuple[str, ...]] = {}
        for name, state in sorted(self._desired.states.items()):
            if state.endpoint.jwt is not None:
                source = state.endpoint.jwt.keys_from
                wanted[source] = (*wanted.get(source, ()), name)
        return wanted

    def _begun(self) -> Iterator[_Known]:
        """Sources that are due, each marked as being asked. Those that nobody names any more are forgotten."""
        now, wanted = self._events.now(), self._wanted()
        for source in self._known.keys() - wanted.keys():
            del self._known[source]
            self._desired.forget_key_set(source)
            self._stored(partial(self._store.forget, source))
        for source in wanted:
            known = self._known.setdefault(source, _Known(source, now))
            if known.due_at <= now and not known.is_asked:
                known.is_asked = True
                yield known

    async def _ask(self, known: _Known) -> None:
        try:
            reading = await self._reader.read(known.source, known.mark)
        except BadKeySet as error:
            self._note_failure(known, str(error))
        else:
            self._take(known, reading)
        finally:
            known.is_asked = False

    def _take(self, known: _Known, reading: Reading | None) -> None:
        if known.told_fault and known.kept is not None:
            self._events.publish("key_set_read_again", f"{known.source} can be read again")
        known.fault, known.failures = "", 0
        fresh_s = reading.fresh_s if reading else _FRESH_AT_MOST_S
        known.due_at = self._events.now() + self._until_next(known.source, fresh_s)
        if reading is None:
            return
        before, known.mark = known.kept, reading.mark
        if before is not None and before.keys == reading.keys:
            return
        if self._known.get(known.source) is not known:
            return  # nobody names it any more
        kept = known.kept = Kept(reading.keys, self._events.now())
        self._stored(partial(self._store.put, known.source, kept))
        self._desired.publish_key_set(known.source, kept.keys)
        for endpoint in self._wanted().get(known.source, ()):
            self._changes.endpoint_changed(endpoint)
        names = ", ".join(name or "one without a name" for name in kept.keys.ids)
        kind = "key_set_changed" if before is not None else "key_set_read"
        self._events.publish(kind, f"tokens are now verified with these keys of {known.source}: {names}")

    def _stored(self, change: Callable[[], None]) -> None:
        """In force comes first: a key that was withdrawn must go, whatever the disk says."""
        try:
            change()
        except StoreFailed as error:
            self._events.publish("key_set_not_kept", f"a set of keys is in force but may be lost at a restart: {error}")

    def _note_failure(self, known: _Known, fault: str) -> None:
        was_told = known.told_fault
        known.failures += 1
        known.fault = fault
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(known.failures - 1, 10), _LONGEST_PAUSE_S)
        known.due_at = self._events.now() + self._until_next(known.source, pause_s)
        if known.told_fault and known.told_fault != was_told:
            rest = "the keys of before stay in force" if known.kept else "nobody gets in by them"
            self._events.publish("key_set_refused", f"{fault}; {rest}")

    def _until_next(self, source: KeySource, wait_s: float) -> timedelta:
        if isinstance(source, KeySetFile):
            return timedelta()  # at every look
        return timedelta(seconds=min(max(wait_s, _FIRST_PAUSE_S), _FRESH_AT_MOST_S))


def fresh_for_s(max_age_s: float) -> float:
    """How long an answer is believed that says it may be kept for `max_age_s`."""
    return min(max(max_age_s, _FRESH_AT_LEAST_S), _FRESH_AT_MOST_S)


def key_set_metrics(statuses: Iterable[KeySetStatus]) -> str:
    """How many keys of each source are in force, since when, and whether it could be read."""
    rows = list(statuses)
    if not rows:
        return ""
    keys, since, faults = [], [], []
    for status in rows:
        label = f'source="{_escaped(str(status.source))}"'
        keys.append(f"crossfade_key_set_keys{{{label}}} {len(status.keys.ids) if status.keys else 0}")
        faults.append(f"crossfade_key_set_fault{{{label}}} {int(bool(status.fault))}")
        if status.taken_at is not None:
            stamp = int(status.taken_at.timestamp())
            since.append(f"crossfade_key_set_changed_timestamp_seconds{{{label}}} {stamp}")
    lines = [
        "# HELP crossfade_key_set_keys Keys of an identity provider that tokens are verified with; 0: nobody gets in.",
        "# TYPE crossfade_key_set_keys gauge",
        *keys,
        "# HELP crossfade_key_set_changed_timestamp_seconds When these keys were put in force.",
        "# TYPE crossfade_key_set_changed_timestamp_seconds gauge",
        *since,
        "# HELP crossfade_key_set_fault Whether the source cannot be read now; keys of before stay in force.",
        "# TYPE crossfade_key_set_fault gauge",
        *faults,
    ]
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
