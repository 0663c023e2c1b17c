"""Counts what a model does, for the protocol's statistics and for Prometheus. Called once a batch, on the event loop
only: no lock. It takes 0.4 µs a request, 0.25 of them for the two histograms (`python -m benchmarks.batcher`).

As in Triton, a request's compute times are those of the batch that it was part of: with n requests in a batch, the
model's totals grow by n times the batch's durations, while `batches` counts the execution once.
"""

from __future__ import annotations

from bisect import bisect_left

from serving.errors import Refusal
from serving.execution import Executed, Run
from serving.histogram import ROWS, SECONDS, Histogram
from serving.statistics import BatchStatistic, DurationStatistic, ModelCounters, ModelStatistics


class _Total:
    """A running count and time in seconds."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def add(self, count: int, seconds: float) -> None:
        self.count += count
        self.seconds += seconds

    def snapshot(self) -> DurationStatistic:
        return DurationStatistic(self.count, round(self.seconds * 1e9))


class _Compute:
    """Times of many runs, in seconds. Plain additions: this is on the path of every request."""

    __slots__ = ("count", "infer_s", "input_s", "output_s")

    def __init__(self) -> None:
        self.count = 0
        self.input_s = 0.0
        self.infer_s = 0.0
        self.output_s = 0.0

    def add(self, run: Run, count: int, weight: int) -> None:
        self.count += count
        self.input_s += run.input_s * weight
        self.infer_s += run.infer_s * weight
        self.output_s += run.output_s * weight

    def snapshot(self) -> BatchStatistic:
        times = (self.input_s, self.infer_s, self.output_s)
        return BatchStatistic(*(DurationStatistic(self.count, round(seconds * 1e9)) for seconds in times))


class Recorder:
    """Times passed in are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self.busy_s = 0.0  # in which batches ran, in total
        self.finished = 0  # requests that have run, whatever came of them
        self._refused = dict.fromkeys(Refusal, 0)
        self._deadline_missed = 0
        self._cancelled = 0
        self._request_s = Histogram(SECONDS)
        self._queue_s = Histogram(SECONDS)
        self._batch_rows = Histogram(ROWS)
        self._positions = 0
        self._padding = 0
        self._last_s: float | None = None
        self._rows = 0
        self._executions = 0
        self._success = _Total()
        self._fail = _Total()
        self._queue = _Total()
        self._compute = _Compute()
        self._batches: dict[int, _Compute] = {}

    def executed(self, executed: Executed, started_s: float, finished_s: float) -> None:
        """A batch, or a piece of a big request, has run."""
        self._last_s = finished_s
        self.busy_s += finished_s - started_s
        self.finished += len(executed.outcomes)
        for run in executed.runs:
            self._rows += run.rows
            self._executions += 1
            self._compute.add(run, run.requests, max(run.requests, 1))
            batch = self._batches.get(run.rows)
            if batch is None:
                batch = self._batches[run.rows] = _Compute()
            batch.add(run, 1, 1)
            self._batch_rows.add(run.rows)
            self._positions += run.positions
            self._padding += run.padding
        answered = 0
        enqueued_s = failed_enqueued_s = 0.0
        # Inlined `Histogram.add`: this is once a request.
        request_counts, queue_counts = self._request_s.counts, self._queue_s.counts
        for work, outcome in zip(executed.works, executed.outcomes, strict=True):
            begun_s = work.enqueued_s
            request_counts[bisect_left(SECONDS, finished_s - begun_s)] += 1
            queue_counts[bisect_left(SECONDS, started_s - begun_s)] += 1
            if type(outcome) is list:
                answered += 1
                enqueued_s += begun_s
            else:
                failed_enqueued_s += begun_s
        count = len(executed.outcomes)
        self._request_s.total += finished_s * count - enqueued_s - failed_enqueued_s
        self._queue_s.total += started_s * count - enqueued_s - failed_enqueued_s
        self._queue.add(answered, started_s * answered - enqueued_s)
        self._success.add(answered, finished_s * answered - enqueued_s)
        failed = count - answered
        if failed:
            self._fail.add(failed, finished_s * failed - failed_enqueued_s)

    def refused(self, reason: Refusal) -> None:
        """A request was not let into the queue."""
        self._fail.add(1, 0.0)
        self._refused[reason] += 1

    def expired(self, waited_s: float) -> None:
        """A request's deadline passed while it waited."""
        self._fail.add(1, waited_s)
        self._deadline_missed += 1

    def cancelled(self) -> None:
        """A request's client went away before the answer."""
        self._cancelled += 1

    def counters(self, pending: int) -> ModelCounters:
        refused = dict(self._refused)
        return ModelCounters(
            succeeded=self._success.count,
            failed=self._fail.count - sum(refused.values()) - self._deadline_missed,
            refused=refused,
            deadline_missed=self._deadline_missed,
            cancelled=self._cancelled,
            request_s=self._request_s.snapshot(),
            queue_s=self._queue_s.snapshot(),
            batch_rows=self._batch_rows.snapshot(),
            positions=self._positions,
            padding=self._padding,
            busy_s=self.busy_s,
            pending=pending,
        )

    def snapshot(self, now_s: float, unix_time_s: float) -> ModelStatistics:
        """`now_s` and `unix_time_s` are the same instant on the two clocks."""
        last_ms = 0 if self._last_s is None else round((unix_time_s - (now_s - self._last_s)) * 1000)
        compute = self._compute.snapshot()
        return ModelStatistics(
            last_inference_ms=last_ms,
            inference_count=self._rows,
            execution_count=self._executions,
            success=self._success.snapshot(),
            fail=self._fail.snapshot(),
            queue=self._queue.snapshot(),
            compute_input=compute.compute_input,
            compute_infer=compute.compute_infer,
            compute_output=compute.compute_output,
            batches={rows: batch.snapshot() for rows, batch in sorted(self._batches.items())},
        )
