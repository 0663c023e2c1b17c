"""Assertions about chance."""

import math


def assert_share(seen: int, percent: float, of: int) -> None:
    """`seen` of `of` independent draws is within 3σ of `percent`."""
    expected = of * percent / 100
    assert abs(seen - expected) <= 3 * math.sqrt(expected * (1 - percent / 100)), (seen, expected, of)
