"""What the reconciler decides, as plain functions of what was asked for and what is observed. No I/O, no clock.

An application is one generation of one deployment in Ray Serve. The order that keeps requests safe: new replicas start
and become ready; the data plane moves to them and acknowledges; only then do the old ones go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from router.domain.deployment import DeployedModel
from router.domain.endpoint import EndpointState
from router.domain.routing import Address, Replica, ReplicaState, Routing, serving_replicas
from router.domain.scaling import ScaleSettings
from router.ports import RunningApp

AppKey = tuple[str, str, str]  # endpoint, deployment, generation
Scale = int | ScaleSettings  # how many replicas, or how their number is found


def app_key(deployed: DeployedModel) -> AppKey:
    return deployed.spec.endpoint, deployed.spec.name, deployed.generation


def scale_of(deployed: DeployedModel) -> Scale:
    return deployed.spec.scale_settings or deployed.spec.instance_count


def wanted_apps(states: Iterable[EndpointState], asleep: Collection[AppKey] = ()) -> dict[AppKey, DeployedModel]:
    """The applications that should run: not the stopped ones, nor those `asleep`, nor what Envoy asks elsewhere."""
    return {
        app_key(deployed): deployed
        for state in states
        for deployed in state.deployments.values()
        if deployed.direct is None and deployed.spec.least_instances > 0 and app_key(deployed) not in asleep
    }


def apps_to_deploy(
    wanted: Mapping[AppKey, DeployedModel], running: Collection[RunningApp], deployed_scales: Mapping[AppKey, Scale]
) -> list[DeployedModel]:
    """What must be started, or told how to scale. `deployed_scales` is what this process told Ray before."""
    present = {(app.endpoint, app.deployment, app.generation) for app in running}
    return [
        deployed
        for key, deployed in sorted(wanted.items())
        if key not in present or deployed_scales.get(key) != scale_of(deployed)
    ]


def apps_to_delete(
    wanted: Mapping[AppKey, DeployedModel],
    running: Iterable[RunningApp],
    replicas: Iterable[Replica],
    addresses_in_use: Collection[Address],
) -> list[RunningApp]:
    """What runs, is not wanted, and gets no request any more.

    `addresses_in_use` are those that any Envoy may still send to.
    """
    used = {
        (replica.endpoint, replica.deployment, replica.generation)
        for replica in replicas
        if replica.address in addresses_in_use
    }
    return [
        app
        for app in running
        if (key := (app.endpoint, app.deployment, app.generation)) not in wanted and key not in used
    ]


def replicas_to_release(replicas: Iterable[Replica], addresses_in_use: Collection[Address]) -> tuple[str, ...]:
    """Draining replicas that no Envoy sends to any more."""
    return tuple(
        replica.id
        for replica in replicas
        if replica.state is ReplicaState.DRAINING and replica.address not in addresses_in_use
    )


def addresses_of(routing: Routing | None) -> frozenset[Address]:
    if routing is None:
        return frozenset()
    return frozenset(address for upstream in routing.upstreams for address in upstream.addresses)


def replicas_by_endpoint(replicas: Iterable[Replica]) -> dict[str, tuple[Replica, ...]]:
    """For whoever asks about many endpoints: the functions below look at every replica that they are given."""
    groups: dict[str, list[Replica]] = {}
    for replica in replicas:
        groups.setdefault(replica.endpoint, []).append(replica)
    return {endpoint: tuple(group) for endpoint, group in groups.items()}


def ready_deployments(state: EndpointState, replicas: Collection[Replica]) -> frozenset[str]:
    """The deployments of an endpoint that have a replica to answer, or start one when they are asked."""
    return frozenset(name for name, deployed in state.deployments.items() if serving_replicas(deployed, replicas))


def failure_of(deployed: DeployedModel, replicas: Iterable[Replica]) -> str:
    """Why the deployment's present generation cannot start, in its last replica's words; empty while it may."""
    for replica in _present_replicas(deployed, replicas):
        if replica.state is ReplicaState.FAILED:
            return replica.reason
    return ""


def waiting_reason(deployed: DeployedModel, replicas: Iterable[Replica]) -> str:
    """What the first of its replicas that is not ready waits for, when it says so."""
    waiting = (ReplicaState.LOADING, ReplicaState.TROUBLED)
    reasons = (one.reason for one in _present_replicas(deployed, replicas) if one.state in waiting)
    return next((reason for reason in reasons if reason), "")


def complaint_of(deployed: DeployedModel, replicas: Iterable[Replica]) -> str:
    """What is wrong with the first of its ready replicas that says so, though it answers."""
    ready = (one for one in _present_replicas(deployed, replicas) if one.state is ReplicaState.READY)
    return next((one.reason for one in ready if one.reason), "")


def ready_count(deployed: DeployedModel, replicas: Iterable[Replica]) -> int:
    """Ready replicas of the present generation."""
    return sum(replica.state is ReplicaState.READY for replica in _present_replicas(deployed, replicas))


def _present_replicas(deployed: DeployedModel, replicas: Iterable[Replica]) -> Iterator[Replica]:
    """Those of the deployment's present generation, whatever their state."""
    endpoint, name, generation = app_key(deployed)
    for replica in replicas:
        if replica.endpoint == endpoint and replica.deployment == name and replica.generation == generation:
            yield replica
