"""The latency table: what it plans, and that it follows a model that changes."""

from __future__ import annotations

import random

import pytest

from serving.latency import LatencyTable

PAYS = {1: 0.010, 2: 0.011, 4: 0.013, 8: 0.017}


def ms(**latency: float) -> dict[int, float]:
    return {int(name[1:]): value / 1000 for name, value in latency.items()}


def test_between_measured_sizes_the_latency_is_a_straight_line_and_beyond_them_it_goes_on() -> None:
    table = LatencyTable(PAYS, 8)
    assert table.typical_s(4) == 0.013
    assert table.typical_s(6) == pytest.approx(0.015)
    assert table.typical_s(12) == pytest.approx(0.021)


def test_sizes_that_warm_up_did_not_reach_are_as_good_per_row_as_the_largest_that_it_did() -> None:
    table = LatencyTable({1: 0.010, 2: 0.011, 4: 0.013}, 64)
    assert table.typical_s(64) == pytest.approx(0.013 * 16)
    assert table.join_rows == 64


def test_another_shape_starts_in_proportion() -> None:
    table = LatencyTable(PAYS, 8).scaled(3.0)
    assert table.typical_s(2) == pytest.approx(0.033)
    assert table.join_rows == 8


def test_it_learns_that_joining_does_not_pay_and_learns_it_again_when_it_does() -> None:
    table = LatencyTable(PAYS, 8)
    assert table.join_rows == 8
    for _ in range(2000):  # the model has become magika: ten rows take ten times as long as one
        rows = table.rows_to_try(20)
        table.observe(rows, 0.010 * rows)
    assert table.join_rows == 1
    for _ in range(4000):  # and it becomes itself again: singles run, and now and then more are tried
        rows = table.rows_to_try(20)
        table.observe(rows, PAYS[rows])
    assert table.join_rows == 8


def test_more_rows_are_tried_seldom_and_only_when_they_wait() -> None:
    table = LatencyTable(ms(_1=10.0, _2=20.0, _4=40.0, _8=80.0), 8)
    tried = []
    for _ in range(1000):
        assert table.rows_to_try(1) == 1
        tried.append(table.rows_to_try(20))
        table.observe(1, 0.010)
    assert sum(rows > 1 for rows in tried) == 1000 // 128
    assert max(tried) == 8


def test_what_would_make_everybody_wait_longer_is_not_tried() -> None:
    table = LatencyTable(ms(_1=10.0, _2=50.0, _4=200.0, _8=800.0), 8)
    for _ in range(1000):
        assert table.rows_to_try(20) == 1
        table.observe(1, 0.010)


def test_estimates_settle_on_the_median_and_on_nine_tenths() -> None:
    table = LatencyTable({1: 1.0}, 1)
    random_ = random.Random(1)
    typical, high = [], []
    for _ in range(4000):
        table.observe(1, random_.uniform(0.010, 0.020))
        typical.append(table.typical_s(1))
        high.append(table.high_s(1))
    assert sum(typical[1000:]) / 3000 == pytest.approx(0.015, rel=0.05)
    assert sum(high[1000:]) / 3000 == pytest.approx(0.019, rel=0.05)


def test_a_single_outlier_moves_an_estimate_by_a_step_only() -> None:
    table = LatencyTable(PAYS, 8)
    table.observe(8, 60.0)
    assert table.typical_s(8) < 1.05 * 0.017
    table.observe(6, 60.0)
    assert table.typical_s(4) < 1.05**2 * 0.013


def test_batches_between_two_sizes_teach_both() -> None:
    table = LatencyTable({4: 0.010, 8: 0.010, 1: 0.010}, 8)
    for _ in range(300):
        table.observe(6, 0.030)
    assert table.typical_s(6) == pytest.approx(0.030, rel=0.1)
    one, four, eight = (table.typical_s(rows) for rows in (1, 4, 8))
    assert four > one
    assert eight > one


def test_a_neighbour_that_slows_every_size_down_makes_none_of_them_look_cheap() -> None:
    table = LatencyTable(PAYS, 8)
    for _ in range(200):
        table.observe(8, 5 * PAYS[8])
    for rows, seconds in PAYS.items():
        assert 3 * seconds < table.typical_s(rows) < 7 * seconds
    assert table.join_rows == 8


def test_a_size_that_was_measured_wrong_is_tried_again_although_it_looks_bad() -> None:
    table = LatencyTable({**PAYS, 8: 0.3}, 8)
    assert table.join_rows == 4
    for _ in range(2000):
        rows = table.rows_to_try(8)
        table.observe(rows, PAYS[rows])
    assert table.join_rows == 8


def test_a_size_that_is_bad_is_tried_so_seldom_that_nobody_minds() -> None:
    table = LatencyTable({1: 0.010, 2: 0.050}, 2)
    tried = 0
    for _ in range(10_000):
        rows = table.rows_to_try(2)
        tried += rows == 2
        table.observe(rows, {1: 0.010, 2: 0.050}[rows])
    assert 0 < tried <= 10
    assert table.join_rows == 1


def test_the_first_sample_of_a_size_that_has_not_run_for_long_counts_at_once() -> None:
    table = LatencyTable(PAYS, 8)
    for _ in range(200):
        table.observe(8, PAYS[8])
    pace = table.typical_s(8) / PAYS[8]
    table.observe(1, 0.005 * pace)
    assert table.typical_s(1) == pytest.approx(0.005 * pace)
    table = LatencyTable(PAYS, 8)
    for _ in range(200):
        table.observe(8, PAYS[8])
    table.observe(1, 0.040 * pace)  # perhaps a neighbour's doing
    assert table.typical_s(1) == pytest.approx(0.020 * pace)


def test_after_a_slow_spell_the_table_is_right_again_within_a_hundred_batches() -> None:
    table = LatencyTable(PAYS, 8)
    for _ in range(100):
        table.observe(1, 0.200)
    assert table.high_s(1) == pytest.approx(0.200, rel=0.2)
    for _ in range(100):
        table.observe(1, 0.010)
    assert table.high_s(1) <= 0.035


def test_the_size_that_brings_the_most_answers_in_time_grows_with_the_time_there_is() -> None:
    table = LatencyTable(ms(_1=2.0, _2=2.2, _4=2.8, _8=4.0, _16=6.0), 16)
    sizes = [table.rows_in_time(seconds) for seconds in (0.002, 0.0021, 0.005, 0.008, 0.1)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 0  # not even one row
    assert sizes[1] == 1  # 0.1 ms are left, in which less than one comes
    assert sizes[-1] == table.join_rows


def test_which_size_brings_the_most_answers_in_time_is_learned_anew() -> None:
    table = LatencyTable(ms(_1=2.0, _2=2.2, _4=2.8, _8=4.0, _16=6.0), 16)
    before = table.rows_in_time(0.01)
    for _ in range(100):
        for rows in (1, 2, 4, 8, 16):
            table.observe(rows, 3 * ms(_1=2.0, _2=2.2, _4=2.8, _8=4.0, _16=6.0)[rows])
    assert 0 < table.rows_in_time(0.01) < before
