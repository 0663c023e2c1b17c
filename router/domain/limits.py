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
class CallerLimits:
    """Of each caller by itself: a key, a token's subject or a certificate. None: no limit.

    `requests_per_second`, `burst`: as in `Rate`. `concurrent_requests`: under way at the endpoint.
    """

    requests_per_second: float | None = None
    burst: int | None = None
    concurrent_requests: int | None = None

    def __post_init__(self) -> None:
        _check(self, "limits.per_caller")
        if self.requests_per_second is None and self.concurrent_requests is None:
            hint = "set requests_per_second, concurrent_requests or both"
            raise Invalid("limits.per_caller", "limits nothing", hint)

    @property
    def rate(self) -> Rate | None:
        return _rate(self)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of all callers together, and of each. None: no limit.

    `requests_per_second`, `burst`: as in `Rate`. `concurrent_requests`: under way at the endpoint, over all of its
    deployments.
    """

    requests_per_second: float | None = None
    burst: int | None = None
    concurrent_requests: int | None = None
    per_caller: CallerLimits | None = None

    def __post_init__(self) -> None:
        _check(self, "limits")

    @property
    def rate(self) -> Rate | None:
        return _rate(self)

    @property
    def concurrent_requests_per_caller(self) -> int | None:
        return self.per_caller.concurrent_requests if self.per_caller else None

    @property
    def has_concurrency(self) -> bool:
        """Whether what is under way is limited."""
        return self.concurrent_requests is not None or self.concurrent_requests_per_caller is not None


def _rate(limits: Limits | CallerLimits) -> Rate | None:
    return None if limits.requests_per_second is None else Rate(limits.requests_per_second, limits.burst)


def _check(limits: Limits | CallerLimits, key: str) -> None:
    if limits.requests_per_second is None and limits.burst is not None:
        raise Invalid(f"{key}.burst", "is the burst of no rate", f"set {key}.requests_per_second as well")
    if limits.concurrent_requests is not None and not 1 <= limits.concurrent_requests <= MAX_CONCURRENT:
        message = f"{limits.concurrent_requests} is out of range"
        raise Invalid(f"{key}.concurrent_requests", message, f"use 1 to {MAX_CONCURRENT}")
    try:
        _rate(limits)
    except Invalid as error:
        raise Invalid(f"{key}.{error.key}", error.message, error.hint) from None


NO_LIMITS = Limits()
