"""Blocking calls in one thread: one that takes too long is given up, and not begun again while it goes on."""

from __future__ import annotations

import asyncio
import contextlib
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


async def joined(thread: OneThread, call: Callable[[], None]) -> None:
    """However often it takes, on a machine that is busy."""
    while True:
        with contextlib.suppress(TimeoutError):
            return await thread.join(call)


async def turn_of_the_next(thread: OneThread) -> None:
    """Returns when all that was asked for before is over."""
    while True:
        with contextlib.suppress(TimeoutError):
            return await thread.run(lambda: None)


async def test_whoever_asks_again_waits_for_the_call_that_is_under_way() -> None:
    hasty, may_end, calls = OneThread(SOON_S), threading.Event(), []
    call = held(may_end, calls)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await hasty.join(call)
    may_end.set()
    await joined(hasty, call)
    assert len(calls) == 1


async def test_what_came_out_while_nobody_waited_is_told_to_whoever_asks_next() -> None:
    hasty, may_end, calls = OneThread(SOON_S), threading.Event(), []
    call = held(may_end, calls)
    with pytest.raises(TimeoutError):
        await hasty.join(call)
    may_end.set()
    await turn_of_the_next(hasty)
    await joined(hasty, call)
    assert len(calls) == 1
    await joined(hasty, call)  # that was told: whoever joins once more has lost what was joined
    assert len(calls) == 2


async def test_a_failure_that_came_while_nobody_waited_is_told_once() -> None:
    hasty, may_end, calls = OneThread(SOON_S), threading.Event(), []

    def call() -> None:
        held(may_end, calls)()
        if len(calls) == 1:
            raise OSError("not yet")

    with pytest.raises(TimeoutError):
        await hasty.join(call)
    may_end.set()
    await turn_of_the_next(hasty)
    with pytest.raises(OSError, match="not yet"):
        await joined(hasty, call)
    await joined(hasty, call)
    assert len(calls) == 2


async def test_a_call_that_is_given_up_before_its_turn_is_never_begun() -> None:
    hasty, may_end, calls = OneThread(SOON_S), threading.Event(), []
    begun: list[str] = []
    with pytest.raises(TimeoutError):
        await hasty.join(held(may_end, calls))
    with pytest.raises(TimeoutError):
        await hasty.run(lambda: begun.append("given up"))
    may_end.set()
    await turn_of_the_next(hasty)
    assert begun == []


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
