"""Traffic: which share of an endpoint's requests each deployment answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from router.domain.errors import Invalid
from router.domain.names import checked_name


@dataclass(frozen=True, slots=True)
class Traffic:
    """Deployment → percent. Percents sum to 100, or there are none at all (nobody gets traffic).

    Deployments at 0 percent are left out, and the rest is sorted, so equal traffic is equal data.
    """

    shares: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, percents: Mapping[str, int]) -> Traffic:
        """Build from a mapping; raises `Invalid` when a percent or the sum is out of range."""
        for name, percent in percents.items():
            checked_name("traffic", name)
            if isinstance(percent, bool) or not isinstance(percent, int) or not 0 <= percent <= 100:
                raise Invalid(f"traffic.{name}", f"{percent!r} is not a percent", "use a whole number from 0 to 100")
        total = sum(percents.values())
        if total not in (0, 100):
            raise Invalid("traffic", f"the percents sum to {total}", "make them sum to 100, or to 0 for no traffic")
        return cls(tuple(sorted((name, percent) for name, percent in percents.items() if percent > 0)))

    def percent(self, deployment: str) -> int:
        return dict(self.shares).get(deployment, 0)

    def as_dict(self) -> dict[str, int]:
        return dict(self.shares)

    @property
    def deployments(self) -> frozenset[str]:
        """The deployments with live traffic."""
        return frozenset(name for name, _ in self.shares)

    @property
    def is_empty(self) -> bool:
        return not self.shares

    def restricted_to(self, deployments: Iterable[str]) -> Traffic:
        """The same proportions over fewer deployments, rounded to whole percents that sum to 100.

        Largest-remainder rounding; empty when none of `deployments` has traffic.
        """
        keep = set(deployments)
        kept = [(name, percent) for name, percent in self.shares if name in keep]
        total = sum(percent for _, percent in kept)
        if total in (0, 100):
            return Traffic(tuple(kept))
        floors = {name: percent * 100 // total for name, percent in kept}
        missing = 100 - sum(floors.values())
        by_remainder = sorted(kept, key=lambda share: (-(share[1] * 100 % total), share[0]))
        for name, _ in by_remainder[:missing]:
            floors[name] += 1
        return Traffic.of(floors)


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy of `percent` of the live requests goes to `deployment`; its answers are thrown away."""

    deployment: str
    percent: int

    def __post_init__(self) -> None:
        checked_name("mirror_traffic", self.deployment)
        if isinstance(self.percent, bool) or not isinstance(self.percent, int) or not 1 <= self.percent <= 100:
            raise Invalid(
                f"mirror_traffic.{self.deployment}",
                f"{self.percent!r} is not a percent",
                "use a whole number from 0 to 100",
            )


def traffic_to_apply(asked: Traffic, in_force: Traffic, ready: frozenset[str]) -> Traffic:
    """The traffic that may be in force now, given which deployments have a ready replica.

    - everything asked for is ready: what was asked for;
    - else, while what is in force is ready: keep it (a candidate that is still loading gets nothing);
    - else: what was asked for, over the deployments that are ready (a dead deployment's share goes to the living);
    - else: what is in force, over those that are ready;
    - nobody is ready: what is in force, so that the last known good answers as soon as it is back.
    """
    if asked.deployments <= ready:
        return asked
    if in_force.deployments and in_force.deployments <= ready:
        return in_force
    for wanted in (asked, in_force):
        living = wanted.restricted_to(ready)
        if not living.is_empty:
            return living
    return asked if in_force.is_empty else in_force
