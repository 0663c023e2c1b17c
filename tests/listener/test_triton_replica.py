"""A replica that runs a Triton, but for Ray and Triton: what it announces while its Tritons come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from router.domain.deployment import Backend, DeployedModel, Deployment
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.routing import Replica, ReplicaState, TritonAddress
from router.domain.triton_managed import ManagedTriton
from serving.certified import Tell
from serving.load import WorkDone
from serving.replica import ReplicaConfig
from serving.triton_ports import Ending
from serving.triton_replica import TritonReplica

WAIT_S = 60.0
LOADING, READY, DRAINING, FAILED = (
    ReplicaState.LOADING,
    ReplicaState.READY,
    ReplicaState.DRAINING,
    ReplicaState.FAILED,
)


class Town:
    """Implements `Announcer`: who is there, and everything that was heard. Releases whoever drains."""

    def __init__(self) -> None:
        self.present: dict[str, Replica] = {}
        self.heard: list[tuple[ReplicaState, str]] = []

    async def announce(self, replica: Replica) -> bool:
        await asyncio.sleep(0)
        self.present[replica.id] = replica
        if not self.heard or self.heard[-1] != (replica.state, replica.reason):
            self.heard.append((replica.state, replica.reason))
        return True

    async def withdraw(self, replica_id: str) -> None:
        self.present.pop(replica_id, None)

    @property
    def only(self) -> Replica:
        (replica,) = self.present.values()
        return replica

    @property
    def is_ready(self) -> bool:
        return len(self.present) == 1 and self.only.state is READY


class FakeTriton:
    """Implements `RunningTriton`. A test says what it does."""

    def __init__(self, number: int, story: list[str]) -> None:
        self.address = TritonAddress("127.0.0.1", 10_000 + number, 20_000 + number)
        self.trouble: str | Exception = ""
        self.silence = ""  # why it does not answer its first request
        self.may_load = asyncio.Event()
        self.may_load.set()
        self._number = number
        self._story = story
        self._end: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    async def loaded(self) -> None:
        await self.may_load.wait()
        if self.silence:
            raise ModelUnavailable(self.silence)

    async def why_not_ready(self) -> str:
        if isinstance(self.trouble, Exception):
            raise self.trouble
        return self.trouble

    async def work_done(self) -> WorkDone:
        return WorkDone(busy_s=1e6, finished=5, pending=0)

    async def drain(self) -> None:
        self.die(f"drained {self._number}")

    async def ended(self) -> Ending:
        return await asyncio.shield(self._end)

    async def end(self) -> None:
        self.die(f"ended {self._number}")

    def die(self, words: str, *, is_port_taken: bool = False) -> None:
        if not self._end.done():
            self._story.append(words)
            self._end.set_result(Ending(words, is_port_taken))

    def refuse(self, words: str) -> None:
        """The model: it never answers, and ends."""
        self.may_load.clear()
        self.die(words)


class FakeHome:
    """Implements `TritonHome`. `prepare` is told of every Triton before it starts."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.started: list[FakeTriton] = []
        self.prepare: Callable[[FakeTriton], None] = lambda _: None
        self.waits_for: dict[str, asyncio.Event] = {}

    async def prepared(self, tell: Tell) -> None:
        for what, has_come in self.waits_for.items():
            await tell(what)
            await has_come.wait()

    async def start(self) -> FakeTriton:
        triton = FakeTriton(len(self.started), self.story)
        self.prepare(triton)
        self.started.append(triton)
        return triton

    async def close(self) -> None:
        if self.started:
            await self.started[-1].end()
        self.story.append("closed")


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_so():  # noqa: ASYNC110 (the replica looks at its Triton by the clock)
            await asyncio.sleep(0.02)


def replica_of(home: FakeHome, town: Town, start_timeout_s: int = 60) -> TritonReplica:
    spec = Deployment(
        "green",
        "e",
        ModelRef("file", "/m.onnx"),
        backend=Backend.TRITON,
        managed=ManagedTriton(start_timeout_s=start_timeout_s),
    )

    async def make_home(tell: Tell) -> FakeHome:
        await home.prepared(tell)
        return home

    config = ReplicaConfig("g", DeployedModel(spec, ResolvedModel("/m.onnx", "ab" * 32)), "token", "0")
    return TritonReplica("r", config, town, make_home)


@asynccontextmanager
async def started(home: FakeHome, town: Town) -> AsyncIterator[TritonReplica]:
    replica = replica_of(home, town)
    await replica.start()
    try:
        yield replica
    finally:
        await replica.stop()


async def test_it_is_ready_at_the_address_of_its_triton_when_that_has_loaded_the_model() -> None:
    home, town = FakeHome(), Town()
    may_load = asyncio.Event()

    def slow(triton: FakeTriton) -> None:
        triton.may_load = may_load

    home.prepare = slow
    replica = replica_of(home, town)
    starting = asyncio.create_task(replica.start())
    await until(lambda: (LOADING, "Triton is loading the model") in town.heard)
    assert not starting.done()
    may_load.set()
    await starting
    assert (town.only.state, town.only.address) == (READY, home.started[0].address)
    await replica.stop()


async def test_what_it_waits_for_before_it_starts_a_triton_is_its_reason() -> None:
    home, town = FakeHome(), Town()
    home.waits_for = {"waiting for a certificate": asyncio.Event()}
    replica = replica_of(home, town)
    starting = asyncio.create_task(replica.start())
    await until(lambda: (LOADING, "waiting for a certificate") in town.heard)
    assert not home.started
    home.waits_for["waiting for a certificate"].set()
    await starting
    assert (town.only.state, town.only.reason) == (READY, "")
    await replica.stop()


