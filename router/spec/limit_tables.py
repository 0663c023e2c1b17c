"""Every key of `limits`, which stands in `kind: Endpoint`."""

from __future__ import annotations

from router.domain.limits import MAX_BURST, MAX_CONCURRENT, MAX_RATE, MIN_RATE, CallerLimits, Limits
from router.spec.rollout_values import Maybe
from router.spec.sections import Key, Section
from router.spec.values import Number, Whole

_RATE = Maybe(Number(MIN_RATE, MAX_RATE))
_CONCURRENT = Maybe(Whole(1, MAX_CONCURRENT))
_BURST = Key(
    "burst",
    "burst",
    Maybe(Whole(1, MAX_BURST)),
    "How many may come at once. Left out: as many as a second brings, at least one.",
)

PER_CALLER = Section(
    CallerLimits,
    (
        Key(
            "requests_per_second", "requests_per_second", _RATE, "Requests a second, on average. Left out: not limited."
        ),
        _BURST,
        Key(
            "concurrent_requests",
            "concurrent_requests",
            _CONCURRENT,
            "How many may be under way at the endpoint. Left out: not limited.",
        ),
    ),
)

LIMITS = Section(
    Limits,
    (
        Key(
            "requests_per_second",
            "requests_per_second",
            _RATE,
            "Requests a second of all callers together, on average. Left out: not limited.",
        ),
        _BURST,
        Key(
            "concurrent_requests",
            "concurrent_requests",
            _CONCURRENT,
            "How many requests may be under way, of all callers together and over all deployments of the endpoint. "
            "Left out: what the replicas can hold.",
        ),
        Key(
            "per_caller",
            "per_caller",
            Maybe(PER_CALLER),
            "The same for each caller by itself: each key, token's subject or certificate, whatever lets it in.",
        ),
    ),
)
