"""Which waiting requests run together: the queue and the forming of batches. Pure: no clock, no event loop, no arrays.

Late binding: a batch is formed by `take`, when an execution slot is free, never by a timer. At low load a request
therefore runs at once; under load the batch is whatever arrived while the slot was busy.

The rules:

- sizes count rows, not requests; a batch never has more than `max_batch_rows`;
- requests are joined first come, first served, up to `join_rows`; only equal non-batch shapes share a batch;
- a request with more than `max_batch_rows` rows runs alone, in pieces, one `take` a piece;
- what was cancelled is dropped, and what missed its deadline is handed back, before anybody copies a row of it;
- the queue is bounded: when it is full, `add` refuses at once.

    WAITING ──its last rows are taken, or it expired──► TAKEN ──answered──► DONE
       │ └──────────── failed between two pieces ─────────┼───────────────────▲
       └───────────────────► CANCELLED ◄──────────────────┘
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from serving.errors import Overloaded, ScoringError

if TYPE_CHECKING:
    import numpy as np

Outcome = list["np.ndarray"] | ScoringError
Shapes = tuple[tuple[int, ...], ...]


class WorkState(Enum):
    """WAITING: in the queue, if only with its last rows. TAKEN: out of the queue, not answered yet."""

    WAITING = "waiting"
    TAKEN = "taken"
    DONE = "done"
    CANCELLED = "cancelled"


_NO_INPUTS: Mapping[str, np.ndarray] = {}


class Work:
    """One request to run.

    `inputs`: name → array; when `rows` matters, axis 0 of each is rows. `outputs`: the names wanted, in order.
    `deadline_s` and `enqueued_s` are on the same monotonic clock. `on_done` gets the outputs, or the error.
    `rows_taken` and `pieces` are the progress of a request that runs in pieces.
    """

    __slots__ = (
        "deadline_s",
        "enqueued_s",
        "inputs",
        "on_done",
        "order",
        "outputs",
        "pieces",
        "rows",
        "rows_taken",
        "state",
    )

    def __init__(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        rows: int,
        deadline_s: float,
        enqueued_s: float,
        on_done: Callable[[Outcome], None],
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.deadline_s = deadline_s
        self.enqueued_s = enqueued_s
        self.on_done = on_done
        self.state = WorkState.WAITING
        self.order = 0
        self.rows_taken = 0
        self.pieces: list[list[np.ndarray]] = []

    def __repr__(self) -> str:
        return f"<Work {self.order} {self.state.value} rows={self.rows_taken}/{self.rows}>"


class Batch:
    """What runs next: either whole requests, or the rows `start` to `start + rows` of a single bigger one."""

    __slots__ = ("rows", "start", "works")

    def __init__(self, works: list[Work], rows: int, start: int = 0) -> None:
        self.works = works
        self.rows = rows
        self.start = start

    @property
    def is_piece(self) -> bool:
        """Part of a request that is too big for one execution."""
        return self.rows < self.works[0].rows

    @property
    def is_last_piece(self) -> bool:
        return self.start + self.rows == self.works[0].rows

    def __repr__(self) -> str:
        return f"<Batch rows={self.start}+{self.rows} of {self.works}>"


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """`join_rows`: requests are joined up to this many rows (1: never). `max_waiting` counts requests."""

    max_batch_rows: int
    join_rows: int
    max_waiting: int


class BatchQueue:
    """Requests that wait, in lanes of equal non-batch shapes.

    `ragged_inputs`: the inputs that have a free axis besides the batch axis; without any there is a single lane.
    """

    def __init__(self, limits: BatchLimits, ragged_inputs: Sequence[str] = ()) -> None:
        self._limits = limits
        self._ragged_inputs = tuple(ragged_inputs)
        self._lanes: dict[Shapes, deque[Work]] = {}
        self._waiting = 0
        self._discarded = 0  # still lying in a lane, although they left WAITING
        self._added = 0

    def __len__(self) -> int:
        """Requests waiting; those cancelled no longer count."""
        return self._waiting

    def __repr__(self) -> str:
        held = sum(len(lane) for lane in self._lanes.values())
        return f"<BatchQueue waiting={self._waiting} held={held} lanes={len(self._lanes)}>"

    def add(self, work: Work) -> None:
        """Raises `Overloaded` when the queue is full."""
        if self._waiting >= self._limits.max_waiting:
            raise Overloaded(f"the queue is full: {self._waiting} requests are waiting")
        shapes: Shapes = ()
        if self._ragged_inputs:
            inputs = work.inputs
            shapes = tuple([inputs[name].shape[1:] for name in self._ragged_inputs])
        self._added += 1
        work.order = self._added
        lane = self._lanes.get(shapes)
        if lane is None:
            lane = self._lanes[shapes] = deque()
        lane.append(work)
        self._waiting += 1

    def discard(self, work: Work, state: WorkState) -> None:
        """Move `work` to CANCELLED or DONE; it will not be taken again. Harmless when it has already ended."""
        if work.state is WorkState.WAITING:
            self._waiting -= 1
            self._discarded += 1
            if work.rows_taken == 0:
                work.inputs = _NO_INPUTS  # may be megabytes
            work.state = state
            if self._discarded > self._limits.max_waiting:
                self._sweep()
        elif work.state is WorkState.TAKEN:
            work.state = state

    def take(self, now_s: float) -> tuple[Batch | None, Sequence[Work]]:
        """The next batch, or None when nothing waits; and the requests found to have missed their deadline."""
        expired: list[Work] = []
        for shapes in tuple(self._lanes):
            self._drop_dead(self._lanes[shapes], now_s, expired)
            if not self._lanes[shapes]:
                del self._lanes[shapes]
        if not self._lanes:
            return None, expired
        lane = min(self._lanes.values(), key=_age)
        if lane[0].rows > self._limits.max_batch_rows:
            return self._take_piece(lane), expired
        works: list[Work] = []
        rows = 0
        while lane and (not works or rows + lane[0].rows <= self._limits.join_rows):
            work = lane.popleft()
            self._waiting -= 1
            work.state = WorkState.TAKEN
            works.append(work)
            rows += work.rows
            self._drop_dead(lane, now_s, expired)
        return Batch(works, rows), expired

    def take_all(self) -> list[Work]:
        """Empty the queue; the oldest first."""
        works = [work for lane in self._lanes.values() for work in lane if work.state is WorkState.WAITING]
        for work in works:
            work.state = WorkState.TAKEN
        self._lanes.clear()
        self._waiting = self._discarded = 0
        return sorted(works, key=lambda work: work.order)

    def _drop_dead(self, lane: deque[Work], now_s: float, expired: list[Work]) -> None:
        """Bring a request that can run to the front of the lane, or empty it."""
        while lane:
            work = lane[0]
            if work.state is not WorkState.WAITING:
                self._discarded -= 1
            elif work.deadline_s <= now_s and work.rows_taken == 0:
                self._waiting -= 1
                work.state = WorkState.TAKEN
                expired.append(work)
            else:
                return
            lane.popleft()

    def _take_piece(self, lane: deque[Work]) -> Batch:
        """The next rows of the big request at the front; it stays there until its last piece is taken."""
        work = lane[0]
        start = work.rows_taken
        rows = min(self._limits.max_batch_rows, work.rows - start)
        work.rows_taken = start + rows
        if work.rows_taken == work.rows:
            lane.popleft()
            self._waiting -= 1
            work.state = WorkState.TAKEN
        return Batch([work], rows, start)

    def _sweep(self) -> None:
        """Drop what was discarded, so that cancelled requests cannot pile up behind a long execution."""
        for shapes in list(self._lanes):
            live = deque(work for work in self._lanes[shapes] if work.state is WorkState.WAITING)
            if live:
                self._lanes[shapes] = live
            else:
                del self._lanes[shapes]
        self._discarded = 0


def _age(lane: deque[Work]) -> int:
    return lane[0].order
