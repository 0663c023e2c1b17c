"""Quotas: how much of the gateway the endpoints of one group may use together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from router.domain.endpoint import EndpointState
from router.domain.errors import Invalid


@dataclass(frozen=True, slots=True)
class Usage:
    """What the endpoints of a group use when every deployment has the most replicas that it may have."""

    deployments: int = 0
    replicas: int = 0
    cpus: float = 0.0
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that a group may use; None: not limited."""

    deployments: int | None = None
    replicas: int | None = None
    cpus: float | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        for name in _NAMES:
            limit = getattr(self, name)
            if limit is not None and not 0 <= limit <= 1_000_000:
                raise Invalid(name, f"{limit:g} is out of range", "use 0 to 1000000, or leave it out for no limit")


_NAMES = tuple(field.name for field in fields(Usage))


def usage_of(group: str, states: Iterable[EndpointState]) -> Usage:
    specs = [
        deployed.spec for state in states if state.endpoint.group == group for deployed in state.deployments.values()
    ]
    return Usage(
        deployments=len(specs),
        replicas=sum(spec.most_instances for spec in specs),
        cpus=sum(spec.most_instances * spec.resources.cpu for spec in specs),
        gpus=sum(spec.most_instances * spec.resources.gpu for spec in specs),
    )


def overdrawn(quota: Quota, before: Usage, after: Usage) -> str:
    """What a change would use beyond the quota, in words; empty when nothing.

    Using less is always allowed, also above a quota that was lowered meanwhile.
    """
    words = []
    for name in _NAMES:
        limit, used = getattr(quota, name), getattr(after, name)
        if limit is not None and used > limit and used > getattr(before, name):
            words.append(f"{used:g} {name} of {limit:g}")
    return " and ".join(words)


def in_words(quota: Quota) -> str:
    limits = [f"{getattr(quota, name):g} {name}" for name in _NAMES if getattr(quota, name) is not None]
    return ", ".join(limits) or "no limit"
