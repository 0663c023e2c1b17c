"""Counts what a model does, for the protocol's statistics. Called once a batch, on the event loop only: no lock.

As in Triton, a request's compute times are those of the batch that it was part of: with n requests in a batch, the
model's totals grow by n times the batch's durations, while `batches` counts the execution once.
"""

from __future__ import annotations

from serving.execution import Executed, Run
from serving.statistics import BatchStatistic, DurationStatistic, ModelStatistics


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
        answered = 0
        enqueued_s = failed_enqueued_s = 0.0
        for work, outcome in zip(executed.works, executed.outcomes, strict=True):
            if type(outcome) is list:
                answered += 1
                enqueued_s += work.enqueued_s
            else:
                failed_enqueued_s += work.enqueued_s
        failed = len(executed.outcomes) - answered
        self._queue.add(answered, started_s * answered - enqueued_s)
        self._success.add(answered, finished_s * answered - enqueued_s)
        if failed:
            self._fail.add(failed, finished_s * failed - failed_enqueued_s)

    def refused(self, waited_s: float) -> None:
        """A request failed without having run: the queue was full or the deadline passed."""
        self._fail.add(1, waited_s)

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
