"""Blocking calls in one thread: one that takes too long is given up, and not begun again while it goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from adapters.ray.one_thread import OneThread

SOON_S, LATE_S = 0.01, 60.0


def held(may_end: threading.Event, calls: list[int]) -> Callable[[], None]:
    def call() -> None:
        calls.append(len(calls))
        assert may_end.wait(LATE_S)

    return call


async def test_whoever_asks_again_waits_for_the_call_that_is_under_way() -> None:
    hasty, may_end, calls = OneThread(SOON_S), threading.Event(), []
    call = held(may_end, calls)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await hasty.join(call)
    may_end.set()
    while True:
        try:
            await hasty.join(call)
        except TimeoutError:
            continue
        break
    assert len(calls) <= 2  # the last one may have come when the first had just ended


async def test_one_that_has_failed_is_tried_again_and_its_error_is_told() -> None:
    thread, answers = OneThread(LATE_S), [OSError("not yet"), None]

    def call() -> None:
        if (error := answers.pop(0)) is not None:
            raise error

    with pytest.raises(OSError, match="not yet"):
        await thread.join(call)
    await thread.join(call)
    assert answers == []


async def test_other_calls_come_in_their_turn() -> None:
    thread, may_end, calls = OneThread(LATE_S), threading.Event(), []
    first = asyncio.create_task(thread.join(held(may_end, calls)))
    second = asyncio.create_task(thread.run(lambda: len(calls)))
    await asyncio.sleep(0)
    may_end.set()
    assert await second == 1
    await first
