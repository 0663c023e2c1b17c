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


def test_what_a_deployment_can_hold_is_its_own_affair_whatever_the_endpoint_may() -> None:
    three = state({"blue": 100}, deployed("blue", count=3))  # each of which can hold 1,000
    limits = Limits(5.0, concurrent_requests=20)
    limited = three.with_endpoint(replace(three.endpoint, limits=limits))

    routing = routing_for(limited, limited.endpoint.traffic, [])

    assert (routing.limits, routing.upstream("blue").max_requests) == (limits, 3000)


@pytest.mark.parametrize(
    ("limits", "has_concurrency"),
    [
        (Limits(), False),
        (Limits(5.0, per_caller=CallerLimits(1.0)), False),
        (Limits(concurrent_requests=1), True),
        (Limits(per_caller=CallerLimits(concurrent_requests=1)), True),
    ],
)
def test_what_is_under_way_is_counted_where_a_limit_asks_for_it(limits: Limits, has_concurrency: bool) -> None:
    assert limits.has_concurrency == has_concurrency
