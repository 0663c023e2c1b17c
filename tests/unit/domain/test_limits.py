"""What callers may ask of an endpoint: what may be said about it, and what follows for the data plane."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.domain.endpoint import AuthMode, Endpoint
from router.domain.errors import Invalid
from router.domain.limits import CallerLimits, Limits, Rate
from router.domain.routing import routing_for
from tests.unit.router.states import deployed, state


@pytest.mark.parametrize(
    ("limits", "key"),
    [
        ({"requests_per_second": 0.0}, "limits.requests_per_second"),
        ({"requests_per_second": float("nan")}, "limits.requests_per_second"),
        ({"requests_per_second": 2e6}, "limits.requests_per_second"),
        ({"requests_per_second": 1.0, "burst": 0}, "limits.burst"),
        ({"burst": 5}, "limits.burst"),
        ({"concurrent_requests": 0}, "limits.concurrent_requests"),
        ({"concurrent_requests": 2_000_000}, "limits.concurrent_requests"),
    ],
)
def test_limits_that_mean_nothing_are_refused(limits: dict[str, Any], key: str) -> None:
    with pytest.raises(Invalid) as refused:
        Limits(**limits)
    assert refused.value.key == key


@pytest.mark.parametrize(
    ("limits", "key"),
    [
        ({}, "limits.per_caller"),
        ({"burst": 5}, "limits.per_caller.burst"),
        ({"requests_per_second": 0.0}, "limits.per_caller.requests_per_second"),
        ({"requests_per_second": 1.0, "burst": 0}, "limits.per_caller.burst"),
        ({"concurrent_requests": 0}, "limits.per_caller.concurrent_requests"),
        ({"concurrent_requests": 2_000_000}, "limits.per_caller.concurrent_requests"),
    ],
)
def test_limits_of_each_caller_that_mean_nothing_are_refused(limits: dict[str, Any], key: str) -> None:
    with pytest.raises(Invalid) as refused:
        CallerLimits(**limits)
    assert refused.value.key == key


def test_callers_that_cannot_be_told_apart_have_no_limits_of_their_own() -> None:
    limits = Limits(per_caller=CallerLimits(concurrent_requests=1))
    with pytest.raises(Invalid, match="cannot tell callers apart"):
        Endpoint("fraud", limits=limits)
    assert Endpoint("fraud", auth_mode=AuthMode.KEY, limits=limits).limits == limits


@pytest.mark.parametrize(
    ("rate", "most_at_once", "retry_after_s"),
    [(Rate(10.0), 10, 1), (Rate(0.5), 1, 2), (Rate(2.5), 3, 1), (Rate(10.0, burst=50), 50, 1), (Rate(0.001), 1, 1000)],
)
def test_a_rate_says_how_many_may_come_at_once_and_when_there_is_room_again(
    rate: Rate, most_at_once: int, retry_after_s: int
) -> None:
    assert (rate.most_at_once, rate.retry_after_s) == (most_at_once, retry_after_s)


@pytest.mark.parametrize(
    ("allowed", "max_requests", "is_limited"),
    [(None, 3000, False), (20, 20, True), (3000, 3000, False), (4000, 3000, False)],
)
def test_the_lower_bound_on_what_is_under_way_counts(allowed: int | None, max_requests: int, is_limited: bool) -> None:
    three = state({"blue": 100}, deployed("blue", count=3))  # each of which can hold 1,000
    limits = Limits(5.0, concurrent_requests=allowed)
    limited = three.with_endpoint(replace(three.endpoint, limits=limits))

    routing = routing_for(limited, limited.endpoint.traffic, [])

    assert routing.limits == limits
    assert (routing.upstream("blue").max_requests, routing.upstream("blue").is_limited) == (max_requests, is_limited)
