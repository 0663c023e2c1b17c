"""Which requests are refused at once, because they would wait in vain. Pure.

A request is refused in three cases, each time with the seconds after which trying again makes sense:

1. the queue is full;
2. its deadline (what the client, Envoy or the request itself set) would pass before its answer, by what is known of the
   model and of those before it;
3. the replica is *overloaded* (serving/overload.py says when), and the answer would miss the deployment's objective
   (`batching.latency_slo_ms`, or the default where the user has set none).

An objective that the user has set is a bound: when more comes in than can be answered within it, and that is no mere
burst, the replica counts as overloaded, although it could answer everybody late. An objective that nobody has set
refuses nobody before the queue runs full: many clients that wait for one another make requests late, and late answers
are answers. Nor does an objective that a request would miss even alone.

In overload those are accepted that can be answered within the objective, so that the model's whole capacity goes into
answers that are of use, and the others know at once. Those who wait already and are late keep a small share of the
model (`LATE_LEVEL`). What the event loop needs to read requests and to write answers is taken off the objective.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.errors import Overloaded, Refusal
from serving.forecast import Forecast
from serving.lanes import Lane
from serving.latency import LatencyTable
from serving.overload import Overload
from serving.queue_limits import BatchLimits
from serving.work import Work

# So much longer than usual a wait and a run may take, in overload: runs differ, and what is late is lost. A wait is the
# sum of several, one of which may be a slow one; and a shorter queue keeps the model as busy. (Not the 90th percentile:
# beside a restless neighbour that is three times as long, and would refuse those of whom most are in time.)
_WAIT_MARGIN = 1.3
_RUN_MARGIN = 1.2
_WEIGHT_OF_NEWEST = 1 / 16
_STEPS = 20  # in which an objective is shortened by the way there and back; by half at the most
_TO_HAVE_ROOM = 0.25  # of the backlog: when it is worked off, a queue that was full has room again


class Admission:
    """Decides about each request that comes, and how large batches are meanwhile."""

    __slots__ = ("_forecast", "_limits", "_objective_s", "_overload", "_way_s")

    def __init__(self, limits: BatchLimits, forecast: Forecast, overload: Overload) -> None:
        self._limits = limits
        self._forecast = forecast
        self._overload = overload
        self._way_s = 0.0  # there and back
        self._objective_s = limits.objective_s  # what is left of it between the way there and the way back

    def handed_over(self, seconds: float) -> None:
        """An answer waited so long to be written. A request waits as long to be read, which nobody sees: where the
        event loop has to wait for a core, both are part of what its caller waits for.
        """
        self._way_s += (2.0 * seconds - self._way_s) * _WEIGHT_OF_NEWEST
        objective_s = self._limits.objective_s
        steps = min(int(self._way_s / objective_s * _STEPS), _STEPS // 2)  # in steps, so that plans last for a while
        self._objective_s = objective_s * (_STEPS - steps) / _STEPS

    def admit(self, work: Work, lane: Lane, now_s: float, waiting: int, lanes: Sequence[Lane]) -> None:
        """Raises `Overloaded` when `work` must be refused. `lanes`: those in which somebody waits."""
        overload, limits, table = self._overload, self._limits, lane.table
        overload.look(now_s)
        if waiting >= limits.max_waiting:
            overload.begin(now_s)
            retry_after_s = self._forecast.backlog_s(now_s, lanes) * _TO_HAVE_ROOM
            raise Overloaded(f"the queue is full: {waiting} requests are waiting", Refusal.QUEUE_FULL, retry_after_s)
        if work.deadline_s <= now_s:
            return  # too late already: it expires in its turn
        if not waiting and self._forecast.is_idle:
            return  # nobody is before it; whether it takes as long as expected, only running it can show
        if waiting >= overload.crowded:
            overload.begin(now_s)
        join_rows = self.join_rows(table, now_s)
        begun_s, rows = self._forecast.begun_s(work, lane, now_s, lanes, join_rows)
        answered_s = begun_s + table.high_s(rows)
        if answered_s > work.deadline_s:
            if work.deadline_s > work.due_s:  # who asks for more than the objective proves nothing
                overload.begin(now_s)
            late_s = answered_s - work.deadline_s
            raise Overloaded("the deadline would pass before the answer", Refusal.DEADLINE, late_s)
        is_overloaded = now_s < overload.until_s
        if not is_overloaded and not limits.is_binding:
            return
        if len(lanes) <= 1:  # those who come until it begins will fill its batch
            rows = max(rows, min(join_rows, rows + int(overload.load / table.row_s * (begun_s - now_s))))
        if not is_overloaded:
            if begun_s + table.typical_s(rows) > now_s + self._objective_s and self._can_be_met(work, table):
                overload.is_late(work.rows * table.row_s, self._in_time_s(work, table))
            return
        longest_s = (begun_s - now_s) * _WAIT_MARGIN + table.typical_s(rows) * _RUN_MARGIN
        late_s = longest_s - self._patience_s(work, table, now_s)
        if late_s > 0.0:
            overload.is_late(work.rows * table.row_s, self._in_time_s(work, table))
            raise Overloaded("more requests come in than can be answered in time", Refusal.OVERLOAD, late_s)

    def join_rows(self, table: LatencyTable, now_s: float) -> int:
        """How many rows to join. In overload as many as bring the most answers within the objective, if any can be."""
        if now_s >= self._overload.until_s:
            return table.join_rows
        return table.rows_in_time(self._objective_s / _RUN_MARGIN) or table.join_rows

    def _in_time_s(self, work: Work, table: LatencyTable) -> float:
        """What it costs in batches that are in time."""
        rows = table.rows_in_time(self._objective_s / _RUN_MARGIN) or table.join_rows
        return work.rows * table.typical_s(rows) / rows

    def _can_be_met(self, work: Work, table: LatencyTable) -> bool:
        """Whether it would be answered within the objective if it were alone."""
        return table.typical_s(work.rows) * _RUN_MARGIN < self._objective_s

    def _patience_s(self, work: Work, table: LatencyTable, now_s: float) -> float:
        """How long an answer may take in overload. An objective below what the model takes must not starve it."""
        patience_s = min(work.due_s - now_s, self._objective_s)
        if self._can_be_met(work, table):
            return patience_s
        return max(patience_s, 2 * _WAIT_MARGIN * table.typical_s(max(work.rows, table.join_rows)))
