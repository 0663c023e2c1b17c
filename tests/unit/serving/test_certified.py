"""A replica's certificate: asked for before it listens, renewed at half of its life, whoever answers or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from adapters.replica_tls import ReplicaKeys
from router.domain.errors import ModelUnavailable
from router.domain.replica_tls import CertificateRequest, Certified, Declined
from serving.certified import CertifiedReplica
from tests.internal_ca import BLUE, internal_ca, now, request_of

Answer = Callable[[CertificateRequest], Certified | Declined | None]


class Desk:
    """Implements `Desk`: gives the answers in turn, the last one for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.asked: list[CertificateRequest] = []
        self._answers = list(answers)

    async def certified(self, request: CertificateRequest) -> Certified | Declined | None:
        self.asked.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return answer(request)


CA = internal_ca()


def signs(request: CertificateRequest) -> Certified:
    return CA.for_replica(request, now())


def signs_another(_: CertificateRequest) -> Certified:
    return CA.for_replica(request_of(BLUE), now())


def is_away(_: CertificateRequest) -> None:
    return None


def declines(_: CertificateRequest) -> Declined:
    return Declined("there is no deployment fraud/blue")


class Told:
    def __init__(self) -> None:
        self.words: list[str] = []

    async def __call__(self, words: str) -> None:
        self.words.append(words)


def replica(desk: Desk) -> CertifiedReplica:
    return CertifiedReplica(BLUE, desk, ReplicaKeys())


async def test_it_starts_with_a_certificate_for_its_own_name() -> None:
    desk, told = Desk(signs), Told()
    one = replica(desk)
    await one.start(told)
    assert [request.name for request in desk.asked] == [BLUE]
    assert told.words == []
    one.close()


async def test_while_nobody_answers_it_says_what_it_waits_for() -> None:
    desk = Desk(is_away)
    waiting = asyncio.Event()

    async def tell(words: str) -> None:
        assert "waiting for the control plane" in words
        waiting.set()

    starting = asyncio.create_task(replica(desk).start(tell))
    await waiting.wait()
    assert not starting.done()
    starting.cancel()


@pytest.mark.parametrize(("answer", "why"), [(declines, "no deployment fraud/blue"), (signs_another, "MISMATCH")])
async def test_one_that_is_declined_does_not_start(answer: Answer, why: str) -> None:
    with pytest.raises(ModelUnavailable, match=why):
        await replica(Desk(answer)).start(Told())


async def test_it_is_renewed_at_half_of_its_life_with_another_key() -> None:
    desk = Desk(signs)
    one = replica(desk)
    await one.start(Told())
    await one.look(now() + timedelta(hours=11))
    assert len(desk.asked) == 1
    await one.look(now() + timedelta(hours=12))
    assert len(desk.asked) == 2
    assert desk.asked[0].signing_request != desk.asked[1].signing_request
    one.close()


@pytest.mark.parametrize("answer", [is_away, declines, signs_another])
async def test_what_fails_is_tried_again_at_the_next_look(answer: Answer) -> None:
    desk = Desk(signs, answer, signs)
    one = replica(desk)
    await one.start(Told())
    late = now() + timedelta(hours=12)
    await one.look(late)
    await one.look(late)
    assert len(desk.asked) == 3
    await one.look(now() + timedelta(hours=11))
    assert len(desk.asked) == 3
    one.close()


async def test_one_that_has_not_started_renews_nothing() -> None:
    desk = Desk(signs)
    await replica(desk).look(now() + timedelta(days=1))
    assert desk.asked == []
