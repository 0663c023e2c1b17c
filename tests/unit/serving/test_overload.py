"""More load than the model can do, in simulated time: the batcher's core against a model of known speed."""

from __future__ import annotations

from itertools import chain

import pytest

from benchmarks.overload import MAGIKA, WIDE_MLP, bursts, capacity, poisson, simulate

OBJECTIVE_S = 0.05
SHORT_S = 4 * WIDE_MLP[1]  # met in small batches only, which do a fraction of what full ones do


def test_at_three_times_its_capacity_a_model_gives_nine_tenths_of_its_best_goodput() -> None:
    seconds, highest = 3.0, capacity(WIDE_MLP)
    best = max(
        simulate(WIDE_MLP, poisson(load * highest, seconds, 1), seconds, OBJECTIVE_S).goodput(OBJECTIVE_S)
        for load in (0.8, 0.9, 0.95)
    )
    overloaded = simulate(WIDE_MLP, poisson(3 * highest, seconds, 1), seconds, OBJECTIVE_S)
    assert overloaded.goodput(OBJECTIVE_S) >= 0.9 * best
    assert all(waited_s == 0.0 for _, waited_s in overloaded.refused)  # at once
    assert overloaded.most_waiting <= 1000
    assert len(overloaded.answered) + len(overloaded.refused) == overloaded.offered


def test_a_short_objective_is_met_in_overload_about_as_often_as_it_can_be_at_all() -> None:
    seconds, highest = 4.0, capacity(WIDE_MLP)
    best = max(
        simulate(WIDE_MLP, poisson(load * highest, seconds, 1), seconds, SHORT_S).goodput(SHORT_S)
        for load in (0.2, 0.3, 0.4, 0.5)
    )
    overloaded = simulate(WIDE_MLP, poisson(3 * highest, seconds, 1), seconds, SHORT_S)
    assert overloaded.goodput(SHORT_S) >= 0.9 * best


def test_what_gains_nothing_from_batches_holds_its_goodput_in_overload_too() -> None:
    seconds, highest = 20.0, capacity(MAGIKA)
    result = simulate(MAGIKA, poisson(3 * highest, seconds, 1), seconds, OBJECTIVE_S, timeout_s=1.0, max_waiting=100)
    assert result.goodput(OBJECTIVE_S) >= 0.85 * highest  # of all that it can do, which is not reached in any way
    assert len(result.answered) + len(result.refused) == result.offered


@pytest.mark.parametrize("make", [poisson, bursts])
def test_below_its_capacity_nobody_is_refused(make: object) -> None:
    assert callable(make)
    seconds = 3.0
    result = simulate(WIDE_MLP, make(0.8 * capacity(WIDE_MLP), seconds, 1), seconds, OBJECTIVE_S)
    assert not result.refused
    assert len(result.answered) == result.offered


def test_two_seconds_after_an_overload_everything_is_as_before() -> None:
    highest = capacity(WIDE_MLP)
    arrivals = chain(poisson(3 * highest, 2.0, 1), poisson(0.5 * highest, 4.0, 2, start_s=2.0))
    result = simulate(WIDE_MLP, arrivals, 6.0, OBJECTIVE_S)
    assert any(at_s < 2.0 for at_s, _ in result.refused)
    assert not [at_s for at_s, _ in result.refused if at_s >= 4.0]
    assert max(latency_s for at_s, latency_s in result.answered if at_s >= 4.0) <= OBJECTIVE_S


def test_batches_that_a_short_objective_keeps_small_do_not_keep_an_overload_up() -> None:
    """What comes after it is less than full batches do, and more than small ones."""
    highest = capacity(WIDE_MLP)
    arrivals = chain(poisson(3 * highest, 2.0, 1), poisson(0.6 * highest, 4.0, 2, start_s=2.0))
    result = simulate(WIDE_MLP, arrivals, 6.0, SHORT_S)
    assert any(at_s < 2.0 for at_s, _ in result.refused)
    assert not [at_s for at_s, _ in result.refused if at_s >= 4.0]


def test_many_patient_clients_at_once_are_all_answered_however_late() -> None:
    """Thirty-two clients that each wait for their answer: late by the objective, and nobody is refused."""
    result = simulate(MAGIKA, iter([0.0] * 32), 1.0, OBJECTIVE_S)
    assert len(result.answered) == 32
    assert max(latency_s for _, latency_s in result.answered) > OBJECTIVE_S
