"""Ray's calls block, so they run in one thread, in order. A call that hangs is given up; the thread is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class OneThread:
    """Methods raise `TimeoutError` after `timeout_s`, and what the call raises."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray")
        self._joined: Future[Any] | None = None

    async def run(self, call: Callable[[], Result]) -> Result:
        return await self._outcome(self._thread.submit(call))

    async def join(self, call: Callable[[], None]) -> None:
        """Whoever asks again while it is under way waits for it, instead of having it done all over: on a machine that
        is too busy to do it within `timeout_s`, it would never be done."""
        if self._joined is None or self._joined.done():
            self._joined = self._thread.submit(call)
        joined = self._joined
        await self._outcome(joined)

    async def _outcome(self, future: Future[Result]) -> Result:
        async with asyncio.timeout(self._timeout_s):
            return await asyncio.shield(asyncio.wrap_future(future))
