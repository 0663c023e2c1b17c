"""Open-loop schedules: their rate, their shape, and that they can be repeated."""

import numpy as np
import pytest

from benchmarks.arrivals import BURST_S, Arrivals, one_after_the_other, schedule

BOTH = pytest.mark.parametrize("arrivals", list(Arrivals))


@BOTH
def test_the_same_arguments_give_the_same_schedule_and_another_seed_another_one(arrivals: Arrivals):
    first = schedule(arrivals, 100.0, 10.0, seed=1)
    assert np.array_equal(first, schedule(arrivals, 100.0, 10.0, seed=1))
    assert not np.array_equal(first, schedule(arrivals, 100.0, 10.0, seed=2))


@BOTH
def test_times_ascend_inside_the_duration(arrivals: Arrivals):
    times = schedule(arrivals, 500.0, 4.0, seed=3)
    assert np.all(np.diff(times) >= 0)
    assert times[0] >= 0
    assert times[-1] < 4.0


def test_poisson_arrivals_come_at_their_rate_one_by_one():
    times = schedule(Arrivals.POISSON, 1000.0, 100.0, seed=4)
    assert abs(len(times) - 100_000) < 6 * np.sqrt(100_000)
    gaps = np.diff(times)
    assert np.all(gaps > 0)
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(1.0, abs=0.05)  # 1 for an exponential distribution


def test_bursts_come_at_the_same_rate_but_only_half_of_the_time():
    times = schedule(Arrivals.BURSTS, 1000.0, 100.0, seed=5)
    assert abs(len(times) - 100_000) < 6 * np.sqrt(100_000)
    assert np.all(times % (2 * BURST_S) <= BURST_S + 1e-9)


def test_a_rate_so_low_that_nothing_arrives_is_an_empty_schedule():
    assert len(schedule(Arrivals.POISSON, 1e-9, 1.0, seed=1)) == 0


def test_a_rate_or_duration_of_zero_is_refused():
    with pytest.raises(ValueError, match="0 requests a second"):
        schedule(Arrivals.POISSON, 0, 1.0, seed=1)


def test_joined_schedules_begin_where_the_one_before_ends():
    joined = one_after_the_other((np.array([0.0, 1.0]), 2.0), (np.array([0.5]), 3.0), (np.array([0.25]), 1.0))
    assert joined.tolist() == [0.0, 1.0, 2.5, 5.25]
