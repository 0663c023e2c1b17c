"""Clients on this process's own event loop, for comparisons of two ways that cost the clients the same."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable

import aiohttp

Ask = Callable[[], Awaitable[None]]


async def latency_ms(ask: Ask, seconds: float) -> float:
    """The median of one client."""
    times, end_s = [], time.perf_counter() + seconds
    while (began_s := time.perf_counter()) < end_s:
        await ask()
        times.append(time.perf_counter() - began_s)
    return 1000 * statistics.median(times)


def posting(session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]) -> Ask:
    async def ask() -> None:
        async with session.post(url, data=body, headers=headers) as reply:
            await reply.read()
            assert reply.status == 200

    return ask
