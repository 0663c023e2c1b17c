"""Ray's calls block, so they run in one thread, in order. A call that hangs is given up; the thread is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class OneThread:
    """Methods raise `TimeoutError` after `timeout_s`, and what the call raises."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray")
        self._joined: Future[None] | None = None  # whose outcome nobody has heard

    async def run(self, call: Callable[[], Result]) -> Result:
        """One that is given up before its turn has come is never begun."""
        async with asyncio.timeout(self._timeout_s):
            return await asyncio.wrap_future(self._thread.submit(call))

    async def join(self, call: Callable[[], None]) -> None:
        """Whoever asks again while it is under way waits for it, instead of having it done all over: on a machine that
        is too busy to do it within `timeout_s`, it would never be done. For the same reason an outcome that has come
        while nobody waited is told to whoever asks next."""
        if self._joined is None:
            self._joined = self._thread.submit(call)
        joined = self._joined
        outcome = asyncio.wrap_future(joined)
        outcome.add_done_callback(_note)
        await asyncio.wait((outcome,), timeout=self._timeout_s)
        if not outcome.done():
            raise TimeoutError
        if self._joined is joined:
            self._joined = None
        outcome.result()


def _note(outcome: asyncio.Future[None]) -> None:
    """asyncio reports an error that nobody has looked at as lost. Whoever joins next is told this one."""
    if not outcome.cancelled():
        outcome.exception()
