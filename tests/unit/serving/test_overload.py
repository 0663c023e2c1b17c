"""More load than the model can do, in simulated time: the batcher's core against a model of known speed."""

from __future__ import annotations

import math
from itertools import chain

import pytest

from benchmarks.simulated import (
    MAGIKA,
    WIDE_MLP,
    Closed,
    Latencies,
    Noise,
    Open,
    Result,
    bursts,
    capacity,
    on_and_off,
    our_queue,
    poisson,
    simulate,
)
from serving.overload import Overload
from serving.queue_limits import BatchLimits

OBJECTIVE_S = 0.05
SHORT_S = 4 * WIDE_MLP[1]  # met in small batches only, which do a fraction of what full ones do


def offered(
    latency_s: Latencies, load: float, seconds: float, objective_s: float = OBJECTIVE_S, is_binding: bool = True
) -> Result:
    """A Poisson process at `load` times what the model can do."""
    arrivals = poisson(load * capacity(latency_s), seconds, 1)
    return simulate(our_queue(latency_s, objective_s, is_binding), latency_s, Open(arrivals), seconds)


@pytest.mark.parametrize(
    ("latency_s", "objective_s", "seconds", "calm"),
    [
        (WIDE_MLP, OBJECTIVE_S, 3.0, (0.8, 0.9, 0.95)),
        (WIDE_MLP, SHORT_S, 3.0, (0.3, 0.4, 0.5)),
        (MAGIKA, OBJECTIVE_S, 30.0, (0.7, 0.8, 0.9)),
        ({1: 0.023, 8: 0.154}, 4 * 0.023, 30.0, (0.6, 0.7, 0.8)),
    ],
)
def test_at_three_times_its_capacity_a_model_gives_nine_tenths_of_its_best_goodput(
    latency_s: Latencies, objective_s: float, seconds: float, calm: tuple[float, ...]
) -> None:
    best = max(offered(latency_s, load, seconds, objective_s).goodput(objective_s) for load in calm)
    overloaded = offered(latency_s, 3.0, seconds, objective_s)
    assert overloaded.goodput(objective_s) >= 0.9 * best
    assert overloaded.most_waiting <= 1000
    assert len(overloaded.answered) + len(overloaded.refused) == overloaded.offered


def test_where_overload_shows_by_a_full_queue_only_goodput_holds_as_well_once_it_has() -> None:
    overloaded = offered(WIDE_MLP, 3.0, 3.0, is_binding=False)
    assert overloaded.goodput(OBJECTIVE_S) >= 0.85 * capacity(WIDE_MLP)
    assert all(waited_s == 0.0 for _, waited_s in overloaded.refused)  # at once


@pytest.mark.parametrize("latency_s", [WIDE_MLP, MAGIKA])
def test_at_just_what_it_can_do_a_bound_keeps_most_answers_in_time_by_refusing_a_few(latency_s: Latencies) -> None:
    seconds = 1e5 / capacity(latency_s) / 5
    bound, usual = (offered(latency_s, 1.0, seconds, is_binding=is_binding) for is_binding in (True, False))
    assert bound.inside(OBJECTIVE_S) >= 0.8
    assert bound.goodput(OBJECTIVE_S) >= usual.goodput(OBJECTIVE_S)
    assert 0 < len(bound.refused) < 0.15 * bound.offered


def test_an_objective_that_nobody_has_set_refuses_nobody_while_the_model_can_do_the_work() -> None:
    result = offered(WIDE_MLP, 0.9, 3.0, SHORT_S, is_binding=False)
    assert not result.refused
    assert result.inside(SHORT_S) < 0.1


def test_a_bound_that_is_missed_all_the_time_is_held_although_the_model_could_do_the_work_late() -> None:
    result = offered(WIDE_MLP, 0.9, 3.0, SHORT_S)
    assert result.goodput(SHORT_S) >= 0.3 * capacity(WIDE_MLP)


@pytest.mark.parametrize("make", [poisson, bursts])
def test_below_its_capacity_nobody_is_refused(make: object) -> None:
    assert callable(make)
    seconds = 3.0
    arrivals = make(0.6 * capacity(WIDE_MLP), seconds, 1)
    result = simulate(our_queue(WIDE_MLP, OBJECTIVE_S), WIDE_MLP, Open(arrivals), seconds)
    assert not result.refused
    assert len(result.answered) == result.offered


def test_one_burst_is_answered_late_and_not_refused_also_where_the_objective_binds() -> None:
    result = simulate(our_queue(MAGIKA, OBJECTIVE_S), MAGIKA, Open(iter([0.0] * 32)), 1.0)
    assert len(result.answered) == 32
    assert result.percentile_s(99) > OBJECTIVE_S


def test_bursts_that_come_again_and_again_are_too_much_when_most_of_them_is_late() -> None:
    arrivals = on_and_off(2500, 3.0, 1)
    result = simulate(our_queue(WIDE_MLP, SHORT_S), WIDE_MLP, Open(arrivals), 3.0)
    assert result.goodput(SHORT_S) >= 800  # of 190 that whatever waits would leave


