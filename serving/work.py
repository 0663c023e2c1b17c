"""One request on its way through the batcher, and the batch that it becomes part of. Slotted classes, one a request.

WAITING ──taken, or its deadline passed──► TAKEN ──answered──► DONE
   ▲ │                                      │ │
   │ └──────────────► CANCELLED ◄───────────┘ │
   └────── a piece has run, rows are left ────┘
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from serving.errors import ScoringError

if TYPE_CHECKING:
    import numpy as np

    from serving.lanes import Lane

Outcome = list["np.ndarray"] | ScoringError


class WorkState(Enum):
    """WAITING: in the queue. TAKEN: out of the queue, not answered yet."""

    WAITING = "waiting"
    TAKEN = "taken"
    DONE = "done"
    CANCELLED = "cancelled"


class Work:
    """One request to run.

    `inputs`: name → array; when `rows` matters, axis 0 of each is rows. `outputs`: the names wanted, in order.
    `deadline_s` and `enqueued_s` are on the same monotonic clock. `on_done` gets the outputs, or the error.
    `priority` is the protocol's: 0 the default, 1 the highest, then falling.

    The queue's own: `due_s`, when the answer is wanted, at the latest the deadline; `lane`, `level` and `length` say
    where it waits. `rows_taken` and `pieces` are the progress of a request that runs in pieces.
    """

    __slots__ = (
        "deadline_s",
        "due_s",
        "enqueued_s",
        "inputs",
        "lane",
        "length",
        "level",
        "on_done",
        "order",
        "outputs",
        "pieces",
        "priority",
        "rows",
        "rows_taken",
        "state",
    )

    lane: Lane

    def __init__(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        rows: int,
        deadline_s: float,
        enqueued_s: float,
        on_done: Callable[[Outcome], None],
        priority: int = 0,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.deadline_s = deadline_s
        self.enqueued_s = enqueued_s
        self.on_done = on_done
        self.priority = priority
        self.state = WorkState.WAITING
        self.due_s = deadline_s
        self.order = 0
        self.level = 0
        self.length = 0
        self.rows_taken = 0
        self.pieces: list[list[np.ndarray]] = []

    def __repr__(self) -> str:
        return f"<Work {self.order} {self.state.value} rows={self.rows_taken}/{self.rows}>"


class Batch:
    """What runs next: either whole requests, or the rows `start` to `start + rows` of a single bigger one.

    `slot` is where the queue expects it to run.
    """

    __slots__ = ("lane", "rows", "slot", "start", "works")

    def __init__(self, lane: Lane, works: list[Work], rows: int, start: int = 0) -> None:
        self.lane = lane
        self.works = works
        self.rows = rows
        self.start = start
        self.slot = 0

    @property
    def is_piece(self) -> bool:
        """Part of a request that is too big for one execution."""
        return self.rows < self.works[0].rows

    @property
    def is_last_piece(self) -> bool:
        return self.start + self.rows == self.works[0].rows

    def __repr__(self) -> str:
        return f"<Batch rows={self.start}+{self.rows} of {self.works}>"
