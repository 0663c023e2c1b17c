"""When what runs and what waits will have run, as far as it is known what the model takes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from serving.lanes import Lane
from serving.levels import WEIGHTS
from serving.work import Work, WorkState


class Forecast:
    """`done_by_s`: when all that runs and waits is expected to have run, at the latest. `lanes` are always those in
    which somebody waits.
    """

    __slots__ = ("_free", "_free_s", "done_by_s")

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots))
        self._free_s = [0.0] * slots  # when each slot is expected to be free, or has been since
        self.done_by_s = 0.0

    @property
    def is_idle(self) -> bool:
        return len(self._free) == len(self._free_s)

    def begin(self, now_s: float, seconds: float, lanes: Sequence[Lane]) -> int:
        """A run that should take `seconds` begins; returns its slot. One must be free."""
        slot = self._free.pop()
        free_s = self._free_s
        free_s[slot] = done_by_s = now_s + seconds
        if len(free_s) > 1:
            done_by_s = max(free_s)
        for lane in lanes:
            done_by_s += lane.rows * lane.table.row_s + lane.table.batch_s
        self.done_by_s = done_by_s
        return slot

    def end(self, slot: int, now_s: float) -> None:
        """The run in `slot` has ended."""
        self._free_s[slot] = now_s
        self._free.append(slot)

    def backlog_s(self, now_s: float, lanes: Sequence[Lane]) -> float:
        """Until everything has run, if batches are full."""
        slots = self._free_s
        waiting_s = sum(lane.rows * lane.table.row_s for lane in lanes)
        return max(min(slots) - now_s, 0.0) + waiting_s / len(slots)

    def begun_s(self, work: Work, lane: Lane, now_s: float, lanes: Sequence[Lane], join_rows: int) -> tuple[float, int]:
        """When the batch of `work`, added to `lane` now, should begin, and how many rows it has by what waits now.

        A slot must be free, and what is due before must have run, in batches of `join_rows`.
        """
        level = work.level
        if not lanes or (len(lanes) == 1 and lanes[0] is lane and lane.level_rows[level] == lane.rows):
            beside = work.rows + (_due_before(work, lane, level) if lanes else 0)  # the usual case, in short
            batches = (beside - 1) // join_rows
            ahead_s = batches * lane.table.typical_s(join_rows) if batches else 0.0
            return max(min(self._free_s), now_s) + ahead_s / len(self._free_s), beside - batches * join_rows
        level_s = [0.0] * len(WEIGHTS)
        beside = work.rows  # rows that wait in its own lane, itself included
        for other in lanes:
            for at, rows in enumerate(other.level_rows):
                if at != level:
                    level_s[at] += rows * other.table.row_s
            ahead = _due_before(work, other, level)
            if other is lane:
                beside += ahead
            else:
                level_s[level] += ahead * other.table.row_s
        table = lane.table
        batches = (beside - 1) // join_rows
        level_s[level] += batches * table.typical_s(join_rows)
        # While its own level has so much done, the others get what they are entitled to.
        own_s, weight = level_s[level], WEIGHTS[level]
        ahead_s = sum(min(seconds, own_s * WEIGHTS[at] / weight) for at, seconds in enumerate(level_s))
        return max(min(self._free_s), now_s) + ahead_s / len(self._free_s), beside - batches * join_rows


def _due_before(work: Work, lane: Lane, level: int) -> int:
    """Rows. Nearly always all that wait, for requests come in the order in which they are due."""
    queue = lane.queues[level]
    if not queue or queue[-1].due_s <= work.due_s:
        return lane.level_rows[level]
    return sum(
        ahead.rows - ahead.rows_taken
        for ahead in queue
        if ahead.due_s <= work.due_s and ahead.state is WorkState.WAITING
    )
