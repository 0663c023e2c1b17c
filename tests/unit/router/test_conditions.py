"""What operators are told about an endpoint, made from what was asked for and what was observed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.admin_ports import (
    DeploymentCondition,
    DeploymentStatus,
    EndpointStatus,
    Failed,
    InForce,
    Pending,
    Settlement,
)
from router.conditions import deployment_status, settlement
from router.decisions import AppKey, app_key
from router.domain.routing import Replica, ReplicaState
from router.domain.scaling import ScaleSettings
from router.domain.traffic import Mirror, Traffic
from tests.fake_world import replica_of
from tests.unit.router.states import deployed, state

BLUE = deployed("blue", count=2)
OLD = deployed("blue", version="0")
READY, LOADING, FAILED, STOPPED = (
    DeploymentCondition.READY,
    DeploymentCondition.LOADING,
    DeploymentCondition.FAILED,
    DeploymentCondition.STOPPED,
)
LOST = replica_of(BLUE, 3, ReplicaState.FAILED, "the file is gone")


@pytest.mark.parametrize(
    ("replicas", "trouble", "condition", "ready", "reason"),
    [
        ([], "", LOADING, 0, ""),
        ([], "waiting for a GPU", LOADING, 0, "waiting for a GPU"),
        ([replica_of(OLD)], "", LOADING, 0, "replicas of the version before still answer"),
        ([replica_of(OLD)], "waiting for a GPU", LOADING, 0, "waiting for a GPU"),
        ([LOST], "", FAILED, 0, "the file is gone"),
        ([LOST, replica_of(OLD)], "", FAILED, 0, "the file is gone"),
        # One that answers is better news than one that failed.
        ([LOST, replica_of(BLUE, 1)], "", READY, 1, ""),
        ([replica_of(BLUE, 1)], "waiting for a GPU", READY, 1, "waiting for a GPU"),
        ([replica_of(BLUE, 1), replica_of(BLUE, 2)], "an old message", READY, 2, ""),
        ([replica_of(BLUE, 1), replica_of(BLUE, 2, reason="no new token")], "", READY, 2, "no new token"),
        ([replica_of(BLUE, 1, ReplicaState.DRAINING)], "", LOADING, 0, ""),
    ],
)
def test_a_deployments_condition(
    replicas: list[Replica], trouble: str, condition: DeploymentCondition, ready: int, reason: str
) -> None:
    expected = DeploymentStatus("blue", condition, 2, ready, reason)
    assert deployment_status(BLUE, replicas, {app_key(BLUE): trouble}, {}) == expected


def test_a_deployment_without_instances_is_stopped() -> None:
    stopped = deployed("blue", count=0)
    assert deployment_status(stopped, [], {}, {}) == DeploymentStatus("blue", STOPPED, 0, 0)


SCALED = deployed("blue", scaling=ScaleSettings(max_instances=5, min_instances=0))
ASLEEP = replica_of(SCALED, 9, ReplicaState.ASLEEP)


@pytest.mark.parametrize(
    ("replicas", "kept", "expected"),
    [
        ([ASLEEP], {}, DeploymentStatus("blue", DeploymentCondition.ASLEEP, 0, 0)),
        (
            [ASLEEP],
            {app_key(SCALED): 1},
            DeploymentStatus("blue", LOADING, 1, 0, "it was asleep and is waking up"),
        ),
        ([], {}, DeploymentStatus("blue", LOADING, 1, 0)),
        ([replica_of(SCALED)], {app_key(SCALED): 1}, DeploymentStatus("blue", READY, 1, 1)),
        ([replica_of(SCALED)], {app_key(SCALED): 3}, DeploymentStatus("blue", READY, 3, 1, "waiting for a CPU")),
    ],
)
def test_one_that_scales_by_itself_wants_what_ray_keeps(
    replicas: list[Replica], kept: dict[AppKey, int], expected: DeploymentStatus
) -> None:
    troubles = {app_key(SCALED): expected.reason} if expected.replicas_wanted == 3 else {}
    assert deployment_status(SCALED, replicas, troubles, kept) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        # More replicas than it must have may never find a place: that must not hold up an apply.
        (DeploymentStatus("blue", READY, 5, 1), InForce()),
        (DeploymentStatus("blue", DeploymentCondition.ASLEEP, 0, 0), InForce()),
        (DeploymentStatus("blue", LOADING, 1, 0), Pending("blue: 0 of 1 replicas ready")),
    ],
)
def test_one_that_scales_by_itself_is_settled_with_the_replicas_that_it_must_have(
    status: DeploymentStatus, expected: Settlement
) -> None:
    assert settlement(state({"blue": 100}, SCALED, revision=7), replace(DONE, deployments=(status,))) == expected


TRAFFIC = Traffic.of({"blue": 100})
DONE = EndpointStatus(TRAFFIC, None, (DeploymentStatus("blue", READY, 2, 2),), 7)


def of(*deployments: DeploymentStatus) -> EndpointStatus:
    return replace(DONE, deployments=deployments)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (DONE, InForce()),
        (replace(DONE, error="bad route"), Failed("Envoy refused the configuration: bad route")),
        (
            of(DeploymentStatus("blue", FAILED, 2, 0, "no such file")),
            Failed("deployment 'blue' failed: no such file"),
        ),
        (of(DeploymentStatus("blue", READY, 2, 1)), Pending("blue: 1 of 2 replicas ready")),
        (
            of(DeploymentStatus("blue", LOADING, 2, 0, "waiting for a GPU")),
            Pending("blue: 0 of 2 replicas ready (waiting for a GPU)"),
        ),
        (replace(DONE, traffic=Traffic()), Pending("the traffic asked for is not in force yet")),
        (replace(DONE, mirror=Mirror("green", 5)), Pending("the traffic asked for is not in force yet")),
        (replace(DONE, revision=6), Pending("waiting for Envoy to acknowledge")),
        # Another deployment's failure is told before one that still loads.
        (
            of(DeploymentStatus("amber", LOADING, 1, 0), DeploymentStatus("blue", FAILED, 2, 0, "lost")),
            Failed("deployment 'blue' failed: lost"),
        ),
    ],
)
def test_an_endpoint_is_settled_when_everything_asked_for_is_true(status: EndpointStatus, expected: Settlement) -> None:
    assert settlement(state({"blue": 100}, BLUE, revision=7), status) == expected
