"""What happened, in one line each: a bounded list in memory, and a way to follow it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Event:
    """`id` counts up from 1 without gaps; `kind` is a stable past-tense word such as `endpoint_changed`."""

    id: int
    at: datetime
    kind: str
    message: str
    endpoint: str = ""
    deployment: str = ""


class EventLog:
    """Keeps the last `capacity` events. Belongs to one event loop; `now` returns aware UTC."""

    def __init__(self, now: Callable[[], datetime], capacity: int = 1000) -> None:
        self.now = now
        self._events: deque[Event] = deque(maxlen=capacity)
        self._last_id = 0
        self._arrived = asyncio.Event()

    def publish(self, kind: str, message: str, *, endpoint: str = "", deployment: str = "") -> None:
        self._last_id += 1
        self._events.append(Event(self._last_id, self.now(), kind, message, endpoint, deployment))
        self._arrived.set()
        self._arrived = asyncio.Event()

    def after(self, last_seen: int) -> list[Event]:
        """The kept events with a greater id, oldest first. `last_seen` 0: all of them."""
        return [event for event in self._events if event.id > last_seen]

    @property
    def last_id(self) -> int:
        return self._last_id

    async def follow(self, last_seen: int) -> AsyncIterator[Event]:
        """Events with a greater id as they come, without end.

        Nothing is queued for a reader: one that is slower than `capacity` events misses some, and the ids show the gap.
        An id that was never given (it comes from before a restart) means all of them.
        """
        if last_seen > self._last_id:
            last_seen = 0
        while True:
            arrived = self._arrived
            for event in self.after(last_seen):
                yield event
                last_seen = event.id
            if self._last_id == last_seen:
                await arrived.wait()
