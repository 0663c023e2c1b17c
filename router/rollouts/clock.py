"""The time that rollouts live by: records are aware UTC, and one can wait for news or a moment."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime: ...

    async def wait(self, news: asyncio.Event, until: datetime | None) -> None:
        """Return when there are news, or at that moment, whichever is first. May return too early."""


class SystemClock:
    """Implements `Clock`."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def wait(self, news: asyncio.Event, until: datetime | None) -> None:
        delay_s = None if until is None else max(0.0, (until - self.now()).total_seconds())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await news.wait()
