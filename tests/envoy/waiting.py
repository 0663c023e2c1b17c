"""Waiting for what another process does: poll a condition until a deadline, never sleep and hope."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

DEADLINE_S = 30.0


async def eventually(observe: Callable[[], Any], wanted: object = True, deadline_s: float = DEADLINE_S) -> None:
    """Until `observe()` equals `wanted`; `observe` may be a coroutine function."""
    give_up_at = time.monotonic() + deadline_s
    while True:
        seen = observe()
        if inspect.isawaitable(seen):
            seen = await seen
        if seen == wanted:
            return
        assert time.monotonic() < give_up_at, f"still {seen!r}, not {wanted!r}, after {deadline_s:g} s"
        await asyncio.sleep(0.01)
