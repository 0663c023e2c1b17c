"""How busy a replica is: the measure that autoscaling acts on, and whether anybody asks at all. Pure, but for the state
between two samples.

The load is the fraction of time in which the replica could not have done more: that in which a batch ran, or that in
which its scoring thread used the processor, whichever is greater. (A small model spends more time on parsing requests
than in the model: with a tiny network, the thread is full when the model runs 10% of the time.) Work that waits is
added as the time it takes, over `_WORK_OFF_S`: a queue of five seconds' work asks for one replica more.

A batching model runs smaller batches while there is less to do, so it counts as busy before its batches are full. That
scales for latency, not for thrift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_WORK_OFF_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class WorkDone:
    """Since the model was loaded: seconds in which batches ran, requests that have run. `pending`: not yet answered."""

    busy_s: float
    finished: int
    pending: int


class LoadMeter:
    """Turns totals into the load since the sample before. Times are seconds on one monotonic clock."""

    def __init__(self, now_s: float) -> None:
        self._at_s = now_s
        self._done = WorkDone(0.0, 0, 0)
        self._thread_s = 0.0
        self._request_s = 0.0  # what one request took lately

    def sample(self, now_s: float, done: WorkDone, thread_s: float) -> float:
        """The load since the last call. `thread_s`: processor time that the scoring thread has used so far."""
        passed_s = now_s - self._at_s
        busy_s, finished = done.busy_s - self._done.busy_s, done.finished - self._done.finished
        used_s = thread_s - self._thread_s
        self._at_s, self._done, self._thread_s = now_s, done, thread_s
        if finished:
            self._request_s = busy_s / finished
        if passed_s <= 0:
            return 0.0
        if done.pending and not finished:
            busy_s = passed_s  # one long run, which is counted only when it ends
        return min(max(busy_s, used_s) / passed_s, 1.0) + done.pending * self._request_s / _WORK_OFF_S


class IdleWatch:
    """Tells for how long nobody has asked the model for anything."""

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        self._finished = 0

    def idle_s(self, now_s: float, done: WorkDone) -> float:
        """Call it often: requests that came and went between two calls count from the second one on."""
        if done.pending or done.finished != self._finished:
            self._finished = done.finished
            self._since_s = now_s
        return now_s - self._since_s
