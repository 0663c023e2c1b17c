"""What is seen of the world, as events: pure, so every case is a line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.admin_ports import DeploymentCondition, DeploymentStatus, EndpointStatus
from router.domain.evidence import Answers, Report
from router.domain.measurement import Totals
from router.domain.rollout import Phase, Replicas, ReplicasObserved, Rollout, Split, Standing, TrafficApplied, start
from router.domain.scaling import ScaleSettings
from router.domain.traffic import Mirror, Traffic
from router.rollout_ports import Pairs
from router.rollouts.observation import Seen, is_candidate_known, is_compared, next_event, report_between
from tests.fakes import NOON
from tests.rollout_world import SPEC
from tests.unit.router.states import deployed, state

BLUE = Split(Traffic.of({"blue": 100}))
HALF = Split(Traffic.of({"blue": 50, "green": 50}))
STATE = state(HALF.traffic.as_dict(), deployed("blue"), deployed("green"))
STARTED = start("r1", SPEC, Standing(BLUE, {"blue": 1, "green": 1}), "ann", NOON)
READY = Replicas(1, 1)
ASKS_FOR_HALF = replace(
    STARTED, phase=Phase.PROGRESSING, asked=HALF, stable_replicas=READY, candidate_replicas=READY, revision=3
)


def status(
    split: Split, revision: int = 1, error: str = "", green: DeploymentCondition = DeploymentCondition.READY
) -> EndpointStatus:
    ready = 1 if green is DeploymentCondition.READY else 0
    wanted = 0 if green in (DeploymentCondition.ASLEEP, DeploymentCondition.STOPPED) else 1
    deployments = (
        DeploymentStatus("blue", DeploymentCondition.READY, 1, 1),
        DeploymentStatus("green", green, wanted, ready),
    )
    return EndpointStatus(split.traffic, split.mirror, deployments, revision, error)


def test_traffic_is_applied_when_every_envoy_acknowledged_just_what_is_asked_for() -> None:
    assert next_event(ASKS_FOR_HALF, STATE, status(HALF), NOON) == TrafficApplied(HALF)


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(status(BLUE), id="another split is in force"),
        pytest.param(status(HALF, revision=0), id="the acknowledgement is of an earlier revision"),
        pytest.param(status(HALF, error="no such cluster"), id="an Envoy refused it"),
    ],
)
def test_traffic_is_not_applied_before(seen: EndpointStatus) -> None:
    assert next_event(ASKS_FOR_HALF, STATE, seen, NOON) is None


def test_traffic_is_not_applied_when_somebody_asked_for_other_traffic_since() -> None:
    other = state({"blue": 100}, deployed("blue"), deployed("green"))
    assert next_event(ASKS_FOR_HALF, other, status(HALF), NOON) is None


def test_replicas_are_news_before_traffic() -> None:
    lost = status(HALF, green=DeploymentCondition.FAILED)
    assert next_event(ASKS_FOR_HALF, STATE, lost, NOON) == ReplicasObserved(READY, Replicas(0, 1))


def test_replicas_that_were_not_found_yet_are_no_loss() -> None:
    loading = status(BLUE, green=DeploymentCondition.LOADING)
    assert not is_candidate_known(ASKS_FOR_HALF, loading)
    assert next_event(ASKS_FOR_HALF, STATE, loading, NOON, knows_candidate=False) is None


@pytest.mark.parametrize(
    ("phase", "condition", "ready"),
    [
        (Phase.PROMOTED, DeploymentCondition.ASLEEP, 1),
        (Phase.PROMOTED, DeploymentCondition.LOADING, 1),
        (Phase.PROMOTED, DeploymentCondition.FAILED, 0),
        (Phase.PENDING, DeploymentCondition.ASLEEP, 0),
        (Phase.PROGRESSING, DeploymentCondition.ASLEEP, 0),
        (Phase.PROGRESSING, DeploymentCondition.LOADING, 0),
    ],
)
def test_who_may_sleep_counts_as_long_as_it_can_be_started_once_the_rollout_is_decided(
    phase: Phase, condition: DeploymentCondition, ready: int
) -> None:
    green = deployed("green")
    sleepy = replace(green, spec=replace(green.spec, scale_settings=ScaleSettings(max_instances=2, min_instances=0)))
    rollout = replace(ASKS_FOR_HALF, phase=phase, candidate_replicas=Replicas(1, 2))
    event = next_event(rollout, STATE.with_deployment(sleepy), status(BLUE, green=condition), NOON)
    assert event == ReplicasObserved(READY, Replicas(ready, 1))


def test_a_rollout_that_has_ended_hears_nothing() -> None:
    ended: Rollout = replace(ASKS_FOR_HALF, phase=Phase.ABORTED)
    assert next_event(ended, STATE, status(HALF), NOON) is None


def test_a_report_is_what_was_added_since_the_last_look() -> None:
    earlier = Seen(Totals(10, 1), Totals(), Pairs(Answers(5, 1), Answers(3, 0), 6, 5))
    now = Seen(Totals(30, 1), Totals(4, 2), Pairs(Answers(9, 2), Answers(3, 0), 16, 14))
    assert report_between(earlier, now) == Report(Totals(20, 0), Totals(4, 2), Answers(4, 1), Answers(0, 0))


def test_answers_are_compared_while_the_candidate_gets_copies() -> None:
    mirrored = Split(BLUE.traffic, Mirror("green", 10))
    assert is_compared(replace(ASKS_FOR_HALF, asked=mirrored))
    assert is_compared(replace(ASKS_FOR_HALF, in_force=mirrored))
    assert not is_compared(ASKS_FOR_HALF)
    assert not is_compared(replace(ASKS_FOR_HALF, phase=Phase.ROLLING_BACK, in_force=mirrored))
