"""What was measured of a deployment: counts that only grow. Evidence for a rollout's analysis; pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latencies:
    """A histogram of request durations.

    `counts[i]` requests took more than `bounds_ms[i - 1]` and at most `bounds_ms[i]`; the last count, one more than
    there are bounds, has no upper bound. Two histograms can be added or subtracted when their bounds are the same.
    """

    bounds_ms: tuple[float, ...] = ()
    counts: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.bounds_ms) + 1:
            raise ValueError(f"{len(self.bounds_ms)} bounds need one more count than that, not {len(self.counts)}")

    @property
    def total(self) -> int:
        return sum(self.counts)

    def __add__(self, other: Latencies) -> Latencies:
        """Raises `ValueError` when both hold something and their bounds differ."""
        if not self.total:
            return other
        if not other.total:
            return self
        if self.bounds_ms != other.bounds_ms:
            raise ValueError("histograms with different bounds cannot be added")
        return Latencies(self.bounds_ms, tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)))

    def __sub__(self, earlier: Latencies) -> Latencies:
        """What was added since `earlier`. Raises `ValueError` when both hold something and their bounds differ."""
        if not earlier.total:
            return self
        if self.bounds_ms != earlier.bounds_ms:
            raise ValueError("histograms with different bounds cannot be subtracted")
        return Latencies(self.bounds_ms, tuple(a - b for a, b in zip(self.counts, earlier.counts, strict=True)))

    def quantile_ms(self, fraction: float) -> float:
        """The smallest bound that at least `fraction` of the requests kept to; infinite when none is that large."""
        wanted, reached = fraction * self.total, 0
        for bound, count in zip(self.bounds_ms, self.counts, strict=False):
            reached += count
            if reached >= wanted:
                return bound
        return math.inf

    def count_above(self, bound_ms: float) -> int:
        """Requests that took longer than `bound_ms`, which is one of the bounds, or infinite."""
        return sum(self.counts[bisect_left(self.bounds_ms, bound_ms) + 1 :])


@dataclass(frozen=True, slots=True)
class Totals:
    """What a deployment was asked by chance (by weight, or by copy) and did, as the data plane counted it.

    `requests`: attempts that were sent to the deployment and have ended, copies included, and those that a shield hid.
    Requests that were pinned to it, or that it answered in a failed candidate's place, are no fair sample: not in.
    `errors`: those among them that failed by its doing: a 5xx, 424 or 429, a gRPC status that blames the server, a
    reset or refused connection, a timeout. A caller's own mistakes (other 4xx) are requests, and no errors. Neither is
    an attempt that the client broke off, or that the deployment had not begun and said so.
    `latencies`: of those that were answered with success (HTTP 2xx, which over gRPC every answer is).
    """

    requests: int = 0
    errors: int = 0
    latencies: Latencies = Latencies()

    def __sub__(self, earlier: Totals) -> Totals:
        """What was added since `earlier`, of the same deployment in the same process."""
        return Totals(
            self.requests - earlier.requests, self.errors - earlier.errors, self.latencies - earlier.latencies
        )
