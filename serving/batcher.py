"""The event-loop shell around serving/batching.py: takes a batch when an execution slot is free, runs it, answers.

Callbacks only: no task and no future per request. A request that finds a slot free does not run inside `submit` but
in the loop's next turn, so everything that the loop reads in one turn runs as one batch: with 32 clients that is the
difference between 1 and 32 rows a batch (`python -m benchmarks.batcher`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from time import monotonic

from serving.batching import BatchQueue
from serving.errors import DeadlinePassed, Overloaded, Unavailable
from serving.execution import Executed, Executor
from serving.recorder import Recorder
from serving.work import Batch, Outcome, Work, WorkState
from serving.worker import Worker


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """Where one batch at a time runs: in a thread, or without `worker` on the loop itself, which is cheaper while it
    takes less time than a thread switch is worth.
    """

    executor: Executor
    worker: Worker | None


class Batcher:
    """One model's queue and its execution slots. Every method and every `on_done` runs on the event loop.

    A slot without a worker must be the only one.
    """

    def __init__(self, slots: Sequence[Slot], queue: BatchQueue, recorder: Recorder) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = queue
        self._recorder = recorder
        self._free = list(slots)
        self._slots = len(slots)
        self._running: dict[Slot, Sequence[Work]] = {}  # in threads
        self._is_turn_due = False
        self._timer: asyncio.TimerHandle | None = None  # while the queue holds back
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pending(self) -> int:
        """Requests accepted and not yet answered."""
        running = sum(work.state is WorkState.TAKEN for works in self._running.values() for work in works)
        return len(self._queue) + running

    def submit(self, work: Work) -> None:
        """Raises `Overloaded` (it would wait in vain) or `Unavailable` (draining); `on_done` is then not called."""
        if self._is_draining:
            raise Unavailable("the model is draining")
        try:
            self._queue.add(work)
        except Overloaded as error:
            self._recorder.refused(error.reason)
            raise
        if self._free and not self._is_turn_due:
            if self._timer is None:
                self._idle.clear()
                self._is_turn_due = True
                self._loop.call_soon(self._turn)
            elif self._queue.deadline() <= work.enqueued_s:
                self._hold_back_no_longer()
                self._is_turn_due = True
                self._loop.call_soon(self._turn)

    def cancel(self, work: Work) -> None:
        """The client is gone: `work` is dropped, or when it already runs, its result is."""
        if work.state is WorkState.WAITING or work.state is WorkState.TAKEN:
            self._recorder.cancelled()
        self._queue.discard(work, WorkState.CANCELLED)

    async def drain(self) -> None:
        """Accept nothing more; return when everything accepted has been answered."""
        self._is_draining = True
        await self._idle.wait()

    async def abandon(self) -> None:
        """Accept nothing more, fail what waits with `Unavailable`, and wait for what runs."""
        self._is_draining = True
        for work in self._queue.take_all():
            self._answer(work, Unavailable("the model was stopped before this request began"))
        await self._idle.wait()

    def _turn(self) -> None:
        """Fill the free slots with the next batches."""
        self._is_turn_due = False
        self._fill(monotonic())

    def _fill(self, now_s: float) -> None:
        if self._timer is not None:
            self._hold_back_no_longer()
        while self._free:
            batch, expired = self._queue.take(now_s)
            if expired:
                self._expire(expired, now_s)
            if batch is None:
                break
            slot = self._free[-1]
            if slot.worker is None:
                self._is_turn_due = True  # requests that come from a reply wait for the turn below
                executed = slot.executor.execute(batch)
                finished_s = monotonic()
                self._ran(batch, executed, now_s, finished_s)
                self._queue.ended(batch, finished_s)
                if len(self._queue):
                    self._loop.call_soon(self._turn)  # not at once: what the loop has received meanwhile may join
                    return
                self._is_turn_due = False
                break
            self._free.pop()
            self._running[slot] = batch.works
            slot.worker.submit(slot.executor.execute, batch, partial(self._worker_done, slot, batch, now_s))
        wake_s = self._queue.deadline()
        if wake_s < inf and self._free:
            self._timer = self._loop.call_later(wake_s - now_s, self._turn)
        elif len(self._free) == self._slots and not self._is_turn_due:
            self._idle.set()

    def _worker_done(self, slot: Slot, batch: Batch, started_s: float, executed: Executed) -> None:
        finished_s = monotonic()
        del self._running[slot]
        self._free.append(slot)
        if executed.has_failures:  # a big request that failed in one piece must not be taken for its next
            self._ran(batch, executed, started_s, finished_s)
            self._queue.ended(batch, finished_s)
            self._fill(finished_s)
        else:  # the model computes the next batch while the loop writes the replies of this one
            self._queue.ended(batch, finished_s)
            self._fill(finished_s)
            self._ran(batch, executed, started_s, finished_s)

    def _ran(self, batch: Batch, executed: Executed, started_s: float, finished_s: float) -> None:
        runs = executed.runs
        if runs and runs[0].rows == batch.rows:  # neither failed nor bisected
            batch.lane.table.observe(batch.rows, finished_s - started_s)
        self._recorder.executed(executed, started_s, finished_s)
        for work, outcome in zip(executed.works, executed.outcomes, strict=True):
            self._answer(work, outcome)

    def _hold_back_no_longer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self, works: Sequence[Work], now_s: float) -> None:
        for work in works:
            self._recorder.expired(now_s - work.enqueued_s)
            self._answer(work, DeadlinePassed("the deadline passed before the request reached the model"))

    def _answer(self, work: Work, outcome: Outcome) -> None:
        if work.state is WorkState.CANCELLED:
            return
        self._queue.discard(work, WorkState.DONE)
        try:
            work.on_done(outcome)
        except Exception as error:  # one client's reply must not cost the others theirs
            self._loop.call_exception_handler({"message": "a reply callback failed", "exception": error})
