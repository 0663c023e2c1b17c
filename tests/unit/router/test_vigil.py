"""Who is found dead before the directory says so, and who must not be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from router.domain.routing import Replica, ReplicaState
from router.ports import Presence, RuntimeUnavailable
from router.vigil import EVERY, Vigil
from tests.fake_world import FakeLookout, replica_of
from tests.rollout_world import HandClock
from tests.unit.router.states import deployed

ONE, TWO = (replica_of(deployed("blue"), number) for number in (1, 2))
_TURNS = 20

Said = tuple[Replica, ...] | Exception | None


@dataclass
class Watched:
    """A vigil, a directory that the test speaks for, and what came of both."""

    lookout: FakeLookout = field(default_factory=FakeLookout)
    clock: HandClock = field(default_factory=HandClock)
    at_stake: set[str] = field(default_factory=lambda: {"fraud"})
    shown: list[list[int]] = field(default_factory=list)
    said: asyncio.Queue[Said] = field(default_factory=asyncio.Queue)

    async def announcements(self) -> AsyncIterator[tuple[Replica, ...]]:
        while (said := await self.said.get()) is not None:
            if isinstance(said, Exception):
                raise said
            yield said

    async def run(self) -> None:
        vigil = Vigil(self.lookout, lambda endpoint: endpoint in self.at_stake, self.clock)
        async for living in vigil.living(self.announcements()):
            self.shown.append([[ONE.id, TWO.id].index(replica.id) + 1 for replica in living])

    async def announce(self, *replicas: Replica) -> None:
        self.said.put_nowait(replicas)
        await self.quiet()

    async def looks(self, *found: Presence) -> None:
        """At `ONE`, one after the other."""
        for presence in found:
            self.lookout.found[ONE.address] = presence
            self.clock.advance(EVERY.total_seconds())
            await self.quiet()

    async def quiet(self) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    watched = Watched()
    running = asyncio.create_task(watched.run())
    try:
        yield watched
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_who_refuses_twice_in_a_row_is_dead_until_nobody_announces_it() -> None:
    async with watched() as world:
        await world.announce(ONE, TWO)
        await world.looks(Presence.LISTENS, Presence.GONE)
        assert world.shown == [[1, 2]]
        await world.looks(Presence.GONE)
        assert world.shown == [[1, 2], [2]]
        await world.announce(replace(ONE, is_idle=True), TWO)
        await world.looks(Presence.LISTENS)
        assert world.shown == [[1, 2], [2]]
        await world.announce(TWO)
        await world.announce(ONE, TWO)  # cannot be: but what was forgotten is forgotten
        assert world.shown == [[1, 2], [2], [1, 2]]


@pytest.mark.parametrize(
    "found",
    [
        (Presence.GONE,),
        (Presence.GONE, Presence.LISTENS, Presence.GONE),
        (Presence.GONE, Presence.UNKNOWN, Presence.GONE),
        (Presence.UNKNOWN,) * 9,
    ],
)
async def test_less_than_that_says_nothing(found: Sequence[Presence]) -> None:
    async with watched() as world:
        await world.announce(ONE, TWO)
        await world.looks(*found)
        assert world.shown == [[1, 2]]


async def test_who_was_never_seen_from_here_lives() -> None:
    async with watched() as world:
        world.lookout.found[ONE.address] = Presence.GONE
        await world.announce(ONE, TWO)
        await world.looks(*[Presence.GONE] * 9)
        assert world.shown == [[1, 2]]


async def test_nobody_is_bothered_where_nothing_is_at_stake() -> None:
    async with watched() as world:
        world.at_stake.clear()
        await world.announce(ONE, TWO)
        await world.looks(*[Presence.GONE] * 9)
        assert (world.shown, world.lookout.looked) == ([[1, 2]], [])


@pytest.mark.parametrize("state", [ReplicaState.LOADING, ReplicaState.DRAINING, ReplicaState.FAILED])
async def test_only_who_is_ready_is_looked_at(state: ReplicaState) -> None:
    async with watched() as world:
        await world.announce(replace(ONE, state=state), TWO)
        await world.looks(*[Presence.GONE] * 9)
        assert ONE.address not in world.lookout.looked
        assert world.shown == [[1, 2]]


async def test_the_dead_are_not_looked_at_any_more() -> None:
    async with watched() as world:
        await world.announce(ONE)
        await world.looks(Presence.GONE, Presence.GONE)
        count = len(world.lookout.looked)
        await world.looks(*[Presence.LISTENS] * 9)
        assert len(world.lookout.looked) == count
        assert world.shown == [[1], []]


async def test_a_directory_that_is_lost_is_lost_for_whoever_listens() -> None:
    world = Watched()
    world.said.put_nowait((ONE,))
    world.said.put_nowait(RuntimeUnavailable("gone"))
    with pytest.raises(RuntimeUnavailable, match="gone"):
        await world.run()
    assert world.shown == [[1]]
