"""Which waiting requests run together, when, and who is refused. Pure: no clock, no event loop, no arrays.

Late binding: a batch is formed by `take`, when an execution slot is free, not by a timer. At low load a request runs
at once; under load the batch is whatever arrived while the slot was busy. The rules:

- sizes count rows, not requests; a batch never has more than `max_batch_rows`;
- requests are joined up to the number of rows from which on more would not make a row cheaper (serving/latency.py), and
  only when their shapes fit (serving/lanes.py);
- the one that is due first goes first. A request is due at its deadline, or when the objective for latency says so,
  whichever is earlier. Nothing that arrives later than a request was due can overtake it;
- priorities are levels with a weight: each gets at least its weight's share of the model's time, however many requests
  of other levels wait, so none starves. Within a level the order is by `due_s`;
- a batch does not grow to where one of its members would miss its deadline, if that can be helped;
- when the slot is free and company is expected at once, `take` may hold back for a moment (serving/arrivals.py), never
  beyond what the objective of those who wait allows;
- a request with more than `max_batch_rows` rows runs alone, in pieces, one `take` a piece;
- what was cancelled is dropped, and what missed its deadline is handed back, before anybody copies a row of it;
- what cannot be answered in time is refused at once (serving/admission.py).

Cost of making, adding and taking a request: 0.8 µs in batches of 32, 3.0 µs alone (`python -m benchmarks.batcher`).
"""

from __future__ import annotations

import math
from bisect import insort, insort_left
from collections import deque
from collections.abc import Sequence

from serving.admission import Admission
from serving.arrivals import Arrivals, is_worth_a_thought, patience_s, rows_worth_waiting_for
from serving.forecast import Forecast
from serving.lanes import Lane, Lanes
from serving.levels import LATE_LEVEL, USUAL_LEVEL, Levels, level_of
from serving.overload import Overload
from serving.queue_limits import BatchLimits
from serving.work import Batch, Work, WorkState

_MAX_WASTE = 0.25  # of a padded batch
_CAREFUL_WITHIN = 3.0  # medians of a batch: no 90th percentile is above that (serving/latency.py)
_WAITING, _TAKEN = WorkState.WAITING, WorkState.TAKEN  # looked up once


