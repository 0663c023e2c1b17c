"""Applying spec documents that may hold rollouts: everything else first, then the rollouts of what is in force.

A rollout owns its endpoint's traffic. So `traffic` and `mirror_traffic` beside a rollout say where a new endpoint
begins; of one that has traffic the rollout alone moves it, and applying the same file again does not move it back. For
the same reason the old deployment of a rollout that is done keeps the size that the rollout gave it. All of this holds
for an endpoint with a watch, too, which starts rollouts by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from router.admin_ports import InForce
from router.commits import Done
from router.domain.comparable import COMPARABLE_HINT, why_not_compared
from router.domain.deployment import Deployment
from router.domain.endpoint import Endpoint
from router.domain.errors import Conflict, NotFound
from router.domain.rollout import Phase, Rollout, RolloutSpec
from router.domain.traffic import Traffic
from router.interference import watch_of
from router.operations import Operations
from router.plan import Action
from router.rollout_ports import Rollouts
from router.spec import Document, Problem, SpecProblems


@dataclass(frozen=True, slots=True)
class RolloutChange:
    """What became of a rollout's document."""

    endpoint: str
    candidate: str
    action: Action


@dataclass(frozen=True, slots=True)
class Applied:
    """`notes`: what the documents say and rollouts decide instead, in words for the operator."""

    done: Done
    rollouts: tuple[RolloutChange, ...]
    notes: tuple[str, ...]


def latest_of(rollouts: Rollouts, endpoint: str) -> Rollout | None:
    """None when the endpoint has had no rollout."""
    try:
        return rollouts.latest(endpoint)
    except NotFound:
        return None


async def apply_documents(
    operations: Operations,
    rollouts: Rollouts,
    documents: Sequence[Document],
    by: str,
    *,
    is_dry_run: bool = False,
    is_forced: bool = False,
    is_signature_change_allowed: bool = False,
    expected: Mapping[str, int] | None = None,
) -> Applied:
    """Idempotent: a rollout that is under way, or whose candidate has all the traffic already, is left alone.

    `is_forced`: a change of anything but rollouts ends the rollout that it would cross. Raises what `Operations.apply`
    and `Rollouts.start` raise, and `Conflict` while another rollout is under way.
    """
    asked = [document for document in documents if isinstance(document.content, RolloutSpec)]
    wanted = [document for document in asked if not _is_true(operations, rollouts, document)]
    if problems := [problem for document in wanted for problem in _obstacles(operations, document, documents)]:
        raise SpecProblems(problems)
    notes: list[str] = []
    reduced = [_without_what_rollouts_own(operations, rollouts, document, documents, notes) for document in documents]
    done = await operations.apply(
        reduced,
        is_dry_run=is_dry_run,
        is_forced=is_forced,
        is_signature_change_allowed=is_signature_change_allowed,
        expected=expected,
        by=by,
    )
    changes = []
    for document in asked:
        spec, action = document.content, Action.UNCHANGED
        assert isinstance(spec, RolloutSpec)
        if document in wanted:
            action = Action.CREATED
            if not is_dry_run:
                action = await _started(operations, rollouts, spec, done.revisions[spec.endpoint], by)
        changes.append(RolloutChange(spec.endpoint, spec.candidate, action))
    return Applied(done, tuple(changes), (*notes, *done.notes))


async def _started(operations: Operations, rollouts: Rollouts, spec: RolloutSpec, revision: int, by: str) -> Action:
    if not isinstance(await operations.wait_settled(spec.endpoint, revision, 0.0), InForce):
        return Action.WAITING
    await rollouts.start(spec, by)
    return Action.CREATED


def _is_true(operations: Operations, rollouts: Rollouts, document: Document) -> bool:
    """Whether there is nothing to start. Raises `Conflict` when another rollout is in the way."""
    spec = document.content
    assert isinstance(spec, RolloutSpec)
    rollout = latest_of(rollouts, spec.endpoint)
    is_same = rollout is not None and _spec_of(rollout) == spec
    if rollout and not rollout.phase.is_decided:
        if is_same and rollout.phase in (Phase.PENDING, Phase.PROGRESSING, Phase.PAUSED):
            return True
        raise Conflict(
            f"endpoint {spec.endpoint!r} has another rollout, to {rollout.candidate!r} ({rollout}): wait until it has "
            f"ended, or end it: crossfade rollout abort {spec.endpoint}"
        )
    if rollout and is_same and not spec.strategy.moves_traffic:
        return rollout.phase is Phase.SUCCEEDED
    state = operations.desired.states.get(spec.endpoint)
    return state is not None and _has_all(state.endpoint.traffic, spec.candidate)


