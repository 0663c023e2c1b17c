"""The directory's actor as the object that it is, without Ray: who asks for certificates, and who answers."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass

import pytest
import ray

from adapters.ray.directory import DirectoryActor, await_directory
from router.domain.replica_tls import Declined
from router.domain.routing import Replica, ReplicaState, UnixAddress
from router.ports import RuntimeUnavailable
from tests.internal_ca import BLUE, request_of

WAIT_S = 30.0
ANSWER = Declined("for a test")


async def test_a_request_wakes_whoever_watches_and_its_answer_whoever_asked() -> None:
    actor = DirectoryActor()
    first = await actor.watch(None, WAIT_S)
    watching = asyncio.create_task(actor.watch((first.epoch, first.version), WAIT_S))
    await asyncio.sleep(0)
    request = request_of(BLUE)
    asking = asyncio.create_task(actor.certified(request, WAIT_S))
    ((key, asked),) = (await watching).requests
    assert asked == request
    await actor.answer(key, ANSWER)
    await actor.answer(key, Declined("too late"))
    assert await asking == ANSWER


async def test_a_request_is_told_again_until_it_is_answered_and_no_longer() -> None:
    actor = DirectoryActor()
    asking = asyncio.create_task(actor.certified(request_of(BLUE), WAIT_S))
    await asyncio.sleep(0)
    lost, told = [await actor.watch(None, WAIT_S) for _ in range(2)]
    assert lost.requests == told.requests != ()
    await actor.answer(told.requests[0][0], ANSWER)
    assert (await actor.watch(None, WAIT_S)).requests == ()
    assert await asking == ANSWER


async def test_one_that_nobody_answers_is_forgotten_when_nobody_waits_any_more() -> None:
    actor = DirectoryActor()
    assert await actor.certified(request_of(BLUE), patience_s=0.01) is None
    assert (await actor.watch(None, WAIT_S)).requests == ()
    await actor.answer("another's", ANSWER)


async def test_requests_and_replicas_are_told_together() -> None:
    actor = DirectoryActor()
    replica = Replica("00ab", "fraud", "blue", "g", UnixAddress(""), ReplicaState.LOADING)
    await actor.announce(replica)
    asking = asyncio.create_task(actor.certified(request_of(BLUE), WAIT_S))
    await asyncio.sleep(0)
    watch = await actor.watch(None, WAIT_S)
    assert (watch.replicas, len(watch.requests)) == ((replica,), 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert (await actor.watch(None, WAIT_S)).requests == ()


@dataclass(frozen=True, slots=True)
class Asked:
    """A handle of the directory, as Ray has it: every call is a reference to what `future` will be."""

    outcome: Future[None]

    @property
    def watch(self) -> Asked:
        return self

    def remote(self, seen: None, patience_s: float) -> Asked:
        return self

    def future(self) -> Future[None]:
        return self.outcome


def test_one_that_never_starts_is_waited_for_no_longer_than_that() -> None:
    started, failed = Asked(Future()), Asked(Future())
    with pytest.raises(RuntimeUnavailable, match="has not started within 0 s: look with `ray list actors`"):
        await_directory(started, patience_s=0.01)
    started.outcome.set_result(None)
    await_directory(started, WAIT_S)
    failed.outcome.set_exception(ray.exceptions.RayError("no"))
    with pytest.raises(ray.exceptions.RayError, match="no"):
        await_directory(failed, WAIT_S)
