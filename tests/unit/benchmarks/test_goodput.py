"""Goodput, the search for the highest rate, and recovery: what an open loop's answers mean."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.goodput import Answers, highest_rate


def answers(intended_s: list[float], latency_s: list[float], status: list[int], late_s: float = 0.0) -> Answers:
    late = np.full(len(intended_s), late_s)
    return Answers(np.array(intended_s, float), late, np.array(latency_s, float), np.array(status))


def test_only_a_200_within_the_objective_counts():
    run = answers([0, 1, 2, 3], [0.01, 0.03, 0.01, math.inf], [200, 200, 429, 0])
    assert run.inside(0.02).tolist() == [True, False, False, False]
    assert run.share_inside(0.02) == 0.25
    assert run.goodput(0.02, duration_s=4.0) == 0.25
    assert run.refusal_latencies_s().tolist() == [0.01]


def test_a_run_without_requests_missed_nothing():
    assert answers([], [], []).share_inside(0.02) == 1.0
    assert answers([], [], []).kept_schedule


def test_a_generator_that_was_late_did_not_keep_its_schedule():
    assert answers([0, 1], [0.01, 0.01], [200, 200], late_s=0.0009).kept_schedule
    assert not answers([0, 1], [0.01, 0.01], [200, 200], late_s=0.0011).kept_schedule


def test_a_phase_is_what_was_meant_to_be_sent_in_it():
    run = answers([0.0, 1.0, 1.5, 2.0], [0.1, 0.2, 0.3, 0.4], [200] * 4)
    assert run.between(1.0, 2.0).latency_s.tolist() == [0.2, 0.3]


def test_recovered_is_the_moment_from_which_on_all_is_well():
    times = np.arange(0, 10, 0.01)
    latency = np.where(times < 6.6, 0.5, 0.01)  # overload ends at 5, the backlog at 6.6
    run = answers(times.tolist(), latency.tolist(), [200] * len(times))
    assert run.recovery_s(since_s=5.0, slo_s=0.02) == 1.75


def test_who_was_never_ill_is_well_at_once_and_who_stays_ill_never_recovers():
    times = np.arange(0, 10, 0.01).tolist()
    assert answers(times, [0.01] * 1000, [200] * 1000).recovery_s(5.0, 0.02) == 0.0
    assert math.isinf(answers(times, [0.5] * 1000, [200] * 1000).recovery_s(5.0, 0.02))


@given(limit=st.floats(50.0, 1000.0), start=st.floats(60.0, 700.0))
def test_the_search_ends_just_below_the_limit(limit: float, start: float):
    found = highest_rate(lambda rate: rate <= limit, start, bisections=4)
    assert found <= limit
    assert found >= limit / 1.5 ** (1 / 16) * 0.999  # a factor of 1.5, halved four times


def test_the_search_gives_up_on_a_server_that_holds_no_rate():
    tried: list[float] = []
    assert highest_rate(lambda rate: bool(tried.append(rate)), 100.0, bisections=3) == 0.0
    assert min(tried) == pytest.approx(100 / 1.5**7)


def test_the_search_takes_no_step_twice():
    tried: list[float] = []

    def holds(rate: float) -> bool:
        tried.append(rate)
        return rate <= 130

    highest_rate(holds, 100.0, bisections=2)
    assert tried == pytest.approx([100, 150, math.sqrt(100 * 150), math.sqrt(math.sqrt(100 * 150) * 150)])
