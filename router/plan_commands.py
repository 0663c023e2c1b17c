"""What a single command would do: move traffic, scale, remove. Pure: a state in, a `Plan` or refusal out."""

from __future__ import annotations

from dataclasses import replace

from router.domain.endpoint import EndpointState
from router.domain.errors import Conflict, Invalid
from router.plan import Action, Change, Plan, change_between, shown
from router.rules import Rules, stopped_with_traffic, stopped_words
from router.spec.changes import Keep, TrafficChange


def plan_traffic(state: EndpointState, change: TrafficChange, rules: Rules) -> Plan:
    """New traffic or mirror. Raises `Invalid` when it names nobody or contradicts itself, or breaks a rule."""
    old = state.endpoint
    endpoint = replace(
        old,
        traffic=old.traffic if isinstance(change.traffic, Keep) else change.traffic,
        mirror=old.mirror if isinstance(change.mirror, Keep) else change.mirror,
    )
    if broken := rules.broken_by(endpoint):
        raise broken
    new = state.with_endpoint(endpoint)
    for name in stopped_with_traffic(new):
        message, _ = stopped_words(new, name)
        raise Invalid(f"traffic.{name}", message, f"scale {name!r} up first")
    return _single(state, new, change_between(shown(old), shown(endpoint), endpoint.name))


def plan_scale(state: EndpointState, deployment: str, instance_count: int) -> Plan:
    """Another number of replicas.

    Raises `NotFound`, or `Conflict` when it would stop a deployment that has traffic, or one that scales by itself.
    """
    old = state.deployment(deployment)
    if (limits := old.spec.scale_settings) is not None:
        raise Conflict(
            f"deployment {deployment!r} scales by itself, "
            f"from {limits.min_instances} to {limits.max_instances} replicas: change its scale_settings, "
            "or apply its spec with instance_count instead of them"
        )
    deployed = replace(old, spec=replace(old.spec, instance_count=instance_count))
    new = state.with_deployment(deployed)
    if deployment in stopped_with_traffic(new):
        raise Conflict(": ".join(stopped_words(new, deployment)))
    return _single(state, new, change_between(shown(old), shown(deployed), state.endpoint.name, deployment))


def plan_deployment_removal(state: EndpointState, deployment: str) -> Plan:
    """Raises `NotFound`, or `Conflict` while it has live or mirrored traffic."""
    change = Change(Action.DELETED, state.endpoint.name, deployment)
    return _single(state, state.without_deployment(deployment), change)


def plan_endpoint_removal(state: EndpointState, is_forced: bool) -> Plan:
    """The endpoint and everything behind it. Raises `Conflict` while it has traffic, unless forced."""
    name = state.endpoint.name
    if not state.endpoint.traffic.is_empty and not is_forced:
        shares = ", ".join(f"{deployment}={percent}%" for deployment, percent in state.endpoint.traffic.shares)
        raise Conflict(f"endpoint {name!r} has live traffic ({shares}): set it to 0 first, or force the deletion")
    gone = [Change(Action.DELETED, name, deployment) for deployment in sorted(state.deployments)]
    return Plan((), (name,), (*gone, Change(Action.DELETED, name)))


def _single(old: EndpointState, new: EndpointState, change: Change) -> Plan:
    if change.action is Action.UNCHANGED:
        return Plan((), (), (change,))
    return Plan((replace(new, revision=old.revision + 1),), (), (change,))
