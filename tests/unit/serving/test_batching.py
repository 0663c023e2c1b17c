"""The forming of batches: tables for the rules. (Any order of events: test_batching_properties.py.)"""

from __future__ import annotations

from contextlib import suppress

import pytest

from serving.batching import BatchQueue
from serving.errors import Overloaded, Refusal
from serving.work import Batch, Work, WorkState
from tests.unit.serving.queues import queue, run, taken, work

NEVER_PAYS = {1: 1e-5, 2: 2e-5, 4: 4e-5, 8: 8e-5}
PAYS_UP_TO_4 = {1: 1e-5, 2: 1e-5, 4: 1e-5, 8: 8e-5}
FREE = dict.fromkeys((1, 2, 4, 8), 1e-5)


@pytest.mark.parametrize(
    ("latency_s", "requests", "expected"),
    [
        (FREE, [], []),
        (FREE, [1], [1]),
        (FREE, [1] * 8, [8]),
        (FREE, [1] * 9, [8, 1]),
        (FREE, [3, 3, 3], [6, 3]),  # rows are counted, not requests
        (FREE, [7, 2, 1], [7, 3]),  # the one that does not fit is not overtaken
        (FREE, [8, 8], [8, 8]),
        (NEVER_PAYS, [1, 1, 1], [1, 1, 1]),
        (NEVER_PAYS, [5, 1], [5, 1]),  # but a request's own rows stay together
        (PAYS_UP_TO_4, [2, 2, 2], [4, 2]),
        (PAYS_UP_TO_4, [6, 1], [6, 1]),  # bigger than what is joined, smaller than what may run
        (FREE, [20], [8, 8, 4]),  # bigger than one execution: in pieces
        (FREE, [20, 1], [8, 8, 4, 1]),
        (FREE, [1, 20, 1], [1, 8, 8, 4, 1]),
        (FREE, [16], [8, 8]),
    ],
)
def test_batches_are_formed_by_rows_first_come_first_served(
    latency_s: dict[int, float], requests: list[int], expected: list[int]
) -> None:
    q = queue(latency_s)
    works = [work(rows) for rows in requests]
    for each in works:
        q.add(each)
    batches = taken(q)
    assert [batch.rows for batch in batches] == expected
    in_order = [each for batch in batches for each in batch.works]
    assert list(dict.fromkeys(in_order)) == works
    assert len(q) == 0
    assert all(each.state is WorkState.TAKEN for each in works)


def test_the_pieces_of_a_big_request_cover_it_exactly_and_the_last_one_is_known() -> None:
    q = queue()
    q.add(work(rows=20))
    batches = taken(q)
    assert [(batch.start, batch.rows) for batch in batches] == [(0, 8), (8, 8), (16, 4)]
    assert all(batch.is_piece for batch in batches)
    assert [batch.is_last_piece for batch in batches] == [False, False, True]


def test_only_equal_shapes_share_a_batch_and_the_oldest_goes_first() -> None:
    q = queue()
    a1, b1, a2, b2, c = work(columns=2), work(columns=3), work(columns=2), work(columns=3), work(columns=4)
    for each in (a1, b1, a2, b2, c):
        q.add(each)
    assert [batch.works for batch in taken(q)] == [[a1, a2], [b1, b2], [c]]


def test_cancelled_work_is_never_taken_and_its_memory_is_let_go() -> None:
    q = queue()
    first, second = work(), work()
    q.add(first)
    q.add(second)
    q.discard(first, WorkState.CANCELLED)
    assert len(q) == 1
    assert not first.inputs
    assert [batch.works for batch in taken(q)] == [[second]]


def test_cancelling_twice_or_after_the_end_changes_nothing() -> None:
    q = queue()
    first, second = work(), work()
    q.add(first)
    q.add(second)
    q.discard(first, WorkState.CANCELLED)
    q.discard(first, WorkState.CANCELLED)
    assert len(q) == 1
    q.take(0.0)
    q.discard(second, WorkState.DONE)
    q.discard(second, WorkState.CANCELLED)
    assert second.state is WorkState.DONE


def test_a_big_request_cancelled_between_two_pieces_gives_no_further_piece() -> None:
    q = queue()
    big, small = work(rows=20), work()
    q.add(big)
    q.add(small)
    piece, _ = q.take(0.0)
    assert piece is not None
    q.discard(big, WorkState.CANCELLED)
    q.ended(piece, 0.1)
    assert [batch.works for batch in taken(q)] == [[small]]
    assert len(q) == 0


