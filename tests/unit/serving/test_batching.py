"""The forming of batches: tables for the rules, and a state machine that loses, doubles and mixes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serving.batching import Batch, BatchLimits, BatchQueue, Work, WorkState
from serving.errors import Overloaded


def work(rows: int = 1, deadline_s: float = math.inf, columns: int = 2) -> Work:
    return Work({"x": np.zeros((rows, columns), np.float32)}, ("y",), rows, deadline_s, 0.0, lambda _: None)


def queue(max_batch_rows: int = 8, join_rows: int = 8, max_waiting: int = 100) -> BatchQueue:
    return BatchQueue(BatchLimits(max_batch_rows, join_rows, max_waiting), ["x"])


def taken(q: BatchQueue, now_s: float = 0.0) -> list[Batch]:
    """Every batch, until the queue is empty."""
    batches = []
    while (batch := q.take(now_s)[0]) is not None:
        batches.append(batch)
    return batches


@pytest.mark.parametrize(
    ("max_batch_rows", "join_rows", "requests", "expected"),
    [
        (8, 8, [], []),
        (8, 8, [1], [1]),
        (8, 8, [1] * 8, [8]),
        (8, 8, [1] * 9, [8, 1]),
        (8, 8, [3, 3, 3], [6, 3]),  # rows are counted, not requests
        (8, 8, [7, 2, 1], [7, 3]),  # the one that does not fit is not overtaken
        (8, 8, [8, 8], [8, 8]),
        (8, 1, [1, 1, 1], [1, 1, 1]),  # joining does not pay
        (8, 1, [5, 1], [5, 1]),  # but a request's own rows stay together
        (8, 4, [2, 2, 2], [4, 2]),
        (8, 4, [6, 1], [6, 1]),  # bigger than what is joined, smaller than what may run
        (8, 8, [20], [8, 8, 4]),  # bigger than one execution: in pieces
        (8, 8, [20, 1], [8, 8, 4, 1]),
        (8, 8, [1, 20, 1], [1, 8, 8, 4, 1]),
        (8, 8, [16], [8, 8]),
    ],
)
def test_batches_are_formed_by_rows_first_come_first_served(
    max_batch_rows: int, join_rows: int, requests: list[int], expected: list[int]
) -> None:
    q = queue(max_batch_rows, join_rows)
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
    q.take(0.0)
    q.discard(big, WorkState.CANCELLED)
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
    q.take(9.0)
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
    assert repr(q) == "<BatchQueue waiting=0 held=4 lanes=1>"


def test_taking_all_empties_the_queue_in_order_of_arrival() -> None:
    q = queue()
    works = [work(columns=columns) for columns in (2, 3, 2, 4)]
    for each in works:
        q.add(each)
    q.discard(works[2], WorkState.CANCELLED)
    assert q.take_all() == [works[0], works[1], works[3]]
    assert len(q) == 0
    assert q.take(0.0) == (None, [])


class Queueing(RuleBasedStateMachine):
    """Any order of adding, cancelling, failing, waiting and taking, against a plain list as the model."""

    @initialize(max_batch_rows=st.integers(1, 9), join=st.integers(1, 9), max_waiting=st.integers(1, 12))
    def start(self, max_batch_rows: int, join: int, max_waiting: int) -> None:
        self.limits = BatchLimits(max_batch_rows, min(join, max_batch_rows), max_waiting)
        self.queue = BatchQueue(self.limits, ["x"])
        self.now_s = 0.0
        self.waiting: list[Work] = []
        self.rows_seen: dict[Work, int] = {}

    @rule(rows=st.integers(1, 25), columns=st.integers(1, 3), patience_s=st.sampled_from([0.5, 2.0, math.inf]))
    def add(self, rows: int, columns: int, patience_s: float) -> None:
        each = work(rows, self.now_s + patience_s, columns)
        if len(self.waiting) >= self.limits.max_waiting:
            with pytest.raises(Overloaded):
                self.queue.add(each)
            return
        self.queue.add(each)
        self.waiting.append(each)

    @rule(seconds=st.sampled_from([0.1, 1.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(at=st.integers(0, 11), state=st.sampled_from([WorkState.CANCELLED, WorkState.DONE]))
    def discard(self, at: int, state: WorkState) -> None:
        if at < len(self.waiting):
            self.queue.discard(self.waiting.pop(at), state)

    @rule()
    def take(self) -> None:
        batch, expired = self.queue.take(self.now_s)
        for each in expired:
            assert each.deadline_s <= self.now_s
            assert each not in self.rows_seen
            self.waiting.remove(each)
        if batch is None:
            assert not self.waiting
            return
        self.check(batch)

    def check(self, batch: Batch) -> None:
        assert 0 < batch.rows <= self.limits.max_batch_rows
        assert len({each.inputs["x"].shape[1:] for each in batch.works}) == 1
        if len(batch.works) > 1:
            assert sum(each.rows for each in batch.works) == batch.rows <= self.limits.join_rows
        # Nothing that waited longer, with the same shape, was passed over; and the oldest of all is in the batch.
        same = [e for e in self.waiting if e.inputs["x"].shape[1:] == batch.works[0].inputs["x"].shape[1:]]
        assert same[: len(batch.works)] == batch.works
        assert batch.works[0] is self.waiting[0]
        for each in batch.works:
            rows = batch.rows if batch.is_piece else each.rows
            assert batch.start == self.rows_seen.get(each, 0)
            self.rows_seen[each] = batch.start + rows
            if self.rows_seen[each] == each.rows:
                self.waiting.remove(each)

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "queue"):
            assert len(self.queue) == len(self.waiting)


Queueing.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_no_work_is_lost_doubled_reordered_or_mixed = Queueing.TestCase
