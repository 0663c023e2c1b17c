"""How busy a replica is, worked out from totals; and for how long nobody has asked."""

from __future__ import annotations

import pytest

from serving.load import IdleWatch, LoadMeter, WorkDone


def test_the_load_is_the_time_in_which_batches_ran() -> None:
    meter = LoadMeter(now_s=100.0)
    assert meter.sample(102.0, WorkDone(1.0, 10, 0), thread_s=0.1) == 0.5
    assert meter.sample(104.0, WorkDone(1.0, 10, 0), thread_s=0.1) == 0.0
    assert meter.sample(105.0, WorkDone(1.25, 20, 0), thread_s=0.1) == 0.25


def test_a_small_models_load_is_the_time_of_the_thread_that_parses() -> None:
    meter = LoadMeter(now_s=0.0)
    assert meter.sample(1.0, WorkDone(0.1, 1000, 0), thread_s=0.9) == 0.9


def test_one_replica_cannot_be_more_than_busy() -> None:
    meter = LoadMeter(now_s=0.0)
    assert meter.sample(1.0, WorkDone(1.5, 1, 0), thread_s=0.0) == 1.0


def test_a_run_that_is_longer_than_a_sample_counts_while_it_lasts() -> None:
    meter = LoadMeter(now_s=0.0)
    assert meter.sample(1.0, WorkDone(0.0, 0, 1), thread_s=0.0) == 1.0
    assert meter.sample(2.0, WorkDone(2.0, 1, 0), thread_s=0.0) == 1.0
    assert meter.sample(3.0, WorkDone(2.0, 1, 0), thread_s=0.0) == 0.0


def test_what_waits_counts_by_the_time_that_it_will_take() -> None:
    meter = LoadMeter(now_s=0.0)
    # 100 requests of 10 ms in the second, and 1,000 more that wait: ten seconds of work, five seconds to do it.
    assert meter.sample(1.0, WorkDone(1.0, 100, 1000), thread_s=0.0) == pytest.approx(1.0 + 10 / 5)


def test_two_samples_at_the_same_time_say_nothing_and_break_nothing() -> None:
    meter = LoadMeter(now_s=0.0)
    assert meter.sample(0.0, WorkDone(0.0, 0, 3), thread_s=0.0) == 0.0


def test_idleness_begins_anew_with_every_request() -> None:
    watch = IdleWatch(now_s=0.0)
    assert watch.idle_s(5.0, WorkDone(0.0, 0, 0)) == 5.0
    assert watch.idle_s(6.0, WorkDone(0.0, 0, 1)) == 0.0  # one is under way
    assert watch.idle_s(7.0, WorkDone(0.1, 1, 0)) == 0.0  # it was answered since
    assert watch.idle_s(9.5, WorkDone(0.1, 1, 0)) == 2.5
    assert watch.idle_s(10.0, WorkDone(0.2, 2, 0)) == 0.0  # another came and went