@pytest.mark.parametrize("objective_s", [OBJECTIVE_S, SHORT_S])
def test_two_seconds_after_an_overload_everything_is_as_before(objective_s: float) -> None:
    highest = capacity(WIDE_MLP)
    arrivals = chain(poisson(3 * highest, 2.0, 1), poisson(0.25 * highest, 4.0, 2, start_s=2.0))
    result = simulate(our_queue(WIDE_MLP, objective_s), WIDE_MLP, Open(arrivals), 6.0)
    assert any(at_s < 2.0 for at_s, _ in result.refused)
    assert not [at_s for at_s, _ in result.refused if at_s >= 4.0]
    after = [latency_s for at_s, latency_s in result.answered if at_s >= 4.0]
    assert sum(latency_s <= objective_s for latency_s in after) >= 0.97 * len(after)


def test_beside_a_restless_neighbour_an_overload_ends_as_well() -> None:
    """One run of ten takes three times as long, so requests are late at any load: refusing some would help nobody."""
    restless = Noise(share=0.3, slow_share=0.1, slow_times=3.0)
    arrivals = chain(poisson(3 * capacity(WIDE_MLP), 2.0, 1), poisson(500, 8.0, 2, start_s=2.0))
    result = simulate(our_queue(WIDE_MLP, SHORT_S), WIDE_MLP, Open(arrivals), 10.0, noise=restless)
    assert any(at_s < 2.0 for at_s, _ in result.refused)
    assert not [at_s for at_s, _ in result.refused if at_s >= 4.0]


def test_batches_that_a_short_objective_keeps_small_do_not_keep_an_overload_up() -> None:
    """What comes after it is less than full batches do, and more than small ones, and nobody has set the objective."""
    highest = capacity(WIDE_MLP)
    arrivals = chain(poisson(3 * highest, 2.0, 1), poisson(0.6 * highest, 4.0, 2, start_s=2.0))
    result = simulate(our_queue(WIDE_MLP, SHORT_S, is_binding=False), WIDE_MLP, Open(arrivals), 6.0)
    assert any(at_s < 2.0 for at_s, _ in result.refused)
    assert not [at_s for at_s, _ in result.refused if at_s >= 4.0]


@pytest.mark.parametrize(("latency_s", "count"), [(MAGIKA, 32), (WIDE_MLP, 32), (WIDE_MLP, 128)])
def test_clients_that_wait_for_one_another_are_all_answered_however_late_where_no_bound_is_set(
    latency_s: Latencies, count: int
) -> None:
    queue = our_queue(latency_s, 4 * latency_s[1], is_binding=False)
    result = simulate(queue, latency_s, Closed(count, 2.0), 2.0)
    assert not result.refused
    assert result.percentile_s(50) > 4 * latency_s[1]


def test_clients_that_wait_for_one_another_keep_an_objective_that_there_is_room_for() -> None:
    result = simulate(our_queue(WIDE_MLP, OBJECTIVE_S), WIDE_MLP, Closed(128, 2.0), 2.0)
    assert not result.refused
    assert len(result.answered) / result.seconds >= 0.9 * capacity(WIDE_MLP)


def test_a_bound_that_not_even_a_request_alone_keeps_refuses_nobody() -> None:
    result = offered(WIDE_MLP, 0.5, 2.0, WIDE_MLP[1])
    assert not result.refused


# -- the state itself


def state(is_binding: bool) -> Overload:
    return Overload(BatchLimits(64, 1000, OBJECTIVE_S, is_binding=is_binding))


def window(overload: Overload, start_s: float, late: float) -> float:
    """A tenth of a second in which half of what can be done comes, and `late` of that is late. When it is over."""
    overload.offered_s += 0.05
    overload.is_late(0.05 * late, 0.1 * late)
    overload.look(start_s + 0.1)
    return start_s + 0.1


@pytest.mark.parametrize(
    ("shares", "is_overloaded"),
    [
        ([0.9], False),  # a burst
        ([0.9, 0.9], True),
        ([0.9, 0.1, 0.9], False),
        ([0.2] * 9, False),
        ([0.3, 0.3], True),
        ([0.9, 0.9, *[0.0] * 9], True),
        ([0.9, 0.9, *[0.0] * 11], False),
        ([0.9, 0.9, *[0.1] * 30], True),  # as long as it is needed
        ([0.9, 0.9, *[0.05] * 11], False),
    ],
)
def test_a_bound_is_in_danger_when_two_windows_running_are_late_and_until_a_second_of_hardly_any(
    shares: list[float], is_overloaded: bool
) -> None:
    overload = state(is_binding=True)
    overload.look(0.0)
    now_s = 0.0
    for share in shares:
        now_s = window(overload, now_s, share)
    assert (now_s < overload.until_s) is is_overloaded


def test_where_hardly_anybody_comes_nothing_is_overloaded() -> None:
    overload = state(is_binding=True)
    overload.look(0.0)
    for at in range(1, 9):
        overload.offered_s += 0.05
        overload.is_late(0.05, 0.1)
        overload.look(at * 1.0)
    assert overload.until_s == 0.0


def test_without_a_bound_nothing_is_counted_until_the_queue_has_run_full() -> None:
    overload = state(is_binding=False)
    assert overload.calm_until_s == math.inf
    overload.begin(7.0)
    assert overload.until_s == 8.0
    assert overload.calm_until_s < 7.0
    overload.look(8.0)
    assert overload.calm_until_s == math.inf
