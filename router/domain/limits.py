"""Limits: how much callers may ask of an endpoint. What is over them is refused before a replica sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from router.domain.errors import Invalid

MIN_RATE, MAX_RATE = 0.001, 1_000_000.0
MAX_BURST = 10_000_000
MAX_CONCURRENT = 1_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: it begins with `burst` requests and gets `requests_per_second` back, up to `burst`.

    `burst` None: as many as come back in a second, at least one.
    """

    requests_per_second: float
    burst: int | None = None

    def __post_init__(self) -> None:
        if not MIN_RATE <= self.requests_per_second <= MAX_RATE:
            message = f"{self.requests_per_second:g} is out of range"
            raise Invalid("requests_per_second", message, f"use {MIN_RATE:g} to {MAX_RATE:g}")
        if self.burst is not None and not 1 <= self.burst <= MAX_BURST:
            raise Invalid("burst", f"{self.burst} is out of range", f"use 1 to {MAX_BURST}")

    @property
    def most_at_once(self) -> int:
        return self.burst or math.ceil(self.requests_per_second)

    @property
    def retry_after_s(self) -> int:
        """In how many seconds there is room for one request more."""
        return math.ceil(1 / self.requests_per_second)


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit.

    `requests_per_second`, `burst`: of all callers together, as in `Rate`. `per_caller`: of each key, token or
    certificate. `concurrent_requests`: under way at any one deployment of the endpoint.
    """

    requests_per_second: float | None = None
    burst: int | None = None
    concurrent_requests: int | None = None
    per_caller: Rate | None = None

    def __post_init__(self) -> None:
        if self.requests_per_second is None and self.burst is not None:
            raise Invalid("limits.burst", "is the burst of no rate", "set limits.requests_per_second as well")
        if self.concurrent_requests is not None and not 1 <= self.concurrent_requests <= MAX_CONCURRENT:
            message = f"{self.concurrent_requests} is out of range"
            raise Invalid("limits.concurrent_requests", message, f"use 1 to {MAX_CONCURRENT}")
        try:
            _ = self.rate
        except Invalid as error:
            raise Invalid(f"limits.{error.key}", error.message, error.hint) from None

    @property
    def rate(self) -> Rate | None:
        """Of all callers together."""
        return None if self.requests_per_second is None else Rate(self.requests_per_second, self.burst)


NO_LIMITS = Limits()
