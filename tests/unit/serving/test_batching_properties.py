"""Any order of events: nothing is lost, doubled, mixed, starved, or made to wait beyond its slack."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serving.batching import BatchQueue
from serving.errors import Overloaded
from serving.levels import LATE_LEVEL, WEIGHTS
from serving.work import Batch, Work, WorkState
from tests.unit.serving.queues import queue, run, work

MAX_ROWS = 8


class Queueing(RuleBasedStateMachine):
    """Adding, cancelling, failing, waiting, taking and running, against a plain list as the model.

    Latencies are such that sometimes joining pays and sometimes not, and that holding back happens.
    """

    @initialize(
        first_ms=st.floats(0.01, 20.0),
        growth=st.floats(1.0, 2.1),
        max_waiting=st.integers(1, 12),
        objective_ms=st.sampled_from([5.0, 50.0, 500.0]),
        slots=st.integers(1, 2),
        is_binding=st.booleans(),
    )
    def start(
        self, first_ms: float, growth: float, max_waiting: int, objective_ms: float, slots: int, is_binding: bool
    ) -> None:
        latency_s = {1 << at: first_ms / 1000 * growth**at for at in range(4)}
        self.objective_s = objective_ms / 1000
        self.max_waiting = max_waiting
        self.free_slots = slots
        self.queue = queue(latency_s, MAX_ROWS, max_waiting, self.objective_s, slots, is_binding)
        self.now_s = 100.0
        self.waiting: list[Work] = []
        self.running: list[Batch] = []
        self.rows_seen: dict[Work, int] = {}
        self.ended: set[Work] = set()

    @rule(
        rows=st.integers(1, 25),
        columns=st.integers(1, 3),
        patience_s=st.sampled_from([0.01, 0.2, 2.0, math.inf]),
        priority=st.integers(0, 5),
    )
    def add(self, rows: int, columns: int, patience_s: float, priority: int) -> None:
        each = work(rows, self.now_s + patience_s, columns, self.now_s, priority)
        try:
            self.queue.add(each)
        except Overloaded:
            assert self.waiting or self.running  # an idle model refuses nobody
            return
        assert len(self.waiting) < self.max_waiting
        self.waiting.append(each)

    @rule(seconds=st.sampled_from([0.0005, 0.02, 1.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(at=st.integers(0, 11), state=st.sampled_from([WorkState.CANCELLED, WorkState.DONE]))
    def discard(self, at: int, state: WorkState) -> None:
        if at < len(self.waiting):
            each = self.waiting.pop(at)
            self.queue.discard(each, state)
            self.ended.add(each)

    @rule()
    def take(self) -> None:
        if not self.free_slots:
            return
        batch, expired = self.queue.take(self.now_s)
        for each in expired:
            assert each.deadline_s <= self.now_s
            assert each not in self.rows_seen
            self.waiting.remove(each)
            self.ended.add(each)
        if batch is None:
            if self.waiting:
                self.check_holding_back()
            return
        self.check(batch)
        self.running.append(batch)
        self.free_slots -= 1

    @rule(at=st.integers(0, 1), factor=st.sampled_from([0.3, 1.0, 4.0]))
    def run(self, at: int, factor: float) -> None:
        if at >= len(self.running):
            return
        batch = self.running.pop(at)
        batch.lane.table.observe(batch.rows, factor * batch.lane.table.typical_s(batch.rows))
        self.free_slots += 1
        self.queue.ended(batch, self.now_s)
        if batch.is_piece and not batch.is_last_piece:
            self.waiting.append(batch.works[0])
            return
        for each in batch.works:
            self.queue.discard(each, WorkState.DONE)
            assert each not in self.ended  # answered once
            self.ended.add(each)

    def check(self, batch: Batch) -> None:
        assert 0 < batch.rows <= MAX_ROWS
        assert len({each.inputs["x"].shape[1:] for each in batch.works}) == 1
        if len(batch.works) > 1:
            assert sum(each.rows for each in batch.works) == batch.rows
        for each in batch.works:
            assert each.state is WorkState.TAKEN
            assert each not in self.ended
            rows = batch.rows if batch.is_piece else each.rows
            assert batch.start == self.rows_seen.get(each, 0)
            self.rows_seen[each] = batch.start + rows
            self.waiting.remove(each)
            # Of its level and shape, nothing that is due earlier was passed over.
            for passed in self.waiting:
                if passed in batch.works or passed.level != each.level or passed.deadline_s <= self.now_s:
                    continue
                if passed.inputs["x"].shape[1:] == each.inputs["x"].shape[1:]:
                    assert passed.due_s >= each.due_s

    def check_holding_back(self) -> None:
        """Only for a moment, and only as far as every one of those who wait can afford it."""
        until_s = self.queue.deadline()
        assert self.now_s < until_s < math.inf
        assert until_s <= min(each.due_s for each in self.waiting)

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "queue"):
            assert len(self.queue) == len(self.waiting)

    def teardown(self) -> None:
        """Whatever has happened: everybody who still waits is taken in the end."""
        if not hasattr(self, "queue"):
            return
        while self.running:
            self.run(0, 1.0)
        for _ in range(200):
            self.now_s += 0.2
            self.take()
            while self.running:
                self.run(0, 1.0)
        assert not self.waiting
        assert not len(self.queue)


Queueing.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_no_work_is_lost_doubled_overtaken_or_mixed = Queueing.TestCase


def kept_full(q: BatchQueue, priorities: list[int], rounds: int) -> dict[int, int]:
    """Rows served at each of `priorities`, while always somebody waits at all of them. Runs take 10 ms."""
    served = dict.fromkeys(priorities, 0)
    for priority in priorities:
        for _ in range(3):
            q.add(work(priority=priority))
    for round_ in range(rounds):
        batch = run(q, round_ * 0.01)
        for each in batch.works:
            served[each.priority] += each.rows
            q.add(work(priority=each.priority, at_s=round_ * 0.01))
    return served


@given(st.sets(st.integers(1, 4), min_size=2))
@settings(deadline=None, max_examples=20)
def test_no_priority_starves_and_each_gets_at_least_its_weight_s_share(priorities: set[int]) -> None:
    q = queue({1: 0.01, 2: 0.02, 4: 0.04, 8: 0.08}, max_waiting=1000)
    rounds = 400
    served = kept_full(q, sorted(priorities), rounds)
    weights = {priority: WEIGHTS[priority - 1] for priority in priorities}
    for priority, count in served.items():
        assert count >= rounds * weights[priority] / sum(weights.values()) - 2


@given(st.lists(st.tuples(st.floats(0.0, 0.004), st.integers(1, 4)), min_size=5, max_size=60))
@settings(deadline=None, max_examples=100)
def test_holding_back_never_costs_an_objective_that_could_have_been_met(arrivals: list[tuple[float, int]]) -> None:
    """An idle model whose every run takes exactly what was measured: whoever waits for company is still in time."""
    latency_s = {1: 0.004, 2: 0.0042, 4: 0.005, 8: 0.006}
    objective_s = 0.02
    q = queue(latency_s, objective_s=objective_s, ragged=())
    now_s = 0.0
    for gap_s, rows in arrivals:
        now_s += gap_s
        q.add(work(rows, at_s=now_s))
        batch, _ = q.take(now_s)
        if batch is None:
            held_since_s, now_s = now_s, q.deadline()
            assert now_s - held_since_s <= latency_s[1]
            batch, _ = q.take(now_s)
        assert batch is not None
        now_s += batch.lane.table.typical_s(batch.rows)
        q.ended(batch, now_s)
        assert now_s <= batch.works[0].enqueued_s + objective_s


def test_late_requests_keep_a_share_of_an_overloaded_model() -> None:
    q = queue({1: 0.01, 2: 0.02}, max_batch_rows=2, objective_s=0.05, max_waiting=60, ragged=())
    late = [work(deadline_s=60.0) for _ in range(30)]
    for each in late:
        q.add(each)
    served_late, now_s = 0, 0.1
    for _ in range(200):
        for _ in range(3):
            try:
                q.add(work(at_s=now_s, deadline_s=now_s + 60.0))
            except Overloaded:
                continue
        batch, _ = q.take(now_s)
        assert batch is not None
        q.ended(batch, now_s + 0.01)
        served_late += batch.works[0].level == LATE_LEVEL
        now_s += 0.01
    assert served_late == pytest.approx(200 / 17, abs=3)