@pytest.mark.parametrize(("now_s", "is_expired"), [(9.9, False), (10.0, True), (11.0, True)])
def test_work_past_its_deadline_is_handed_back_instead_of_run(now_s: float, is_expired: bool) -> None:
    q = queue()
    late, live = work(deadline_s=10.0), work()
    q.add(late)
    q.add(live)
    batch, expired = q.take(now_s)
    assert batch is not None
    assert list(expired) == ([late] if is_expired else [])
    assert batch.works == ([live] if is_expired else [late, live])


def test_a_request_whose_pieces_have_begun_is_finished_after_its_deadline() -> None:
    q = queue()
    q.add(work(rows=12, deadline_s=10.0))
    run(q, 9.0)
    batch, expired = q.take(11.0)
    assert batch is not None
    assert batch.is_last_piece
    assert not expired


def test_a_full_queue_refuses_at_once_and_a_cancellation_makes_room() -> None:
    q = queue(max_waiting=2)
    first = work()
    q.add(first)
    q.add(work())
    with pytest.raises(Overloaded, match="2 requests are waiting"):
        q.add(work())
    q.discard(first, WorkState.CANCELLED)
    q.add(work())
    assert [batch.rows for batch in taken(q)] == [2]


def test_cancelled_requests_do_not_pile_up_while_nothing_is_taken() -> None:
    q = queue(max_waiting=5)
    for _ in range(1000):
        each = work()
        q.add(each)
        q.discard(each, WorkState.CANCELLED)
    assert repr(q) == "<BatchQueue waiting=0 held=0 lanes=0>"
    survivor = work()
    q.add(survivor)
    for _ in range(1000):
        each = work()
        q.add(each)
        q.discard(each, WorkState.CANCELLED)
    assert repr(q) == "<BatchQueue waiting=1 held=5 lanes=1>"
    assert [batch.works for batch in taken(q)] == [[survivor]]


def test_taking_all_empties_the_queue_in_order_of_arrival() -> None:
    q = queue()
    works = [work(columns=columns) for columns in (2, 3, 2, 4)]
    for each in works:
        q.add(each)
    q.discard(works[2], WorkState.CANCELLED)
    assert q.take_all() == [works[0], works[1], works[3]]
    assert len(q) == 0
    assert q.take(0.0) == (None, [])


def test_the_one_that_is_due_first_goes_first_and_the_rest_in_order_of_arrival() -> None:
    q = queue(NEVER_PAYS, objective_s=0.05)
    usual, tight, later, tighter = (
        work(at_s=1.0),
        work(at_s=1.0, deadline_s=1.04),
        work(at_s=1.01),
        work(at_s=1.01, deadline_s=1.03),
    )
    for each in (usual, tight, later, tighter):
        q.add(each)
    assert [batch.works for batch in taken(q, 1.01)] == [[tighter], [tight], [usual], [later]]


def test_a_generous_deadline_does_not_make_a_request_wait_longer() -> None:
    q = queue(NEVER_PAYS, objective_s=0.05)
    generous, without = work(at_s=1.0, deadline_s=61.0), work(at_s=1.001)
    q.add(generous)
    q.add(without)
    assert [batch.works for batch in taken(q, 1.01)] == [[generous], [without]]


def test_nothing_overtakes_a_request_that_was_due_when_it_arrived() -> None:
    q = queue(NEVER_PAYS, objective_s=0.05)
    old = work(at_s=1.0)
    q.add(old)
    for at in range(20):
        q.add(work(at_s=1.05 + at / 1000, deadline_s=1.06 + at / 1000))
    assert taken(q, 1.05)[0].works == [old]


def test_a_batch_does_not_grow_to_where_a_member_would_miss_its_deadline() -> None:
    seconds = {1: 0.010, 2: 0.011, 4: 0.013, 8: 0.030}  # an execution of 8 takes 37 ms at the 90th percentile
    q = queue(seconds)
    urgent = work(deadline_s=0.020)
    q.add(urgent)
    rest = [work() for _ in range(7)]
    for each in rest:
        q.add(each)
    assert [batch.rows for batch in taken(q)] == [4, 4]
    q.add(work(deadline_s=0.011))  # cannot be met by anybody: then it costs the others nothing
    for _ in range(7):
        q.add(work())
    assert q.take(0.0)[0].rows == 1  # type: ignore[union-attr]


