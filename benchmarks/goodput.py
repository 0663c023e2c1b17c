"""What an open loop found: answers inside the latency objective, the highest rate that keeps it, recovery. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MAX_LATENESS_P99_S = 0.001
SHARE_INSIDE = 0.99
_GROWTH = 1.5
_MAX_STEPS = 8
_WINDOW_S = 0.25
_REFUSALS = (429, 503)


@dataclass(frozen=True, slots=True)
class Answers:
    """Every request of one run, in order of `intended_s`: float64 [n] each, `status` int [n].

    `latency_s` runs from the *intended* send time to the end of the reply, so a generator that falls behind cannot hide
    a wait. `late_s`: how much later than intended it was sent. `status` 0: no reply before the run was given up.
    """

    intended_s: np.ndarray
    late_s: np.ndarray
    latency_s: np.ndarray
    status: np.ndarray

    @property
    def lateness_p99_s(self) -> float:
        return float(np.percentile(self.late_s, 99)) if len(self.late_s) else 0.0

    @property
    def kept_schedule(self) -> bool:
        return self.lateness_p99_s <= MAX_LATENESS_P99_S

    def between(self, start_s: float, stop_s: float) -> Answers:
        """The requests that were meant to be sent in [start_s, stop_s)."""
        chosen = (self.intended_s >= start_s) & (self.intended_s < stop_s)
        return Answers(self.intended_s[chosen], self.late_s[chosen], self.latency_s[chosen], self.status[chosen])

    def inside(self, slo_s: float) -> np.ndarray:
        """Whether each request was answered with 200 within `slo_s`: bool [n]."""
        return np.asarray((self.status == 200) & (self.latency_s <= slo_s))

    def share_inside(self, slo_s: float) -> float:
        """Of all requests, refused and lost ones included; 1 when there were none."""
        return float(np.mean(self.inside(slo_s))) if len(self.status) else 1.0

    def goodput(self, slo_s: float, duration_s: float) -> float:
        """Answers inside the objective a second."""
        return float(np.count_nonzero(self.inside(slo_s)) / duration_s)

    def refusal_latencies_s(self) -> np.ndarray:
        return self.latency_s[np.isin(self.status, _REFUSALS)]

    def recovery_s(self, since_s: float, slo_s: float) -> float:
        """Seconds after `since_s` from which on 99% of all requests are inside the objective; infinite if never.

        In steps of a quarter of a second.
        """
        end_s = float(self.intended_s[-1]) if len(self.intended_s) else since_s
        for step in range(int((end_s - since_s) / _WINDOW_S)):
            if self.between(since_s + step * _WINDOW_S, np.inf).share_inside(slo_s) >= SHARE_INSIDE:
                return step * _WINDOW_S
        return float("inf")


def highest_rate(holds: Callable[[float], bool], start: float, bisections: int) -> float:
    """The highest rate at which `holds` was seen to be true; 0 when it never was.

    From `start` up or down by factors of 1.5 until it changes, eight at most, then the geometric middle, `bisections`
    times: after four of them the answer is within 3%.
    """
    low, high = 0.0, 0.0
    rate = start
    for _ in range(_MAX_STEPS):
        if holds(rate):
            low = rate
            if high:
                break
            rate *= _GROWTH
        else:
            high = rate
            if low:
                break
            rate /= _GROWTH
    if not low or not high:
        return low
    for _ in range(bisections):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
