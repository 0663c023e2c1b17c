"""The collector, on replicas in memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from router.agreement.collector import Agreement
from router.agreement.ports import ReplicaSilent
from router.domain.evidence import Answers
from router.domain.routing import Address, Replica, ReplicaState, UnixAddress
from router.rollout_ports import Pairs
from serving.answers import Answer, Answered, Form, Key, OutputRecord
from serving.sampling import Batch, Order, Sampling


@dataclass
class MemoryReplicas:
    """Implements `AnswerSource`: each address has a `Sampling`, except those that are gone."""

    samplings: dict[Address, Sampling] = field(default_factory=dict)
    gone: set[Address] = field(default_factory=set)
    asked: list[Address] = field(default_factory=list)
    now_s: float = 0.0

    async def collect(self, address: Address, order: Order) -> Batch:
        self.asked.append(address)
        await asyncio.sleep(0)
        if address in self.gone:
            raise ReplicaSilent("nobody listens")
        return self.samplings.setdefault(address, Sampling()).renew(order, self.now_s)

    def answer(self, replica: Replica, number: int, value: int) -> None:
        output = OutputRecord("y", "UINT8", (1,), Form.WHOLE, bytes([value]))
        self.samplings[replica.address].keep(Answer(Key(f"r-{number}", number), Answered((output,))), self.now_s)


def replica(endpoint: str, deployment: str) -> Replica:
    address = UnixAddress(f"/run/{endpoint}-{deployment}")
    return Replica(f"{endpoint}-{deployment}", endpoint, deployment, "g1", address, ReplicaState.READY)


BLUE, GREEN, GREY = (replica("fraud", name) for name in ("blue", "green", "grey"))
OTHER = replica("other", "blue")


@pytest.fixture
def source() -> MemoryReplicas:
    return MemoryReplicas()


@pytest.fixture
def endpoints() -> set[str]:
    """Those that exist."""
    return {"fraud", "other"}


@pytest.fixture
def agreement(source: MemoryReplicas, endpoints: set[str]) -> Agreement:
    return Agreement(source, lambda: (BLUE, GREEN, GREY, OTHER), endpoints.__contains__)


async def answered(
    agreement: Agreement, source: MemoryReplicas, number: int, blue: int, other: Replica, value: int
) -> None:
    """A request and its copy, and the round that learns of them."""
    source.answer(BLUE, number, blue)
    source.answer(other, number, value)
    await agreement.collect()


async def test_nothing_is_asked_of_anybody_unless_something_is_compared(
    agreement: Agreement, source: MemoryReplicas
) -> None:
    await agreement.collect()

    assert source.asked == []
    assert agreement.pairs("fraud") == Pairs()
    assert agreement.differences("fraud", 10) == ()


async def test_pairs_are_counted_while_an_endpoint_is_compared_and_stay_known_after(
    agreement: Agreement, source: MemoryReplicas
) -> None:
    agreement.compare("fraud", "blue", "green")
    await agreement.collect()
    await answered(agreement, source, 1, 5, GREEN, 5)
    await answered(agreement, source, 2, 5, GREEN, 6)
    agreement.stop("fraud")
    source.answer(BLUE, 3, 5)
    source.answer(GREEN, 3, 6)
    await agreement.collect()

    assert set(source.asked) == {BLUE.address, GREEN.address}
    assert agreement.pairs("fraud").answers == Answers(2, 1)
    assert [difference.request_id for difference in agreement.differences("fraud", 10)] == ["r-2"]
    assert agreement.differences("fraud", 0) == ()
    assert agreement.all_pairs() == {"fraud": agreement.pairs("fraud")}


async def test_asking_again_for_the_same_changes_nothing(agreement: Agreement, source: MemoryReplicas) -> None:
    agreement.compare("fraud", "blue", "green")
    await agreement.collect()
    source.answer(BLUE, 1, 5)
    await agreement.collect()
    agreement.compare("fraud", "blue", "green")
    source.answer(GREEN, 1, 5)
    await agreement.collect()

    assert agreement.pairs("fraud").answers == Answers(1, 0)


async def test_another_candidate_begins_without_differences_and_with_the_counts(
    agreement: Agreement, source: MemoryReplicas
) -> None:
    agreement.compare("fraud", "blue", "green")
    await agreement.collect()
    await answered(agreement, source, 1, 5, GREEN, 6)

    agreement.compare("fraud", "blue", "grey")
    await agreement.collect()
    await answered(agreement, source, 2, 5, GREY, 5)

    assert agreement.differences("fraud", 10) == ()
    assert agreement.pairs("fraud").answers == Answers(2, 1)


async def test_a_replica_that_is_silent_does_not_keep_others_from_being_heard(
    agreement: Agreement, source: MemoryReplicas
) -> None:
    source.gone.add(OTHER.address)
    agreement.compare("fraud", "blue", "green")
    agreement.compare("other", "blue", "green")
    await agreement.collect()
    await answered(agreement, source, 1, 5, GREEN, 5)

    assert agreement.pairs("fraud").answers == Answers(1, 0)
    assert agreement.pairs("other") == Pairs()


async def test_run_collects_as_soon_as_something_is_compared(agreement: Agreement, source: MemoryReplicas) -> None:
    running = asyncio.create_task(agreement.run())
    await asyncio.sleep(0)
    assert source.asked == []

    agreement.compare("fraud", "blue", "green")
    async with asyncio.timeout(30):
        while len(source.asked) < 2:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_replicas_say_after_the_end_is_not_kept(agreement: Agreement, source: MemoryReplicas) -> None:
    agreement.compare("fraud", "blue", "green")
    await agreement.collect()
    source.now_s += 1
    source.answer(BLUE, 1, 7)
    source.answer(GREEN, 1, 7)

    collecting = asyncio.create_task(agreement.collect())
    await asyncio.sleep(0)
    agreement.stop("fraud")
    await collecting

    assert agreement.pairs("fraud") == Pairs()


async def test_what_was_found_on_an_endpoint_is_forgotten_with_it(
    agreement: Agreement, source: MemoryReplicas, endpoints: set[str]
) -> None:
    agreement.compare("fraud", "blue", "green")
    await agreement.collect()
    await answered(agreement, source, 1, 5, GREEN, 6)

    endpoints.remove("fraud")
    assert agreement.all_pairs() == {}
    endpoints.add("fraud")
    agreement.compare("fraud", "blue", "green")
    assert (agreement.pairs("fraud"), agreement.differences("fraud", 10)) == (Pairs(), ())


async def test_nobody_is_asked_about_an_endpoint_that_is_gone(
    agreement: Agreement, source: MemoryReplicas, endpoints: set[str]
) -> None:
    agreement.compare("fraud", "blue", "green")
    endpoints.remove("fraud")
    agreement.compare("other", "blue", "green")
    await agreement.collect()
    assert source.asked == [OTHER.address]
