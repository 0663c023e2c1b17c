"""How far a pull is, how fast it goes, and how long it will still take. Pure: the time is an argument."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_WINDOW_S = 5.0  # the rate is that of the last seconds
_STEP_S = 0.25


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes and seconds. `total_bytes` and `left_s` are -1 when nobody knows. `waiting`: why nothing comes."""

    done_bytes: int = 0
    total_bytes: int = -1
    fetched_bytes: int = 0
    bytes_per_s: float = 0.0
    left_s: float = -1.0
    waiting: str = ""


class PullProgress:
    """Implements `router.models.cache_ports.Progress`. `clock_s` is monotonic."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._total = -1
        self._done = 0
        self._fetched = 0
        self._waiting = ""
        self._steps: deque[tuple[float, int]] = deque([(clock_s(), 0)])

    def expects(self, total_bytes: int) -> None:
        self._total, self._done = total_bytes, 0

    def has(self, byte_count: int, *, is_new: bool) -> None:
        self._done += byte_count
        if is_new:
            self._fetched += byte_count
            now_s = self._clock_s()
            if now_s - self._steps[-1][0] >= _STEP_S:
                self._steps.append((now_s, self._fetched))
                while len(self._steps) > 2 and now_s - self._steps[0][0] > _WINDOW_S:
                    self._steps.popleft()

    def lost(self, byte_count: int) -> None:
        self._done -= byte_count

    def waits(self, reason: str) -> None:
        self._waiting = reason

    def reading(self) -> Reading:
        since_s, at_first = self._steps[0]
        took_s = self._clock_s() - since_s
        rate = (self._fetched - at_first) / took_s if took_s > 0 else 0.0
        left = self._total - self._done
        left_s = 0.0 if left == 0 else left / rate if self._total >= 0 and rate > 0 else -1.0
        return Reading(
            self._done,
            self._total,
            self._fetched,
            round(rate, 1),
            round(left_s, 1) if math.isfinite(left_s) else -1.0,
            self._waiting,
        )
