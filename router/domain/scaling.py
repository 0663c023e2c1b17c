"""Scaling: how many replicas a deployment shall have, from how busy the ones it has are. A pure function.

Demand is counted in replicas: the sum of all replicas' loads, where 1.0 is one replica that never rests (see
serving/load.py). `target_utilization_percentage` says how busy a replica should be, so demand / target replicas are
needed. Rules that keep the number steady:

- up at once, but at most to twice what runs, and only when what runs has been measured as it is now: while a new
  replica takes over its share, the old ones' numbers still tell of the time before;
- down only when fewer have been enough without interruption for `scale_down_delay_s`, to the most that were needed in
  that time, and only where those would be busy to at most 9/10 of the target. Without that margin, a demand that
  trembles around a whole number of replicas would start and stop one for ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from router.domain.errors import Invalid

# How long a measurement looks back, and so how long after a change of what runs it still tells of the time before.
LOOK_BACK_S: Final = 3.0

# One more replica is needed only when this fraction of one is: what is measured is never exact.
_TOLERANCE: Final = 0.02
_DOWN_MARGIN: Final = 0.9


@dataclass(frozen=True, slots=True)
class ScaleSettings:
    """A deployment that scales by itself. Durations in whole seconds.

    With `min_instances` 0 it sleeps when nobody has asked for `idle_timeout_s`: no replica runs. The requests that wake
    it up are held, at most `max_held_requests` and each for at most `start_timeout_s` beyond its own time limit.
    """

    max_instances: int
    min_instances: int = 1
    target_utilization_percentage: int = 70
    scale_down_delay_s: int = 60
    idle_timeout_s: int = 300
    start_timeout_s: int = 60
    max_held_requests: int = 100

    def __post_init__(self) -> None:
        for key, value, least, most in (
            ("max_instances", self.max_instances, 1, 1000),
            ("min_instances", self.min_instances, 0, 1000),
            ("target_utilization_percentage", self.target_utilization_percentage, 1, 100),
            ("scale_down_delay_s", self.scale_down_delay_s, 0, 86_400),
            ("idle_timeout_s", self.idle_timeout_s, 1, 604_800),
            ("start_timeout_s", self.start_timeout_s, 1, 3600),
            ("max_held_requests", self.max_held_requests, 1, 100_000),
        ):
            if not least <= value <= most:
                raise Invalid(f"scale_settings.{key}", f"{value} is out of range", f"use {least} to {most}")
        if self.min_instances > self.max_instances:
            raise Invalid(
                "scale_settings.min_instances",
                f"{self.min_instances} is more than max_instances, {self.max_instances}",
                "use at most max_instances",
            )

    @property
    def can_sleep(self) -> bool:
        return self.min_instances == 0

    @property
    def least_awake(self) -> int:
        """The fewest replicas of a deployment that does not sleep."""
        return max(1, self.min_instances)


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known at `now_s`. `target`: how many there shall be so far. `loads`: of those that told theirs."""

    now_s: float
    target: int
    running: int
    loads: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """What a decision needs of the ones before it.

    `running` since `since_s`; from `fewer_since_s` on fewer than the target were enough, at the most `fewer_most`.
    """

    running: int = -1
    since_s: float = 0.0
    fewer_since_s: float | None = None
    fewer_most: int = 0


def decide(settings: ScaleSettings, observed: Observed, memory: Memory) -> tuple[int, Memory]:
    """How many replicas there shall be now, always within the limits, and what to remember for the next decision."""
    limited = min(max(observed.target, settings.least_awake), settings.max_instances)
    if observed.running != memory.running:
        return limited, Memory(observed.running, observed.now_s)
    is_measured = len(observed.loads) == observed.running and observed.now_s - memory.since_s >= LOOK_BACK_S
    if not is_measured or limited != observed.target:
        return limited, Memory(observed.running, memory.since_s)
    demand, target = sum(observed.loads), settings.target_utilization_percentage / 100
    needed = math.ceil(demand / target - _TOLERANCE)
    if needed > observed.target:
        most = min(2 * max(observed.running, 1), settings.max_instances)
        return max(observed.target, min(needed, most)), Memory(observed.running, memory.since_s)
    enough = max(math.ceil(demand / (target * _DOWN_MARGIN)), settings.least_awake)
    if enough >= observed.target:
        return observed.target, Memory(observed.running, memory.since_s)
    since_s = observed.now_s if memory.fewer_since_s is None else memory.fewer_since_s
    most_needed = enough if memory.fewer_since_s is None else max(enough, memory.fewer_most)
    if observed.now_s - since_s >= settings.scale_down_delay_s:
        return most_needed, Memory(observed.running, memory.since_s)
    return observed.target, Memory(observed.running, memory.since_s, since_s, most_needed)
