"""Priorities: levels that share the model's time by weight, so that none can starve. Pure.

Start-time fair queueing (Goyal, Vin, Cheng 1996) over levels: each has an account of the time it was given, divided by
its weight, and the one with the smallest is served next. A level at which nobody waited saves nothing up: it comes back
with at least the smallest account of those who wait.
"""

from __future__ import annotations

# The highest priority first. Each level gets at least its weight's share of the model's time, if it needs that much.
WEIGHTS = (8.0, 4.0, 2.0, 1.0, 0.25)
USUAL_LEVEL = 1
_LOWEST_LEVEL = 3
LATE_LEVEL = 4  # of those who missed the objective while more came in than the model can do


def level_of(priority: int) -> int:
    """The protocol's priority: 0 is the default, the same as 2; 1 is the highest; 4 and above are the lowest."""
    return min(priority - 1, _LOWEST_LEVEL) if priority > 0 else USUAL_LEVEL


class Levels:
    """`waiting` counts the requests at each level, `total` all of them."""

    __slots__ = ("_is_charged", "_served", "total", "waiting")

    def __init__(self) -> None:
        self.total = 0
        self.waiting = [0] * len(WEIGHTS)
        self._served = [0.0] * len(WEIGHTS)
        self._is_charged = False

    def enter(self, level: int) -> None:
        if not self.waiting[level] and self.total:
            smallest = min(self._served[at] for at, count in enumerate(self.waiting) if count)
            self._served[level] = max(self._served[level], smallest)
        self.waiting[level] += 1
        self.total += 1

    def leave(self, level: int, count: int = 1) -> None:
        self.waiting[level] -= count
        self.total -= count
        if self._is_charged and not self.total:
            self._served = [0.0] * len(WEIGHTS)
            self._is_charged = False

    def is_alone(self, level: int) -> bool:
        """Nobody waits at another level."""
        return self.waiting[level] == self.total

    def next(self) -> int:
        """Whose turn it is. Somebody must be waiting."""
        waiting = self.waiting
        if waiting[USUAL_LEVEL] == self.total:
            return USUAL_LEVEL
        return min((level for level, count in enumerate(waiting) if count), key=self._served.__getitem__)

    def charge(self, level: int, seconds: float) -> None:
        """Call it before those who were given the time leave, and only when somebody waits at another level."""
        self._served[level] += seconds / WEIGHTS[level]
        self._is_charged = True
