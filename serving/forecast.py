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

    def answered_s(self, work: Work, lane: Lane, now_s: float, lanes: Sequence[Lane]) -> float:
        """When `work`, added to `lane` now, is answered: a slot is free, what is due before has run, and then it
        itself. Looks at every request that waits.
        """
        beside = work.rows  # rows that wait in its own lane, itself included
        own_level_s = 0.0
        level_s = [0.0] * len(WEIGHTS)
        for other in lanes:
            for level, queue in enumerate(other.queues):
                is_own = level == work.level
                rows = sum(
                    ahead.rows - ahead.rows_taken
                    for ahead in queue
                    if ahead.state is WorkState.WAITING and (not is_own or ahead.due_s <= work.due_s)
                )
                if not is_own:
                    level_s[level] += rows * other.table.row_s
                elif other is lane:
                    beside += rows
                else:
                    own_level_s += rows * other.table.row_s
        table = lane.table
        batches, rest = divmod(beside, table.join_rows)
        own_level_s += batches * table.batch_s
        # While its own level has so much done, the others get what they are entitled to.
        weight = WEIGHTS[work.level]
        others_s = sum(min(seconds, own_level_s * WEIGHTS[at] / weight) for at, seconds in enumerate(level_s))
        last_s = table.high_s(rest) if rest else table.high_s(table.join_rows) - table.batch_s
        slots = self._free_s
        free_s = max(min(slots), now_s)
        return free_s + (own_level_s + others_s) / len(slots) + last_s