def _spec_of(rollout: Rollout) -> RolloutSpec:
    return RolloutSpec(rollout.endpoint, rollout.candidate, rollout.strategy, rollout.policy)


def _has_all(traffic: Traffic, deployment: str) -> bool:
    return traffic.percent(deployment) == 100


def _obstacles(operations: Operations, document: Document, documents: Sequence[Document]) -> Iterator[Problem]:
    """Why the rollout could not start once everything else is in force: told before anything is changed."""
    spec = document.content
    assert isinstance(spec, RolloutSpec)
    state = operations.desired.states.get(spec.endpoint)
    if state is None and spec.endpoint not in {
        doc.content.name for doc in documents if isinstance(doc.content, Endpoint)
    }:
        return  # told by the plan, with what else does not exist
    traffic = state.endpoint.traffic if state else Traffic()
    specs = {name: deployed.spec for name, deployed in state.deployments.items()} if state else {}
    sizes = {name: deployment.instance_count for name, deployment in specs.items()}
    for other in documents:
        match other.content:
            case Endpoint(name=spec.endpoint) if traffic.is_empty and "traffic" in other.given:
                traffic = other.content.traffic
            case Deployment(endpoint=spec.endpoint, name=name, instance_count=count) as deployment:
                specs[name] = deployment
                sizes[name] = count if "instance_count" in other.given else sizes.get(name, count)
    if len(traffic.deployments) != 1:
        shown = " ".join(f"{name}={percent}" for name, percent in traffic.shares) or "nobody"
        message = f"a rollout starts from one deployment that has all the traffic, and it is with {shown}"
        yield document.problem("endpoint", message, "give one deployment all the traffic first")
    elif _has_all(traffic, spec.candidate):
        message = f"the endpoint begins with all the traffic on {spec.candidate!r}"
        yield document.problem("to", message, "name another deployment, or leave the rollout out")
    if sizes.get(spec.candidate) == 0:
        message = f"deployment {spec.candidate!r} has no instances"
        yield document.problem("to", message, "give it an instance_count of 1 or more")
    sides = (specs[name] for name in sorted(traffic.deployments | {spec.candidate}) if name in specs)
    if reason := why_not_compared(spec.strategy, sides):
        yield document.problem("steps", reason, COMPARABLE_HINT)


def _owner_of_traffic(endpoint: str, documents: Sequence[Document], operations: Operations) -> str:
    """What moves the traffic of an endpoint that has some, beside operators; empty when nothing does."""
    if any(isinstance(other.content, RolloutSpec) and other.endpoint_name == endpoint for other in documents):
        return "rollout"
    return "watch" if watch_of(endpoint, documents, operations.desired) is not None else ""


def _without_what_rollouts_own(
    operations: Operations, rollouts: Rollouts, document: Document, documents: Sequence[Document], notes: list[str]
) -> Document:
    """Nothing is left out in silence: `notes` gets a line for everything that was to be changed and is not."""
    name = document.endpoint_name
    state = operations.desired.states.get(name)
    owner = _owner_of_traffic(name, documents, operations)
    if state is None or not owner:
        return document
    match document.content:
        case Endpoint(traffic=traffic, mirror=mirror) if not state.endpoint.traffic.is_empty:
            present = state.endpoint
            if "traffic" in document.given and traffic != present.traffic:
                notes.append(f"traffic of endpoint {name!r} is left to its {owner}, and stays as it is")
            if "mirror_traffic" in document.given and mirror != present.mirror:
                notes.append(f"mirror_traffic of endpoint {name!r} is left to its {owner}, and stays as it is")
            return replace(document, given=document.given - {"traffic", "mirror_traffic"})
        case Deployment(name=deployment, instance_count=count) if deployment in state.deployments:
            rollout = latest_of(rollouts, name)
            is_done = rollout and rollout.phase.is_decided and _has_all(state.endpoint.traffic, rollout.candidate)
            if rollout and is_done and rollout.stable == deployment:
                if "instance_count" in document.given and count != state.deployment(deployment).spec.instance_count:
                    notes.append(f"instance_count of {deployment!r}, which is retired, stays as the rollout left it")
                return replace(document, given=document.given - {"instance_count"})
    return document
