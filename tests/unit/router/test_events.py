"""The event log: bounded, numbered, and followed without loss by a reader that keeps up."""

from __future__ import annotations

import asyncio

from router.events import Event, EventLog
from tests.fakes import NOON


def log_of(capacity: int = 100) -> EventLog:
    return EventLog(lambda: NOON, capacity)


async def take(log: EventLog, count: int, last_seen: int = 0) -> list[int]:
    ids = []
    async for event in log.follow(last_seen):
        ids.append(event.id)
        if len(ids) == count:
            break
    return ids


def test_events_are_numbered_from_1_and_stamped() -> None:
    log = log_of()
    log.publish("endpoint_created", "endpoint e created", endpoint="e")
    assert log.after(0) == [Event(1, NOON, "endpoint_created", "endpoint e created", "e", "")]
    assert log.after(1) == []
    assert log.last_id == 1


def test_the_oldest_events_are_forgotten() -> None:
    log = log_of(capacity=3)
    for number in range(5):
        log.publish("tick", str(number))
    assert [event.id for event in log.after(0)] == [3, 4, 5]


async def test_a_follower_gets_what_was_and_what_comes() -> None:
    log = log_of()
    log.publish("tick", "1")
    follower = asyncio.create_task(take(log, 3))
    await asyncio.sleep(0)
    log.publish("tick", "2")
    await asyncio.sleep(0)
    log.publish("tick", "3")
    assert await asyncio.wait_for(follower, 30) == [1, 2, 3]


async def test_two_followers_get_the_same() -> None:
    log = log_of()
    followers = [asyncio.create_task(take(log, 20)) for _ in range(2)]
    for number in range(20):
        log.publish("tick", str(number))
        await asyncio.sleep(0)
    assert await asyncio.wait_for(asyncio.gather(*followers), 30) == [list(range(1, 21))] * 2


async def test_a_follower_from_before_a_restart_begins_anew() -> None:
    log = log_of()
    log.publish("tick", "1")
    assert await asyncio.wait_for(take(log, 1, last_seen=500), 30) == [1]
