"""Assertions about chance."""

import math


def assert_share(seen: int, percent: float, of: int) -> None:
    """`seen` of `of` independent draws is within 5σ of `percent`: a right splitter fails that once in a million times.

    (At 3σ it would be once in 370, and there are many such assertions.)
    """
    expected = of * percent / 100
    assert abs(seen - expected) <= 5 * math.sqrt(expected * (1 - percent / 100)), (seen, expected, of)