def test_two_slots_take_two_batches_and_a_big_request_keeps_only_one_of_them_busy() -> None:
    q = queue(slots=2)
    big, small = work(rows=20), work()
    q.add(big)
    q.add(small)
    first, second = q.take(0.0)[0], q.take(0.0)[0]
    assert first is not None
    assert second is not None
    assert (first.works, first.start, first.rows) == ([big], 0, 8)
    assert second.works == [small]
    q.ended(second, 0.0)
    assert q.take(0.0)[0] is None
    q.ended(first, 0.0)
    assert len(q) == 1
    third = q.take(0.0)[0]
    assert third is not None
    assert (third.works, third.start, third.rows) == ([big], 8, 8)


# -- refusals


SLOW = {1: 1.0, 2: 2.0}  # a second a row, joining does not pay


def refused(q: BatchQueue, each: Work) -> Overloaded:
    with pytest.raises(Overloaded) as caught:
        q.add(each)
    return caught.value


def test_a_deadline_that_would_pass_in_the_queue_is_refused_at_once_with_when_to_come_back() -> None:
    q = queue(SLOW, objective_s=1.0, ragged=())
    q.add(work(at_s=10.0))
    q.take(10.0)  # runs until 11
    q.add(work(at_s=10.0))
    q.add(work(at_s=10.0))  # until 13
    error = refused(q, work(at_s=10.5, deadline_s=13.5))
    assert error.reason is Refusal.DEADLINE
    assert error.retry_after_s == pytest.approx(0.75)  # 13 and 1.25, the 90th percentile of its own run, less 13.5
    assert len(q) == 2


def test_an_urgent_request_is_measured_by_those_due_before_it_and_not_by_all() -> None:
    q = queue(SLOW, objective_s=100.0, ragged=())
    for _ in range(20):
        q.add(work())
    q.add(work(deadline_s=1.5))
    assert taken(q)[0].works[0].deadline_s == 1.5


def test_an_idle_model_tries_whatever_comes_so_that_a_wrong_estimate_can_be_unlearned() -> None:
    q = queue(SLOW, ragged=())
    q.add(work(deadline_s=0.001))
    assert [batch.rows for batch in taken(q)] == [1]


def test_the_objective_alone_refuses_nobody() -> None:
    q = queue(SLOW, objective_s=0.05, max_waiting=60, ragged=())
    for _ in range(29):
        q.add(work(deadline_s=60.0))
    assert len(q) == 29


def kept_busy(q: BatchQueue, rows: int, seconds: int) -> list[Overloaded]:
    """Two requests come each second, and the model takes two for each: who was refused."""
    refusals: list[Overloaded] = []
    running: Batch | None = None
    for second in range(seconds):
        for half in (0.0, 0.5):
            try:
                q.add(work(rows, at_s=second + half))
            except Overloaded as error:
                refusals.append(error)
        if running is not None and second % 2 == 0:
            q.ended(running, float(second))
            running = None
        if running is None:
            running, _ = q.take(second + 0.5)
    return refusals


def test_an_objective_that_binds_refuses_who_would_miss_it_when_that_goes_on() -> None:
    two_seconds = {1: 2.0, 2: 4.0}
    refusals = kept_busy(queue(two_seconds, objective_s=4.0, is_binding=True, ragged=()), 1, 60)
    assert {error.reason for error in refusals} == {Refusal.OVERLOAD}
    assert 60 <= len(refusals) <= 100  # of 120, of which 30 can be answered
    assert all(error.retry_after_s > 0.0 for error in refusals)
    assert not kept_busy(queue(two_seconds, objective_s=4.0, max_waiting=1000, ragged=()), 1, 60)


def test_requests_that_would_miss_the_objective_even_alone_do_not_make_an_overload() -> None:
    q = queue({1: 2.0, 2: 4.0}, objective_s=4.0, is_binding=True, max_waiting=1000, ragged=())
    assert not kept_busy(q, 4, 60)


