"""Counts that only grow, and what was added since an earlier look."""

import pytest

from router.domain.measurement import Latencies, Totals

BOUNDS_MS = (1.0, 10.0)
EARLIER = Totals(10, 1, Latencies(BOUNDS_MS, (5, 3, 1)))
LATER = Totals(15, 3, Latencies(BOUNDS_MS, (6, 4, 2)))


def test_what_was_added_since_an_earlier_look() -> None:
    assert Totals(5, 2, Latencies(BOUNDS_MS, (1, 1, 1))) == LATER - EARLIER
    assert LATER - Totals() == LATER
    assert (LATER - LATER).latencies.total == 0


def test_histograms_with_other_bounds_are_not_subtracted() -> None:
    with pytest.raises(ValueError, match="different bounds"):
        LATER.latencies - Latencies((2.0, 10.0), (1, 0, 0))