class BatchQueue:
    """Requests that wait. Times are seconds on one monotonic clock."""

    def __init__(self, limits: BatchLimits, lanes: Lanes) -> None:
        self._limits = limits
        self._objective_s = limits.objective_s
        self._is_binding = limits.is_binding
        self._lanes = lanes
        self._only_lane = lanes.only
        self._busy_lanes: list[Lane] = []  # those in which somebody waits
        self._forecast = Forecast(limits.slots)
        self._overload = Overload(limits)
        self._admission = Admission(limits, self._forecast, self._overload)
        self._arrivals = Arrivals()
        self._levels = Levels()
        self._discarded = 0  # still lying in a lane, although they left WAITING
        self._added = 0
        self._wake_s = math.inf  # when to take, if holding back
        self._wanted_rows = 0  # or when so many rows wait

    def __len__(self) -> int:
        """Requests waiting; those cancelled no longer count."""
        return self._levels.total

    def __repr__(self) -> str:
        held = sum(sum(1 for _ in lane.works()) for lane in self._busy_lanes)
        return f"<BatchQueue waiting={self._levels.total} held={held} lanes={len(self._busy_lanes)}>"

    def add(self, work: Work) -> None:
        """Queue `work`, at the time `work.enqueued_s`. Raises `Overloaded` when it would wait in vain."""
        now_s = work.enqueued_s
        lane = self._only_lane
        if lane is None:
            lane = self._lanes.place(work)
        else:
            work.lane = lane
        due_s = now_s + self._objective_s
        work.due_s = due_s = due_s if due_s < work.deadline_s else work.deadline_s
        work.level = level = level_of(work.priority) if work.priority else USUAL_LEVEL
        waiting = self._levels.total
        forecast, overload = self._forecast, self._overload
        work_s = work.rows * lane.table.row_s
        overload.offered_s += work_s
        done_by_s = (forecast.done_by_s if forecast.done_by_s > now_s else now_s) + work_s
        if (  # there can be doubt
            done_by_s + lane.table.batch_s > (due_s if self._is_binding else work.deadline_s)
            or waiting >= overload.crowded
            or now_s >= overload.calm_until_s
        ):
            self._admission.admit(work, lane, now_s, waiting, self._busy_lanes)
        forecast.done_by_s = done_by_s
        self._added += 1
        work.order = self._added
        if now_s < self._arrivals.until_s:
            self._arrivals.came(work.rows)
        queue = lane.queues[level]
        if not queue or queue[-1].due_s <= due_s:
            queue.append(work)
        else:
            insort(queue, work, key=_due_s)
        self._count(work, lane)
        if self._wake_s < math.inf and not self._may_hold_back_for(work, lane):
            self._wake_s = now_s

    def ended(self, batch: Batch, now_s: float) -> None:
        """`batch` has run, and its slot is free. A request of which rows are left waits for its next piece."""
        self._forecast.end(batch.slot, now_s)
        if batch.is_piece and not batch.is_last_piece:
            self._put_back(batch.works[0])

    def handed_over(self, seconds: float) -> None:
        """The event loop learned so late of a batch that had run: its answers waited for that."""
        self._admission.handed_over(seconds)

    def discard(self, work: Work, state: WorkState) -> None:
        """Move `work` to CANCELLED or DONE; it will not be taken again. Harmless when it has already ended."""
        if work.state is WorkState.WAITING:
            work.state = state
            self._discarded += 1
            self._left(work, work.lane)
            if work.rows_taken == 0:
                work.inputs = {}  # may be megabytes
            if self._discarded > self._limits.max_waiting:
                self._sweep()
        elif work.state is WorkState.TAKEN:
            work.state = state

    def deadline(self) -> float:
        """When `take` should be called although no slot became free since: infinity unless it holds back."""
        return self._wake_s

    def take(self, now_s: float) -> tuple[Batch | None, Sequence[Work]]:
        """A slot is free: the next batch, or None when nothing waits or it pays to wait until `deadline()`; and the
        requests found to have missed their deadline.
        """
        expired: list[Work] = []
        has_held_back = self._wake_s < math.inf
        if has_held_back:
            if now_s < self._wake_s:
                return None, expired
            self._wake_s = math.inf
        levels = self._levels
        if now_s < self._overload.until_s:
            self._demote_late(now_s)
        while levels.total:
            level = levels.next()
            lane = self._most_urgent_lane(level, now_s, expired)
            if lane is None:
                continue
            if not has_held_back and lane.rows < lane.table.join_rows and self._holds_back(lane, now_s):
                return None, expired
            if lane.queues[level][0].rows > self._limits.max_batch_rows:
                batch = self._take_piece(lane, level)
            else:
                batch = self._join(lane, level, now_s, expired)
            batch.slot = self._forecast.begin(now_s, lane.table.typical_s(batch.rows), self._busy_lanes)
            return batch, expired
        return None, expired

    def take_all(self) -> list[Work]:
        """Empty the queue; the oldest first."""
        works = [work for lane in self._busy_lanes for work in lane.works() if work.state is WorkState.WAITING]
        for work in works:
            work.state = WorkState.TAKEN
        for lane in self._busy_lanes:
            lane.clear()
        self._busy_lanes.clear()
        self._levels = Levels()
        self._discarded = 0
        self._wake_s = math.inf
        return sorted(works, key=_order)

    # -- what runs next

    def _most_urgent_lane(self, level: int, now_s: float, expired: list[Work]) -> Lane | None:
        """The lane whose first request at this level is due first; None when all of them had expired."""
        lanes = self._busy_lanes
        if len(lanes) == 1:
            lane = lanes[0]
            return None if self._first(lane.queues[level], now_s, expired) is None else lane
        best: Lane | None = None
        best_due_s = math.inf
        for lane in tuple(lanes):
            first = self._first(lane.queues[level], now_s, expired)
            if first is not None and (best is None or first.due_s < best_due_s):
                best, best_due_s = lane, first.due_s
        return best

    def _holds_back(self, lane: Lane, now_s: float) -> bool:
        table = lane.table
        if not is_worth_a_thought(table) or len(self._busy_lanes) > 1:
            return False
        window_s = patience_s(table)
        expected = self._arrivals.expected(now_s, window_s)
        slack_s = min(queue[0].due_s for queue in lane.queues if queue) - now_s
        rows = rows_worth_waiting_for(table, lane.rows, expected, window_s, slack_s)
        if not rows:
            return False
        self._wake_s = now_s + window_s
        self._wanted_rows = rows
        return True

    def _may_hold_back_for(self, work: Work, lane: Lane) -> bool:
        """Whether to go on holding back, now that `work` has come."""
        if lane.rows >= self._wanted_rows or len(self._busy_lanes) > 1:
            return False
        return self._wake_s + lane.table.high_s(self._wanted_rows) <= work.due_s

    def _join(self, lane: Lane, level: int, now_s: float, expired: list[Work]) -> Batch:
        """The first of this level and of this lane, and as many more as should run with it."""
        table = lane.table
        levels = self._levels
        join_rows = self._admission.join_rows(table, now_s)
        if lane.rows > join_rows == table.join_rows:
            join_rows = table.rows_to_try(lane.rows)
        # Whose deadline is beyond this is endangered by no batch.
        careful_until_s = now_s + table.batch_s * (join_rows / table.join_rows) * _CAREFUL_WITHIN
        works: list[Work] = []
        rows = length = elements = 0
        earliest_s = math.inf
        is_alone = levels.waiting[level] == levels.total
        for queue in (lane.queues[level],) if is_alone else _from(lane.queues, level):
            while queue:
                work = queue[0]
                if (work.state is not _WAITING or work.deadline_s <= now_s) and (
                    self._first(queue, now_s, expired) is not work
                ):
                    continue
                after = rows + work.rows
                if work.deadline_s < earliest_s:
                    earliest_s = work.deadline_s
                if works:
                    if after > join_rows:
                        break
                    if earliest_s < careful_until_s and now_s + table.high_s(after) > earliest_s:
                        break
                    if work.length != length:
                        longest = max(length, work.length)
                        if elements + work.rows * work.length < (1.0 - _MAX_WASTE) * after * longest:
                            break
                        length = longest
                else:
                    length = work.length
                queue.popleft()
                work.state = _TAKEN
                works.append(work)
                rows = after
                elements += work.rows * work.length
        if is_alone:
            levels.leave(level, len(works))
            lane.level_rows[level] -= rows
        else:
            for work in works:
                levels.charge(work.level, work.rows * table.row_s)
            for work in works:
                levels.leave(work.level)
                lane.level_rows[work.level] -= work.rows
        lane.waiting -= len(works)
        lane.rows -= rows
        if not lane.waiting:
            self._quiet(lane)
        return Batch(lane, works, rows)

    def _take_piece(self, lane: Lane, level: int) -> Batch:
        """The next rows of the big request at the front. It is out of the queue until they have run: see `ended`."""
        work = lane.queues[level].popleft()
        work.state = WorkState.TAKEN
        start = work.rows_taken
        rows = min(self._limits.max_batch_rows, work.rows - start)
        if not self._levels.is_alone(level):
            self._levels.charge(level, rows * lane.table.row_s)
        self._left(work, lane)
        work.rows_taken = start + rows
        return Batch(lane, [work], rows, start)

    def _first(self, queue: deque[Work], now_s: float, expired: list[Work]) -> Work | None:
        """The first request that can run. Drops what is before it."""
        while queue:
            work = queue[0]
            if work.state is not WorkState.WAITING:
                self._discarded -= 1
            elif work.deadline_s <= now_s and work.rows_taken == 0:
                work.state = WorkState.TAKEN
                self._left(work, work.lane)
                expired.append(work)
            else:
                return work
            if queue:  # whoever was the last to wait in the lane has cleared it
                queue.popleft()
        return None

    # -- keeping count

    def _put_back(self, work: Work) -> None:
        if work.state is WorkState.TAKEN:  # neither failed nor cancelled meanwhile
            work.state = WorkState.WAITING
            insort_left(work.lane.queues[work.level], work, key=_due_s)  # before those that are due when it is
            self._count(work, work.lane)

    def _count(self, work: Work, lane: Lane) -> None:
        """`work` has come to wait in `lane`."""
        if not lane.waiting:
            self._busy_lanes.append(lane)
        rows = work.rows - work.rows_taken
        lane.waiting += 1
        lane.rows += rows
        level = work.level
        lane.level_rows[level] += rows
        levels = self._levels
        if levels.waiting[level]:  # inlined: it is once a request
            levels.waiting[level] += 1
            levels.total += 1
        else:
            levels.enter(level)

    def _left(self, work: Work, lane: Lane) -> None:
        """`work` is no longer waiting, wherever it still lies."""
        self._levels.leave(work.level)
        rows = work.rows - work.rows_taken
        lane.waiting -= 1
        lane.rows -= rows
        lane.level_rows[work.level] -= rows
        if not lane.waiting:
            self._quiet(lane)

    def _quiet(self, lane: Lane) -> None:
        """Nobody waits in this lane; what lies there was discarded."""
        for queue in lane.queues:
            if queue:
                self._discarded -= sum(work.state is not WorkState.TAKEN for work in queue)
                queue.clear()
        self._busy_lanes.remove(lane)

    def _demote_late(self, now_s: float) -> None:
        """While there is more to do than can be done: those who can no longer be in time let the others pass."""
        for lane in self._busy_lanes:
            hopeless_s = now_s + lane.table.typical_s(1)
            for queue in lane.queues[:LATE_LEVEL]:
                while queue and queue[0].due_s < hopeless_s and queue[0].rows_taken == 0:
                    work = queue.popleft()
                    if work.state is not WorkState.WAITING:
                        self._discarded -= 1
                        continue
                    self._levels.enter(LATE_LEVEL)
                    self._levels.leave(work.level)
                    lane.level_rows[work.level] -= work.rows
                    lane.level_rows[LATE_LEVEL] += work.rows
                    work.level = LATE_LEVEL
                    insort(lane.queues[LATE_LEVEL], work, key=_due_s)

    def _sweep(self) -> None:
        """Drop what was discarded, so that cancelled requests cannot pile up behind a long execution."""
        for lane in self._busy_lanes:
            for queue in lane.queues:
                live = [work for work in queue if work.state is WorkState.WAITING]
                queue.clear()
                queue.extend(live)
        self._discarded = 0


def _from(queues: tuple[deque[Work], ...], level: int) -> Sequence[deque[Work]]:
    """All queues of a lane, that of `level` first."""
    return (queues[level], *(queue for at, queue in enumerate(queues) if at != level))


def _due_s(work: Work) -> float:
    return work.due_s


def _order(work: Work) -> int:
    return work.order
