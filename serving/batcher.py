"""The event-loop shell around serving/batching.py: takes a batch when the execution slot is free, runs it, answers.

Callbacks only: no task and no future per request. A request that finds the slot free does not run inside `submit` but
in the loop's next turn, so everything that the loop reads in one turn runs as one batch: with 32 clients that is the
difference between 1 and 32 rows a batch (`python -m benchmarks.batcher`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from time import monotonic

from serving.batching import BatchQueue, Outcome, Work, WorkState
from serving.errors import DeadlinePassed, Overloaded, Unavailable
from serving.execution import Executed, Executor
from serving.recorder import Recorder
from serving.worker import Worker


class Batcher:
    """One model's queue and its execution slot. Every method and every `on_done` runs on the event loop.

    `worker`: where batches run; None runs them on the loop itself, which is cheaper while they take less time than
    a thread switch is worth.
    """

    def __init__(self, executor: Executor, queue: BatchQueue, recorder: Recorder, worker: Worker | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._executor = executor
        self._queue = queue
        self._recorder = recorder
        self._worker = worker
        self._is_slot_free = True  # false from the scheduling of a turn until nothing is left to run
        self._running: Sequence[Work] = ()
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pending(self) -> int:
        """Requests accepted and not yet answered."""
        return len(self._queue) + sum(work.state is WorkState.TAKEN for work in self._running)

    def submit(self, work: Work) -> None:
        """Raises `Overloaded` (the queue is full) or `Unavailable` (draining); `work.on_done` is then not called."""
        if self._is_draining:
            raise Unavailable("the model is draining")
        try:
            self._queue.add(work)
        except Overloaded:
            self._recorder.refused(0.0)
            raise
        if self._is_slot_free:
            self._is_slot_free = False
            self._idle.clear()
            self._loop.call_soon(self._turn)

    def cancel(self, work: Work) -> None:
        """The client is gone: `work` is dropped, or when it already runs, its result is."""
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
        """Fill the slot with the next batch, or leave it free."""
        now_s = monotonic()
        batch, expired = self._queue.take(now_s)
        for work in expired:
            self._recorder.refused(now_s - work.enqueued_s)
            self._answer(work, DeadlinePassed("the deadline passed before the request reached the model"))
        if batch is None:
            self._free_slot()
        elif self._worker is None:
            self._finish(self._executor.execute(batch), now_s)
            if len(self._queue):
                self._loop.call_soon(self._turn)  # not at once: what the loop has received meanwhile may join
            else:
                self._free_slot()
        else:
            self._running = batch.works
            self._worker.submit(self._executor.execute, batch, partial(self._worker_done, now_s))

    def _worker_done(self, started_s: float, executed: Executed) -> None:
        self._running = ()
        if executed.has_failures:  # a big request that failed in one piece must not be taken for its next
            self._finish(executed, started_s)
            self._turn()
        else:  # the model computes the next batch while the loop writes the replies of this one
            self._turn()
            self._finish(executed, started_s)

    def _free_slot(self) -> None:
        self._is_slot_free = True
        self._idle.set()

    def _finish(self, executed: Executed, started_s: float) -> None:
        self._recorder.executed(executed, started_s, monotonic())
        for work, outcome in zip(executed.works, executed.outcomes, strict=True):
            self._answer(work, outcome)

    def _answer(self, work: Work, outcome: Outcome) -> None:
        if work.state is WorkState.CANCELLED:
            return
        self._queue.discard(work, WorkState.DONE)
        try:
            work.on_done(outcome)
        except Exception as error:  # one client's reply must not cost the others theirs
            self._loop.call_exception_handler({"message": "a reply callback failed", "exception": error})
