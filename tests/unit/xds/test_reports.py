"""What Envoys push about attempts: whose they were, and how they are judged."""

import logging
from itertools import pairwise
from typing import Any

import pytest

from router.domain.measurement import Totals
from router.telemetry import Increment
from router.xds.attempts import COUNT, DURATION, THRESHOLDS_US, TIMED_OUT
from router.xds.otlp import export_request
from router.xds.reports import BOUNDS_MS, increments

WHO = {"route": "live", "cluster": "fraud/blue", "host": "blue"}
OUTCOME = {"status": "200", "grpc_status": "", "flags": "-", "not_begun": ""}


class Message:
    """A message of one Envoy, made point by point."""

    def __init__(self) -> None:
        self._message = export_request()()
        self._metrics = self._message.resource_metrics.add().scope_metrics.add().metrics

    def count(self, name: str, tags: dict[str, str], value: int = 1) -> "Message":
        return self._tagged(self._metrics.add(name=name).sum.data_points.add(as_int=value), tags)

    def durations(
        self, tags: dict[str, str], counts: dict[int, int], bounds: tuple[float, ...] = THRESHOLDS_US
    ) -> "Message":
        point = self._metrics.add(name=DURATION).histogram.data_points.add(explicit_bounds=bounds)
        point.bucket_counts.extend(counts.get(index, 0) for index in range(len(bounds) + 1))
        return self._tagged(point, tags)

    def read(self) -> list[Increment]:
        """As it arrives: from bytes."""
        return list(increments(export_request().FromString(self._message.SerializeToString())))

    def _tagged(self, point: Any, tags: dict[str, str]) -> "Message":
        for key, value in tags.items():
            point.attributes.add(key=key).value.string_value = value
        return self


def judged(**outcome: str) -> list[Totals]:
    return [one.totals for one in Message().count(COUNT, WHO | OUTCOME | outcome).read()]


@pytest.mark.parametrize(
    "outcome",
    [
        {},
        {"status": "400"},
        {"status": "404"},
        {"status": "413"},
        {"grpc_status": "0"},
        {"grpc_status": "1"},  # CANCELLED: by the client
        {"grpc_status": "3"},
        {"grpc_status": "5"},
        {"grpc_status": "12"},
        {"grpc_status": "-0"},
        {"grpc_status": "3-"},
        {"grpc_status": "--"},  # broken off by this side, or no gRPC
    ],
)
def test_success_and_the_callers_own_mistakes_are_no_errors(outcome: dict[str, str]) -> None:
    assert judged(**outcome) == [Totals(requests=1, errors=0)]


@pytest.mark.parametrize(
    "outcome",
    [
        {"status": "500"},
        {"status": "503"},
        {"status": "424"},
        {"status": "429"},
        {"grpc_status": "2"},
        {"grpc_status": "4"},
        {"grpc_status": "8"},
        {"grpc_status": "13"},
        {"grpc_status": "14"},
        {"grpc_status": "15"},
        {"grpc_status": "13-"},
        {"grpc_status": "-2"},
        {"status": "0", "flags": "UF"},
        {"status": "0", "flags": "UC"},
        {"status": "0", "flags": "UR"},
        {"status": "0", "flags": "UT"},
        {"status": "200", "flags": "UC"},  # broken off in the middle of the reply
    ],
)
def test_what_blames_the_deployment_is_an_error(outcome: dict[str, str]) -> None:
    assert judged(**outcome) == [Totals(requests=1, errors=1)]


@pytest.mark.parametrize("outcome", [{"status": "0"}, {"status": "503", "not_begun": "1"}])
def test_what_says_nothing_about_the_deployment_is_not_counted(outcome: dict[str, str]) -> None:
    assert judged(**outcome) == []


def test_a_request_whose_time_was_over_is_an_error_of_the_deployment() -> None:
    message = Message().count(TIMED_OUT, WHO | {"details": "response_timeout"}, 3)

    assert message.read() == [Increment("fraud", "blue", Totals(3, 3))]


def test_an_attempt_whose_own_time_was_over_is_not_counted_twice() -> None:
    assert Message().count(TIMED_OUT, WHO | {"details": "upstream_per_try_timeout"}).read() == []


def test_an_attempt_is_the_candidates_when_the_shield_sent_it_there_and_nobodys_when_stable_stood_in() -> None:
    shield = WHO | {"cluster": "fraud/green/blue"} | OUTCOME

    own = Message().count(COUNT, shield | {"host": "green", "status": "500"}).read()
    stood_in = Message().count(COUNT, shield | {"host": "blue"}).durations(shield | {"host": "blue"}, {0: 1}).read()

    assert own == [Increment("fraud", "green", Totals(1, 1))]
    assert stood_in == []


def test_an_attempt_that_reached_no_replica_is_the_deployments() -> None:
    message = Message().count(COUNT, WHO | OUTCOME | {"host": "", "status": "0", "flags": "UO"})

    assert message.read() == [Increment("fraud", "blue", Totals(1, 1))]


@pytest.mark.parametrize("tags", [{"route": ""}, {"cluster": "server", "host": ""}, {"cluster": "", "host": ""}])
def test_what_was_not_drawn_by_weight_is_left_out(tags: dict[str, str]) -> None:
    without_route = WHO | {"route": ""} if "route" not in tags else WHO
    assert Message().count(COUNT, without_route | OUTCOME | tags).read() == []


def test_dots_in_names_survive() -> None:
    message = Message().count(
        COUNT, WHO | {"cluster": "fraud~v1.2/blue~b".replace(".", "~"), "host": "blue.b"} | OUTCOME
    )

    assert [(one.endpoint, one.deployment) for one in message.read()] == [("fraud.v1.2", "blue.b")]


def test_durations_are_a_histogram_in_milliseconds() -> None:
    (one,) = Message().durations(WHO, {0: 2, 5: 7, len(BOUNDS_MS): 1}).read()

    latencies = one.totals.latencies
    assert latencies.bounds_ms == BOUNDS_MS
    assert (latencies.counts[0], latencies.counts[5], latencies.counts[-1], latencies.total) == (2, 7, 1, 10)
    assert (one.totals.requests, one.totals.errors) == (0, 0)


def test_bounds_are_fine_enough_and_reach_from_a_tenth_of_a_millisecond_to_minutes() -> None:
    assert BOUNDS_MS[0] == 0.1
    assert BOUNDS_MS[-1] >= 600_000
    assert all(1.1 < after / before <= 1.2 for before, after in pairwise(BOUNDS_MS))


def test_durations_on_another_scale_are_refused_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert Message().durations(WHO, {0: 1}, bounds=(1, 2, 3)).read() == []

    assert "other bounds" in caplog.text


def test_other_statistics_are_ignored() -> None:
    assert Message().count("cluster.upstream_rq_total", WHO).read() == []
