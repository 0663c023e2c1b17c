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
from router.decisions import app_key
from router.domain.routing import Replica, ReplicaState
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
