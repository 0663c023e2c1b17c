import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.sequential import MAX_GAIN, ODDS, Record, Tally, Wealth, lower_bound, upper_bound


def binomial(of: int, rate: float) -> list[float]:
    return [math.comb(of, hits) * rate**hits * (1 - rate) ** (of - hits) for hits in range(of + 1)]


def hypergeometric(candidate: int, stable: int, failures: int) -> dict[int, float]:
    """How many of the failures are the candidate's when all requests are alike."""
    total = math.comb(candidate + stable, failures)
    fewest, most = max(0, failures - stable), min(candidate, failures)
    return {k: math.comb(candidate, k) * math.comb(stable, failures - k) / total for k in range(fewest, most + 1)}


@pytest.mark.parametrize(("candidate", "stable", "failures"), [(1, 99, 1), (10, 90, 7), (50, 50, 20), (150, 1350, 3)])
def test_a_fair_game_gains_nothing_on_average(candidate: int, stable: int, failures: int) -> None:
    share = candidate / (candidate + stable)
    before = Wealth().started()
    mean = sum(
        chance * before.after(k / failures, share).value
        for k, chance in hypergeometric(candidate, stable, failures).items()
    )
    assert mean <= before.value * (1 + 1e-9)
    if failures == 1 and share >= 1 / (MAX_GAIN + 1):  # where the gain is not capped the game is exactly fair
        assert mean == pytest.approx(before.value)


@settings(deadline=None)
@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=6),
    st.floats(0.01, 0.99),
)
def test_no_distribution_of_what_is_seen_makes_the_game_gain(values: list[float], spread: float) -> None:
    """Failures may hang together as they like: only the mean counts."""
    mean = sum(values) / len(values) * spread
    seen = [value * spread for value in values]
    before = Wealth().started()
    assert sum(before.after(x, mean).value for x in seen) / len(seen) <= before.value * (1 + 1e-9)


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.floats(0, 1))
def test_one_block_never_convinces_alone_and_never_ruins(expected: float, seen: float) -> None:
    before = Wealth().started()
    after = before.after(seen, expected)
    assert 0 < after.value <= before.value * (1 + MAX_GAIN)


def test_the_capital_that_enters_never_sums_to_more_than_one() -> None:
    wealth = Wealth()
    values = []
    for _ in range(50):
        wealth = wealth.started()
        values.append(wealth.value)
    assert values == sorted(values)
    assert 0.99 < values[-1] <= 1


def test_a_healthy_past_does_not_pay_for_a_failing_present() -> None:
    wealth = Wealth().started()
    for _ in range(1000):
        wealth = wealth.after(0.0, 0.5)
    wealth = wealth.started()
    for _ in range(20):
        wealth = wealth.after(1.0, 0.5)
    assert wealth.value > 1000


def test_nothing_can_be_bet_where_everything_or_nothing_is_expected() -> None:
    wealth = Wealth().started()
    assert wealth.after(1.0, 1.0) == wealth == wealth.after(0.5, 0.0)


def test_wealth_stays_finite() -> None:
    wealth = Wealth().started()
    for _ in range(10_000):
        wealth = wealth.after(1.0, 0.01)
    assert math.isfinite(wealth.value)


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.3, 0.5])
def test_the_bounds_hold_at_every_look_together(rate: float) -> None:
    """Exactly, by walking through all counts of 300 requests: the mass that ever leaves the bounds is below alpha."""
    alpha = 0.05
    alive = {0: 1.0}
    left = 0.0
    for of in range(1, 301):
        following: dict[int, float] = {}
        for hits, chance in alive.items():
            for step, weight in ((0, 1 - rate), (1, rate)):
                following[hits + step] = following.get(hits + step, 0.0) + chance * weight
        alive = {}
        for hits, chance in following.items():
            if upper_bound(Tally(of, hits), alpha) < rate or lower_bound(Tally(of, hits), alpha) > rate:
                left += chance
            else:
                alive[hits] = chance
    assert left <= 2 * alpha


@settings(deadline=None)
@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(1e-5, 0.4))
def test_the_bounds_lie_around_the_rate(of: int, share: float, alpha: float) -> None:
    tally = Tally(of, round(of * share))
    assert 0 <= lower_bound(tally, alpha) <= tally.rate <= upper_bound(tally, alpha) <= 1


def test_bounds_close_in_with_evidence() -> None:
    widths = [
        upper_bound(Tally(n, n // 50), 0.001) - lower_bound(Tally(n, n // 50), 0.001)
        for n in (100, 1000, 10_000, 100_000)
    ]
    assert all(later < earlier for earlier, later in itertools.pairwise(widths))
    assert widths[-1] < 0.006


def test_where_nothing_is_known_nothing_is_claimed() -> None:
    assert (lower_bound(Tally(), 0.01), upper_bound(Tally(), 0.01)) == (0.0, 1.0)
    assert len(Wealth().accounts) == len(ODDS)


def test_independent_hits_have_no_design_effect_and_bursts_have_theirs() -> None:
    even, bursty = Record(), Record()
    for number in range(100):
        even = even.after(Tally(100, 1 + number % 2))
        bursty = bursty.after(Tally(100, 15 if number % 10 == 0 else 0))
    assert even.design_effect == 1
    assert even.thinned(even.design_effect) == even.tally
    assert 10 < bursty.design_effect < 20
    thinned = bursty.thinned(bursty.design_effect)
    assert thinned.rate == pytest.approx(bursty.tally.rate)
    assert upper_bound(thinned, 0.01) > upper_bound(bursty.tally, 0.01)
