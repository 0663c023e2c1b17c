"""What is true of an endpoint now, said for operators. Pure: made from what was asked for and what was observed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from router.admin_ports import (
    DeploymentCondition,
    DeploymentStatus,
    EndpointStatus,
    Failed,
    InForce,
    Pending,
    Settlement,
)
from router.decisions import AppKey, app_key, complaint_of, failure_of, ready_count, waiting_reason
from router.domain.deployment import DeployedModel
from router.domain.endpoint import EndpointState
from router.domain.routing import Replica, is_asleep, serving_replicas


def deployment_status(
    deployed: DeployedModel,
    replicas: Collection[Replica],
    troubles: Mapping[AppKey, str],
    kept: Mapping[AppKey, int],
) -> DeploymentStatus:
    """`troubles`: what the runtime says is wrong with an application ("waiting for resources …").

    `kept`: how many replicas the runtime keeps of an application that runs. What counts is what was asked for; but one
    that scales by itself has asked the runtime.
    """
    key, ready = app_key(deployed), ready_count(deployed, replicas)
    wanted = deployed.spec.least_instances
    if deployed.spec.scale_settings is not None:
        wanted = max(wanted, kept.get(key, 0))
    elif wanted and deployed.direct is not None:
        wanted = deployed.spec.most_answering
    trouble = troubles.get(key, "") or waiting_reason(deployed, replicas)
    failure = failure_of(deployed, replicas)
    if ready:
        reason = trouble if ready < wanted else complaint_of(deployed, replicas)
        return DeploymentStatus(deployed.spec.name, DeploymentCondition.READY, wanted, ready, reason)
    if is_asleep(deployed, replicas) and key not in kept:
        return DeploymentStatus(deployed.spec.name, DeploymentCondition.ASLEEP, 0, 0)
    if wanted == 0:
        return DeploymentStatus(deployed.spec.name, DeploymentCondition.STOPPED, 0, 0)
    if failure:
        return DeploymentStatus(deployed.spec.name, DeploymentCondition.FAILED, wanted, 0, failure)
    if is_asleep(deployed, replicas):
        trouble = trouble or "it was asleep and is waking up"
    elif serving_replicas(deployed, replicas):
        trouble = trouble or "replicas of the version before still answer"
    return DeploymentStatus(deployed.spec.name, DeploymentCondition.LOADING, wanted, 0, trouble)


def settlement(state: EndpointState, status: EndpointStatus) -> Settlement:
    """Whether everything that was asked for is true."""
    if status.error:
        return Failed(f"Envoy refused the configuration: {status.error}")
    for deployment in status.deployments:
        if deployment.condition is DeploymentCondition.FAILED:
            return Failed(f"deployment {deployment.name!r} failed: {deployment.reason}")
    for deployment in status.deployments:
        # One that scales by itself may never reach what its load would need.
        least = state.deployments[deployment.name].spec.least_instances
        if deployment.replicas_ready < min(deployment.replicas_wanted, least):
            missing = f"{deployment.name}: {deployment.replicas_ready} of {deployment.replicas_wanted} replicas ready"
            return Pending(f"{missing} ({deployment.reason})" if deployment.reason else missing)
    if status.traffic != state.endpoint.traffic or status.mirror != state.endpoint.mirror:
        return Pending("the traffic asked for is not in force yet")
    if status.revision < state.revision:
        return Pending("waiting for Envoy to acknowledge")
    return InForce()
