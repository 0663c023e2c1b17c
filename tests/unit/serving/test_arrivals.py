"""When to wait for company: the sums, and what is learned of those who come."""

from __future__ import annotations

import pytest

from serving.arrivals import Arrivals, is_worth_a_thought, patience_s, rows_worth_waiting_for
from serving.latency import LatencyTable
from tests.unit.serving.queues import queue, run, work

FLAT = {1: 0.010, 2: 0.0105, 4: 0.011, 8: 0.012, 16: 0.014, 32: 0.018}
SUM = {rows: 0.010 * rows for rows in FLAT}
WINDOW_S = 0.0025  # a quarter of what one row takes


@pytest.mark.parametrize(
    ("latency_s", "rows", "expected", "slack_s", "wanted"),
    [
        (FLAT, 1, 15.0, 1.0, 16),  # fifteen come, and would each wait for a run of 10 ms
        (FLAT, 1, 0.4, 1.0, 0),  # hardly anybody comes
        (FLAT, 1, 15.0, 0.010, 0),  # those who are there cannot wait
        (FLAT, 16, 3.0, 1.0, 0),  # it would cost the many more than it saves the few
        (FLAT, 8, 8.0, 1.0, 16),
        (FLAT, 32, 9.0, 1.0, 0),  # full
        (FLAT, 30, 9.0, 1.0, 0),  # nearly full
        (FLAT, 8, 7.0, 1.0, 0),  # more wait than come
        (SUM, 1, 15.0, 1.0, 0),  # joining saves nothing
    ],
)
def test_it_pays_to_wait_only_when_those_who_come_save_more_than_those_who_are_there_lose(
    latency_s: dict[int, float], rows: int, expected: float, slack_s: float, wanted: int
) -> None:
    table = LatencyTable(latency_s, 32)
    assert rows_worth_waiting_for(table, rows, expected, WINDOW_S, slack_s) == wanted


def test_a_lone_request_waits_a_quarter_of_its_own_run_at_most_and_not_at_all_for_a_fast_model() -> None:
    assert patience_s(LatencyTable(FLAT, 32)) == WINDOW_S
    assert is_worth_a_thought(LatencyTable(FLAT, 32))
    assert not is_worth_a_thought(LatencyTable({1: 0.0001, 2: 0.00012}, 2))


def test_who_comes_within_a_moment_of_the_slot_being_free_is_counted() -> None:
    arrivals = Arrivals()
    assert arrivals.expected(0.0, 0.01) == 0.0
    for turn in range(1, 40):
        arrivals.came(7)
        expected = arrivals.expected(float(turn), 0.01)
    assert expected == pytest.approx(7.0, rel=0.01)
    for turn in range(40, 80):
        expected = arrivals.expected(float(turn), 0.01)
    assert expected < 0.01


def test_clients_that_come_back_together_are_waited_for_and_run_together() -> None:
    """Sixteen clients, each of which asks again 0.4 to 0.6 ms after its answer."""
    q = queue(FLAT, max_batch_rows=32, objective_s=0.5, ragged=())
    sizes = []
    arrivals = [(at * 1e-5, 1) for at in range(16)]
    now_s = 0.0
    for _ in range(60):
        batch = None
        while batch is None:
            while arrivals and (arrivals[0][0] <= now_s or not len(q)):
                now_s = max(now_s, arrivals[0][0])
                q.add(work(at_s=arrivals.pop(0)[0]))
            batch, _ = q.take(now_s)
            if batch is None and arrivals and arrivals[0][0] < q.deadline():
                now_s = arrivals[0][0]
            elif batch is None:
                now_s = q.deadline()
        sizes.append(batch.rows)
        now_s += FLAT[1]
        q.ended(batch, now_s)
        arrivals += [(now_s + 4e-4 + 1e-5 * at, 1) for at in range(batch.rows)]
        arrivals.sort()
    assert set(sizes[-10:]) == {16}


def test_requests_that_come_one_by_one_are_never_held_back() -> None:
    q = queue(FLAT, max_batch_rows=32, objective_s=0.5, ragged=())
    for turn in range(200):
        q.add(work(at_s=turn * 0.02))
        assert run(q, turn * 0.02).rows == 1


def test_an_urgent_request_ends_the_waiting() -> None:
    for deadline_s, is_over in ((0.018, True), (1.0, False)):
        q = queue(FLAT, max_batch_rows=32, objective_s=0.5, ragged=())
        for turn in range(20):  # until it is known that fifteen more come
            at_s = turn - 20.0
            q.add(work(at_s=at_s))
            batch, _ = q.take(at_s)
            for _ in range(15):
                q.add(work(at_s=at_s + 0.001))
            for _ in range(2 if batch is None else 1):
                if batch is not None:
                    q.ended(batch, at_s + 0.1)
                batch, _ = q.take(at_s + 0.1)
            if batch is not None:
                q.ended(batch, at_s + 0.2)
        q.add(work(at_s=0.0))
        assert q.take(0.0)[0] is None
        held_until_s = q.deadline()
        assert 0.0 < held_until_s <= 0.01
        q.add(work(at_s=0.0005, deadline_s=deadline_s))
        assert (q.deadline() <= 0.0005) is is_over
