"""Pairs are found in any order of arrival, memory is bounded, and what did not arrive is told honestly."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.agreement.pairing import MAX_WAITING, MAX_WAITING_BYTES, PATIENCE_S, SETTLE_S, Pair, Pairing, Side
from serving.answers import Answer, Answered, Failed, Form, Key, OutputRecord, Unanswered

STABLE, CANDIDATE = Side.STABLE, Side.CANDIDATE


def answered(value: int = 0, size: int = 1) -> Answered:
    return Answered((OutputRecord("y", "UINT8", (size,), Form.WHOLE, bytes([value]) * size),))


def answer(number: int, what: Answered | Failed | Unanswered | None = None) -> Answer:
    return Answer(Key(f"r-{number}", number), what or answered())


def test_both_orders_of_arrival_make_the_same_pair() -> None:
    stable, candidate = answer(1, answered(1)), answer(1, answered(2))
    wanted = Pair("r-1", answered(1), answered(2))
    one, other = Pairing(0.0), Pairing(0.0)

    assert one.add(STABLE, stable, 10.0, 10.0) is None
    assert one.add(CANDIDATE, candidate, 10.0, 11.0) == wanted
    assert other.add(CANDIDATE, candidate, 10.0, 10.0) is None
    assert other.add(STABLE, stable, 10.0, 11.0) == wanted
    assert (one.mirrored, one.arrived) == (other.mirrored, other.arrived) == (1, 1)
    assert one.waiting == other.waiting == 0


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 3)), max_size=40), st.randoms())
def test_whatever_the_order_every_two_answers_to_a_request_meet_once(
    requests: list[tuple[bool, bool, int]], chance: random.Random
) -> None:
    """Each request is answered so often by stable, by the candidate, or by both."""
    arrivals = []
    for number, (by_stable, by_candidate, times) in enumerate(requests):
        arrivals += [(STABLE, answer(number))] * (times * by_stable)
        arrivals += [(CANDIDATE, answer(number))] * (times * by_candidate)
    chance.shuffle(arrivals)
    pairing = Pairing(0.0)

    found = [pairing.add(side, one, 10.0, 10.0) for side, one in arrivals]
    pairing.expire(11.0 + PATIENCE_S)

    arrived = sum(times for by_stable, by_candidate, times in requests if by_stable and by_candidate)
    mirrored = sum(times for by_stable, _, times in requests if by_stable)
    assert sum(pair is not None for pair in found) == arrived
    assert (pairing.mirrored, pairing.arrived) == (mirrored, arrived)
    assert pairing.waiting == 0


@pytest.mark.parametrize(
    ("stable", "candidate", "is_pair"),
    [
        (answered(), Failed("BadRequest"), True),
        (answered(), Unanswered(), False),
        (Failed("BadRequest"), answered(), False),
        (Failed("BadRequest"), Failed("BadRequest"), False),
        (Unanswered(), answered(), False),
    ],
)
def test_a_pair_needs_stable_s_answer_and_a_candidate_that_could(
    stable: Answered | Failed | Unanswered, candidate: Answered | Failed | Unanswered, is_pair: bool
) -> None:
    pairing = Pairing(0.0)
    pairing.add(STABLE, answer(1, stable), 10.0, 10.0)

    assert (pairing.add(CANDIDATE, answer(1, candidate), 10.0, 10.0) is not None) is is_pair
    assert (pairing.mirrored, pairing.arrived) == (1, 1)


def test_requests_of_the_same_id_and_another_body_are_not_mixed_up() -> None:
    pairing = Pairing(0.0)
    pairing.add(STABLE, Answer(Key("same", 1), answered()), 10.0, 10.0)

    assert pairing.add(CANDIDATE, Answer(Key("same", 2), answered()), 10.0, 10.0) is None


def test_a_copy_is_lost_when_it_has_not_come_in_time_and_not_before() -> None:
    pairing = Pairing(0.0)
    pairing.add(STABLE, answer(1), 10.0, 10.0)
    pairing.add(CANDIDATE, answer(2), 10.0, 10.0)

    pairing.expire(10.0 + PATIENCE_S)
    assert (pairing.mirrored, pairing.arrived, pairing.waiting) == (0, 0, 2)

    pairing.expire(10.1 + PATIENCE_S)
    assert (pairing.mirrored, pairing.arrived, pairing.waiting) == (1, 0, 0)


def test_nothing_is_called_lost_that_may_have_been_missed() -> None:
    pairing = Pairing(0.0)
    pairing.add(STABLE, answer(1), SETTLE_S - 0.1, SETTLE_S)  # too soon after the beginning
    pairing.add(STABLE, answer(2), 10.0, 10.0)
    pairing.gap(12.0)
    pairing.add(STABLE, answer(3), 12.0 + SETTLE_S, 12.0 + SETTLE_S)

    pairing.expire(100.0)

    assert (pairing.mirrored, pairing.arrived) == (1, 0)


def test_a_gap_does_not_keep_answers_from_being_compared() -> None:
    pairing = Pairing(0.0)
    pairing.add(STABLE, answer(1), 10.0, 10.0)
    pairing.gap(10.5)

    assert pairing.add(CANDIDATE, answer(1), 10.0, 11.0) is not None
    assert (pairing.mirrored, pairing.arrived) == (0, 0)


@pytest.mark.parametrize("side", Side)
def test_memory_is_bounded_in_number_and_what_had_to_go_is_not_called_lost(side: Side) -> None:
    pairing = Pairing(0.0)
    for number in range(MAX_WAITING + 100):
        pairing.add(side, answer(number), 10.0, 10.0)

    assert pairing.waiting == MAX_WAITING
    pairing.expire(100.0)
    assert (pairing.mirrored, pairing.waiting) == (0, 0)


def test_memory_is_bounded_in_bytes() -> None:
    pairing = Pairing(0.0)
    size = MAX_WAITING_BYTES // 10
    for number in range(50):
        pairing.add(STABLE, answer(number, answered(size=size)), 10.0, 10.0)

    assert 0 < pairing.waiting <= 10
