"""Who follows the deployment that has the traffic: its name, and its settings. Pure."""

from __future__ import annotations

from dataclasses import replace

from router.domain.deployment import DeployedModel, Deployment
from router.domain.endpoint import EndpointState
from router.domain.errors import Conflict, Invalid
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.names import checked_name
from router.domain.rollout import Rollout

COLOURS = ("blue", "green")


def sole(state: EndpointState) -> DeployedModel | None:
    """The deployment that has all the traffic, if one has."""
    shares = state.endpoint.traffic.shares
    return state.deployments[shares[0][0]] if len(shares) == 1 else None


def successor(
    state: EndpointState, version: str, last: Rollout | None, model: ResolvedModel | None = None
) -> Deployment:
    """The deployment that is to run what the live one's reference names now. Everything but name and version stays.

    It gets the colour that is free: blue after green and green after blue, or the first that is free. One that is there
    is taken over when nobody can miss it: it has no traffic, and it is stopped, or had a part in the endpoint's last
    rollout, or follows the same reference. `version`: as the source calls it. Raises `Conflict` when no name is free.
    """
    live = sole(state)
    if live is None:
        raise Conflict("no deployment has all the traffic")
    name = _free_name(state, live.spec, last, model)
    return replace(live.spec, name=name, model_version=_version(version))


def _free_name(state: EndpointState, live: Deployment, last: Rollout | None, model: ResolvedModel | None) -> str:
    others = [name for name in COLOURS if name != live.name]
    for name in others:  # what an interrupted attempt has deployed already
        there = state.deployments.get(name)
        if model is not None and there is not None and there.model == model and _is_idle(state, name):
            return name
    for name in others:
        there = state.deployments.get(name)
        if there is None or (_is_idle(state, name) and _is_left_over(there.spec, live.reference, last)):
            return name
    used = " and ".join(repr(name) for name in others)
    raise Conflict(f"no name is free for the new deployment: {used} would be overwritten. Delete what is not needed")


def _is_idle(state: EndpointState, name: str) -> bool:
    mirror = state.endpoint.mirror
    return not state.endpoint.traffic.percent(name) and (mirror is None or mirror.deployment != name)


def _is_left_over(spec: Deployment, followed: ModelRef, last: Rollout | None) -> bool:
    is_of_rollout = last is not None and spec.name in (last.stable, last.candidate)
    return spec.least_instances == 0 or is_of_rollout or spec.model == followed


def _version(text: str) -> str:
    """Empty, which means the digest, where the source's word cannot stand in a URL."""
    try:
        return checked_name("model_version", text) if text else ""
    except Invalid:
        return ""
