"""When the requests of an open loop are sent: drawn beforehand, so that no answer can delay a request. Pure."""

from __future__ import annotations

from enum import Enum

import numpy as np

BURST_S = 0.1


class Arrivals(Enum):
    """POISSON: independent users. BURSTS: twice the rate for 100 ms, then nobody for 100 ms, and so on.

    (Groups that arrive at the same instant would measure the model alone: no server can answer 16 rows together within
    4 × the latency of one.)
    """

    POISSON = "Poisson"
    BURSTS = "bursts"


def schedule(arrivals: Arrivals, per_second: float, duration_s: float, seed: int) -> np.ndarray:
    """Send times in seconds, ascending, in [0, duration_s): float64 [n]. The same for the same arguments."""
    if per_second <= 0 or duration_s <= 0:
        raise ValueError(f"{per_second} requests a second for {duration_s} s")
    dice = np.random.default_rng(seed)
    if arrivals is Arrivals.POISSON:
        return _poisson(dice, per_second, duration_s)
    busy_s = _poisson(dice, 2 * per_second, duration_s / 2)  # on a clock that stands still while nobody is there
    return busy_s + np.floor(busy_s / BURST_S) * BURST_S


def one_after_the_other(*phases: tuple[np.ndarray, float]) -> np.ndarray:
    """Schedules with their durations, joined: each begins when the one before it ends."""
    starts = np.cumsum([0.0, *(duration_s for _, duration_s in phases)])
    return np.concatenate([times + start for (times, _), start in zip(phases, starts[:-1], strict=True)])


def _poisson(dice: np.random.Generator, per_second: float, duration_s: float) -> np.ndarray:
    """A Poisson process, given its number of events, is that many uniform times in order."""
    count = dice.poisson(per_second * duration_s)
    return np.sort(dice.uniform(0.0, duration_s, count))