@pytest.mark.parametrize(("handed_over_s", "accepted"), [(0.0, 3), (0.007, 2), (0.016, 1), (1.0, 1)])
def test_what_the_way_there_and_back_takes_is_no_time_to_wait_in(handed_over_s: float, accepted: int) -> None:
    q = queue({1: 0.010, 2: 0.020}, objective_s=0.060, max_waiting=60, ragged=())
    for _ in range(30):  # crowded, and then nobody waits any more
        q.add(work())
    with pytest.raises(Overloaded):
        q.add(work())
    assert len(q.take_all()) == 30
    for _ in range(200):
        q.handed_over(handed_over_s)
    q.add(work())
    assert q.take(0.0)[0] is not None
    for _ in range(9):
        with suppress(Overloaded):
            q.add(work())
    assert len(q) == accepted


def test_a_crowded_queue_accepts_only_what_can_be_in_time_and_lets_the_late_ones_wait() -> None:
    q = queue({1: 0.01, 2: 0.02}, objective_s=0.05, max_waiting=60, ragged=())
    late = [work(deadline_s=60.0) for _ in range(30)]  # 0.3 seconds of work
    for each in late:
        q.add(each)
    error = refused(q, work(at_s=0.001, deadline_s=60.0))
    assert error.reason is Refusal.OVERLOAD
    run(q, 0.05)
    fresh = work(at_s=0.051, deadline_s=60.0)
    q.add(fresh)  # those that are late already are no reason to refuse it
    assert fresh in [run(q, at_s).works[0] for at_s in (0.06, 0.07)]


def test_overload_is_over_a_second_after_the_last_refusal() -> None:
    q = queue({1: 0.01, 2: 0.02}, objective_s=0.05, max_waiting=60, ragged=())
    for _ in range(30):
        q.add(work(deadline_s=60.0))
    refused(q, work(at_s=0.0, deadline_s=60.0))
    for _ in range(20):
        run(q, 0.9)
    for _ in range(29 - len(q)):
        q.add(work(at_s=1.1, deadline_s=60.0))  # later than the objective by far, and nobody minds
    assert len(q) == 29


def test_in_overload_an_objective_that_the_model_cannot_meet_does_not_starve_it() -> None:
    q = queue(SLOW, objective_s=0.05, max_waiting=6, ragged=())
    for _ in range(3):
        q.add(work())
    refused(q, work(at_s=0.0))
    running, _ = q.take(0.0)
    for second in range(1, 50):
        for tenth in range(10):
            with suppress(Overloaded):
                q.add(work(at_s=second + tenth / 10))
        q.ended(running, second + 1.0)
        running, _ = q.take(second + 1.0)
        assert running is not None


# -- priorities


def served(q: BatchQueue, rounds: int) -> list[int]:
    return [run(q, 0.0).works[0].priority for _ in range(rounds)]


def test_levels_share_the_model_by_weight() -> None:
    q = queue(NEVER_PAYS, max_waiting=1000)
    for priority in (1, 0, 3, 7):
        for _ in range(100):
            q.add(work(priority=priority))
    order = served(q, 150)
    assert [order.count(priority) for priority in (1, 0, 3, 7)] == pytest.approx([80, 40, 20, 10], abs=2)


def test_the_default_is_the_second_priority() -> None:
    q = queue(NEVER_PAYS)
    q.add(work(priority=2))
    q.add(work(priority=0))
    q.add(work(priority=2))
    assert served(q, 3) == [2, 0, 2]


def test_a_level_that_was_quiet_has_saved_nothing_up() -> None:
    q = queue(NEVER_PAYS, max_waiting=1000)
    for _ in range(200):
        q.add(work(priority=1))
        q.add(work(priority=0))
    served(q, 200)
    for _ in range(100):
        q.add(work(priority=4))
    assert served(q, 13).count(4) <= 2  # its share is one of thirteen


def test_free_room_in_a_batch_goes_to_the_other_levels() -> None:
    q = queue()
    for priority in (3, 1, 0):
        q.add(work(priority=priority))
    assert [[each.priority for each in batch.works] for batch in taken(q)] == [[1, 0, 3]]


def test_who_asks_for_more_than_the_objective_and_is_refused_costs_the_others_nothing() -> None:
    q = queue({1: 0.01, 2: 0.02}, objective_s=0.05, ragged=())
    for _ in range(10):
        q.add(work(deadline_s=60.0))
    q.take(0.0)
    assert refused(q, work(at_s=0.001, deadline_s=0.005)).reason is Refusal.DEADLINE
    q.add(work(at_s=0.002, deadline_s=60.0))  # late by the objective, and accepted
    assert len(q) == 10
