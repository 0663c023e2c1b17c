"""Interference: which changes made by hand would cross a rollout, and how that is said. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from router.desired import Desired
from router.domain.endpoint import Endpoint, EndpointState
from router.domain.errors import Conflict
from router.domain.rollout import Phase, Rollout
from router.domain.watching import Watch
from router.plan import Plan
from router.spec import Document


def crossed_rollouts(plan: Plan, desired: Desired) -> tuple[tuple[Rollout, str], ...]:
    """The rollouts that have not ended and that the plan would cross, and in words what it would do to them.

    A deleted endpoint crosses nothing: its rollouts go with it.
    """
    found = []
    for new in plan.changed:
        name = new.endpoint.name
        rollout = desired.rollout(name)
        if rollout is None or rollout.phase.is_terminal or name not in desired.states:
            continue
        if what := _crossing(rollout, desired.state(name), new):
            found.append((rollout, what))
    return tuple(found)


def watch_of(endpoint: str, documents: Iterable[Document], desired: Desired) -> Watch | None:
    """The endpoint's watch as it is once the documents are applied."""
    for document in documents:
        if isinstance(document.content, Endpoint) and document.content.name == endpoint:
            return document.content.watch
    state = desired.states.get(endpoint)
    return state.endpoint.watch if state else None


def refusal(rollout: Rollout, what: str) -> Conflict:
    return Conflict(
        f"a rollout of endpoint {rollout.endpoint!r} from {rollout.stable!r} to {rollout.candidate!r} is under way "
        f"({rollout}), so {what}: wait until it has ended, abort it (crossfade rollout abort {rollout.endpoint}), "
        "or force the change, which aborts it first"
    )


def _crossing(rollout: Rollout, old: EndpointState, new: EndpointState) -> str:
    """What about the change does not go with the rollout; empty when nothing."""
    before, after = old.endpoint, new.endpoint
    if after.traffic not in (before.traffic, rollout.in_force.traffic):
        return "the traffic cannot be changed by hand"
    if after.mirror not in (before.mirror, rollout.in_force.mirror):
        return "the mirror cannot be changed by hand"
    for name in (rollout.stable, rollout.candidate):
        if name not in new.deployments:
            return f"deployment {name!r} cannot be deleted"
        if name not in old.deployments:
            continue
        was, becomes = old.deployment(name), new.deployment(name)
        if was.generation != becomes.generation:
            return f"deployment {name!r} cannot be changed in place"
        if rollout.phase is Phase.PENDING and was.spec.instance_count != becomes.spec.instance_count:
            return f"deployment {name!r} cannot be scaled before it has begun"
    return ""
