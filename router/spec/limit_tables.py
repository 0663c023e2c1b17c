"""Every key of `limits`, which stands in `kind: Endpoint`."""

from __future__ import annotations

from router.domain.limits import MAX_BURST, MAX_CONCURRENT, MAX_RATE, MIN_RATE, Limits, Rate
from router.spec.rollout_values import Maybe
from router.spec.sections import Key, Section
from router.spec.values import Number, Whole

_RATE = Number(MIN_RATE, MAX_RATE)
_BURST = Maybe(Whole(1, MAX_BURST))

RATE = Section(
    Rate,
    (
        Key(
            "requests_per_second",
            "requests_per_second",
            _RATE,
            "Requests a second, on average.",
            is_required=True,
        ),
        Key("burst", "burst", _BURST, "How many may come at once. Left out: as many as a second brings, at least one."),
    ),
)

LIMITS = Section(
    Limits,
    (
        Key(
            "requests_per_second",
            "requests_per_second",
            Maybe(_RATE),
            "Requests a second of all callers together, on average. Left out: not limited.",
        ),
        Key("burst", "burst", _BURST, "How many may come at once. Left out: as many as a second brings, at least one."),
        Key(
            "concurrent_requests",
            "concurrent_requests",
            Maybe(Whole(1, MAX_CONCURRENT)),
            "How many may be under way at any one deployment of the endpoint. Left out: what the replicas can hold.",
        ),
        Key(
            "per_caller",
            "per_caller",
            Maybe(RATE),
            "The same rate for each caller by itself: each key, token or client's certificate, whatever lets it in.",
        ),
    ),
)
