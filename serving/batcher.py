"""The shell around serving/batching.py: takes a batch when an execution slot is free, runs it, answers.

Callbacks only: no task and no future per request. A request that finds a slot free does not run inside `submit` but
in the loop's next turn, so everything that the loop reads in one turn runs as one batch: with 32 clients that is the
difference between 1 and 32 rows a batch (`python -m benchmarks.batcher`).

A thread that has run a batch takes the next one itself, and only then tells the loop: between two batches nobody has to
be woken. (By way of the loop, a core that does nothing but run the model stood still for 150 to 250 µs between runs,
6% of magika's time.) So the queue is used from several threads, always under the lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from threading import Lock
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


@dataclass(frozen=True, slots=True)
class _Run:
    """A batch that a thread runs next."""

    slot: Slot
    batch: Batch
    started_s: float


@dataclass(frozen=True, slots=True)
class _Ran:
    """What came of it, and of looking for the next: `expired` were found then. `is_last`: the slot is free now."""

    run: _Run
    executed: Executed
    finished_s: float
    expired: Sequence[Work]
    is_last: bool


class Batcher:
    """One model's queue and its execution slots. Every method and every `on_done` runs on the event loop.

    A slot without a worker must be the only one.
    """

    def __init__(self, slots: Sequence[Slot], queue: BatchQueue, recorder: Recorder) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = queue
        self._lock = Lock()  # of the queue, and of what is running
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
        with self._lock:
            running = sum(work.state is WorkState.TAKEN for works in self._running.values() for work in works)
            return len(self._queue) + running

    def submit(self, work: Work) -> None:
        """Raises `Overloaded` (it would wait in vain) or `Unavailable` (draining); `on_done` is then not called."""
        if self._is_draining:
            raise Unavailable("the model is draining")
        try:
            with self._lock:
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
        with self._lock:
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
        with self._lock:
            waiting = self._queue.take_all()
        for work in waiting:
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
            slot = self._free[-1]
            with self._lock:
                batch, expired = self._queue.take(now_s)
                if batch is not None and slot.worker is not None:
                    self._running[slot] = batch.works
            if expired:
                self._expire(expired, now_s)
            if batch is None:
                break
            if slot.worker is None:
                self._is_turn_due = True  # requests that come from a reply wait for the turn below
                executed = slot.executor.execute(batch)
                finished_s = monotonic()
                self._learn(batch, executed, finished_s - now_s)
                self._answer_all(executed, now_s, finished_s)
                self._queue.ended(batch, finished_s)
                if len(self._queue):
                    self._loop.call_soon(self._turn)  # not at once: what the loop has received meanwhile may join
                    return
                self._is_turn_due = False
                break
            self._free.pop()
            slot.worker.submit_chain(self._run, _Run(slot, batch, now_s), self._ran)
        with self._lock:
            wake_s = self._queue.deadline()
        if wake_s < inf and self._free:
            self._timer = self._loop.call_later(wake_s - now_s, self._turn)
        elif len(self._free) == self._slots and not self._is_turn_due:
            self._idle.set()

    def _run(self, run: _Run) -> tuple[_Ran, _Run | None]:
        """In the slot's thread: run a batch and take the next."""
        slot, batch = run.slot, run.batch
        executed = slot.executor.execute(batch)
        finished_s = monotonic()
        following: Batch | None = None
        expired: Sequence[Work] = ()
        with self._lock:
            self._learn(batch, executed, finished_s - run.started_s)
            # A big request that failed in one piece must not be taken for its next: the loop says first that it failed.
            if not executed.has_failures:
                self._queue.ended(batch, finished_s)
                following, expired = self._queue.take(finished_s)
            if following is not None:
                self._running[slot] = following.works
        ran = _Ran(run, executed, finished_s, expired, following is None)
        return ran, None if following is None else _Run(slot, following, finished_s)

    def _ran(self, ran: _Ran) -> None:
        slot, executed = ran.run.slot, ran.executed
        with self._lock:
            self._queue.handed_over(monotonic() - ran.finished_s)
        if not ran.is_last:
            self._answer_all(executed, ran.run.started_s, ran.finished_s)
        elif executed.has_failures:
            self._answer_all(executed, ran.run.started_s, ran.finished_s)
            with self._lock:
                self._queue.ended(ran.run.batch, ran.finished_s)
            self._is_free(slot)
        else:  # the model computes the next batch, if one has come, while the loop writes the replies of this one
            self._is_free(slot)
            self._answer_all(executed, ran.run.started_s, ran.finished_s)
        if ran.expired:
            self._expire(ran.expired, ran.finished_s)

    def _is_free(self, slot: Slot) -> None:
        with self._lock:
            del self._running[slot]
        self._free.append(slot)
        self._fill(monotonic())

    def _learn(self, batch: Batch, executed: Executed, seconds: float) -> None:
        runs = executed.runs
        if runs and runs[0].rows == batch.rows:  # neither failed nor bisected
            batch.lane.table.observe(batch.rows, seconds)

    def _answer_all(self, executed: Executed, started_s: float, finished_s: float) -> None:
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
        work.state = WorkState.DONE  # it is in no queue any more
        try:
            work.on_done(outcome)
        except Exception as error:  # one client's reply must not cost the others theirs
            self._loop.call_exception_handler({"message": "a reply callback failed", "exception": error})