async def test_one_that_stops_leaves_envoy_first_then_waits_for_what_is_under_way() -> None:
    home, town = FakeHome(), Town()
    async with started(home, town):
        pass
    assert town.heard[-1][0] is DRAINING
    assert home.story == ["drained 0", "closed"]
    assert not town.present


async def test_when_its_triton_dies_it_is_gone_at_once_and_another_replica_comes() -> None:
    home, town = FakeHome(), Town()
    async with started(home, town):
        first = town.only
        home.prepare = lambda triton: triton.may_load.clear()
        home.started[0].die("signal SIGKILL")
        await until(lambda: first.id not in town.present and bool(town.present))
        assert (town.only.state, town.only.reason) == (LOADING, "signal SIGKILL")
        await until(lambda: len(home.started) == 2)
        home.started[1].may_load.set()
        await until(lambda: town.is_ready)
        assert (town.only.address, town.only.reason) == (home.started[1].address, "")
    assert not town.present


async def test_one_that_does_not_answer_for_a_while_is_ended_and_started_again() -> None:
    home, town = FakeHome(), Town()
    async with started(home, town):
        home.started[0].trouble = TimeoutError()
        await until(lambda: len(home.started) == 2 and town.is_ready)
        assert home.story == ["ended 0"]
        assert (LOADING, "Triton is started again: it does not answer") in town.heard


async def test_one_that_was_slow_once_goes_on() -> None:
    home, town = FakeHome(), Town()
    async with started(home, town) as replica:
        home.started[0].trouble = TimeoutError()
        await until(lambda: replica.life.failures > 0)
        home.started[0].trouble = ""
        await until(lambda: replica.life.failures == 0)
        assert town.is_ready
        assert len(home.started) == 1


async def test_a_model_that_triton_refuses_fails_with_tritons_words_and_leaves_nothing() -> None:
    home, town = FakeHome(), Town()
    home.prepare = lambda triton: triton.refuse("no backend of that name")
    with pytest.raises(ModelUnavailable, match="no backend of that name"):
        await replica_of(home, town).start()
    assert town.heard[-1] == (FAILED, "no backend of that name")
    assert home.story == ["no backend of that name", "closed"]


async def test_a_model_that_is_there_and_does_not_answer_is_no_better_than_one_that_is_not() -> None:
    home, town = FakeHome(), Town()

    def silent(triton: FakeTriton) -> None:
        triton.silence = "" if len(home.started) in (0, 2) else "no such axis"

    home.prepare = silent
    async with started(home, town):
        home.started[0].die("signal SIGKILL")
        await until(lambda: town.is_ready and len(home.started) == 3)
        assert (LOADING, "no such axis") in town.heard
    assert home.story == ["signal SIGKILL", "ended 1", "drained 2", "closed"]

    home, town = FakeHome(), Town()
    home.prepare = lambda triton: setattr(triton, "silence", "no such axis")
    with pytest.raises(ModelUnavailable, match="no such axis"):
        await replica_of(home, town).start()
    assert town.heard[-1] == (FAILED, "no such axis")
    assert home.story == ["ended 0", "closed"]


@pytest.mark.parametrize("times", [2, 3])
async def test_one_whose_port_was_taken_is_started_again_a_few_times(times: int) -> None:
    home, town = FakeHome(), Town()

    def taken(triton: FakeTriton) -> None:
        if len(home.started) < times:
            triton.may_load.clear()
            triton.die("the port is in use", is_port_taken=True)

    home.prepare = taken
    if times == 3:
        with pytest.raises(ModelUnavailable, match="the port is in use"):
            await replica_of(home, town).start()
        return
    async with started(home, town):
        assert len(home.started) == 3
        assert town.is_ready


async def test_one_that_loads_too_long_fails() -> None:
    home, town = FakeHome(), Town()
    home.prepare = lambda triton: triton.may_load.clear()
    with pytest.raises(ModelUnavailable, match="did not load the model within 1 s"):
        await replica_of(home, town, start_timeout_s=1).start()
    assert home.story == ["ended 0", "closed"]


async def test_a_later_one_that_does_not_load_is_tried_again_and_its_reason_is_shown() -> None:
    home, town = FakeHome(), Town()
    async with started(home, town):

        def refusing(triton: FakeTriton) -> None:
            if len(home.started) < 3:
                triton.refuse("out of memory")

        home.prepare = refusing
        home.started[0].die("signal SIGSEGV")
        await until(lambda: town.is_ready and len(home.started) == 4)
        assert (LOADING, "out of memory") in town.heard


async def test_the_load_is_that_of_the_instances_and_none_while_nobody_answers() -> None:
    home, town = FakeHome(), Town()
    async with started(home, town) as replica:
        assert await replica.load() == 1.0
        home.prepare = lambda triton: triton.may_load.clear()
        home.started[0].die("signal SIGKILL")
        await until(lambda: not town.is_ready)
        assert await replica.load() == 0.0


async def test_one_that_stops_while_its_triton_is_away_leaves_nothing() -> None:
    home, town = FakeHome(), Town()
    async with started(home, town):
        home.prepare = lambda triton: triton.may_load.clear()
        home.started[0].die("signal SIGKILL")
        await until(lambda: len(home.started) == 2)
    assert home.story == ["signal SIGKILL", "ended 1", "closed"]
    assert not town.present
