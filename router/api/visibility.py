"""What an operator may see and touch of the endpoints, by the groups of their token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fastapi import Request

from router.api.operator import operator_of
from router.desired import Desired
from router.domain.access import Operator, Role
from router.domain.endpoint import Endpoint
from router.domain.errors import Forbidden, NotFound
from router.domain.listening import GatewaySpec
from router.domain.policy import Policy
from router.domain.rollout import RolloutSpec
from router.domain.sources import CommandOutput
from router.events import Event
from router.spec import Document


def only_visible(desired: Desired) -> Callable[[Request], None]:
    """A dependency of every route below an endpoint: one that the token does not see is told like one that is not."""

    def check(request: Request) -> None:
        names = request.path_params
        if (name := names.get("endpoint", names.get("name"))) is not None and name in desired.states:
            operator = operator_of(request.scope)
            if not operator.sees(desired.states[name].endpoint.group):
                raise NotFound("endpoint", name, visible_names(desired, operator))

    return check


def visible_names(desired: Desired, operator: Operator) -> tuple[str, ...]:
    return tuple(sorted(name for name, state in desired.states.items() if operator.sees(state.endpoint.group)))


def is_for(operator: Operator, event: Event, desired: Desired) -> bool:
    """Whether they may read it. Of an endpoint that is gone, only who sees all of them."""
    if not event.endpoint or not operator.groups:
        return True
    state = desired.states.get(event.endpoint)
    return state is not None and operator.sees(state.endpoint.group)


def check_documents(documents: Sequence[Document], desired: Desired, operator: Operator) -> None:
    """Raises `Forbidden` when the documents touch an endpoint outside the token's groups, or move one there; or say
    where all of them are offered, and no admin asks."""
    if any(isinstance(item.content, GatewaySpec) for item in documents) and not operator.may(Role.ADMIN):
        raise Forbidden(f"the token {operator.name!r} is a {operator.role}'s: kind Gateway needs the role {Role.ADMIN}")
    check_rollouts((item.content for item in documents if isinstance(item.content, RolloutSpec)), operator)
    for item in documents:
        if isinstance(item.content, Endpoint) and item.content.watch is not None:
            _check_programs(f"the watch of {item.content.name!r}", item.content.watch.rollout.policy, operator)
    new_groups = {item.content.name: item.content.group for item in documents if isinstance(item.content, Endpoint)}
    for name in sorted({document.endpoint_name for document in documents} - {""}):
        groups = {new_groups[name]} if name in new_groups else set()
        if name in desired.states:
            groups.add(desired.state(name).endpoint.group)
        if not all(operator.sees(group) for group in groups):
            raise Forbidden(
                f"the token {operator.name!r} is for endpoints of {' or '.join(operator.groups)}: "
                f"{name!r} is none, or would not be one (its spec needs group: {operator.groups[0]})"
            )


def check_unlimited(operator: Operator) -> None:
    """Raises `Forbidden` when they see the endpoints of some groups only."""
    if operator.groups:
        raise Forbidden(
            f"the token {operator.name!r} is for endpoints of {' or '.join(operator.groups)}: this shows all of them"
        )


def check_rollouts(rollouts: Iterable[RolloutSpec], operator: Operator) -> None:
    """Raises `Forbidden` when a rollout runs programs and no admin asks: they run as the control plane does."""
    for rollout in rollouts:
        _check_programs(f"the rollout of {rollout.endpoint!r}", rollout.policy, operator)


def _check_programs(whose: str, policy: Policy, operator: Operator) -> None:
    runs_programs = any(isinstance(metric.source, CommandOutput) for metric in policy.metrics)
    if runs_programs and not operator.may(Role.ADMIN):
        raise Forbidden(
            f"{whose} has a metric with a command, which runs as the control plane: that takes an admin's token"
        )
