"""Counts what a model does, for the protocol's statistics and for Prometheus. Called once a batch, on the event loop
only: no lock. It takes 0.2 µs a request in batches of 32, 1.0 µs alone (`python -m benchmarks.batcher`).

As in Triton, a request's compute times are those of the batch that it was part of: with n requests in a batch, the
model's totals grow by n times the batch's durations, while `batches` counts the execution once.
"""

from __future__ import annotations

from bisect import bisect_left

from serving.errors import Refusal
from serving.execution import Executed, Run
from serving.histogram import ROWS, SECONDS, Histogram, HistogramSnapshot
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


class _Runs:
    """Runs of one size, in seconds: once for each run; in `of_requests`, once for each request that was part of it."""

    __slots__ = ("count", "infer_s", "input_s", "of_requests", "output_s", "requests")

    def __init__(self) -> None:
        self.count = 0
        self.input_s = 0.0
        self.infer_s = 0.0
        self.output_s = 0.0
        self.requests = 0
        self.of_requests = [0.0, 0.0, 0.0]  # input, infer, output

    def add(self, run: Run) -> None:
        self.count += 1
        self.input_s += run.input_s
        self.infer_s += run.infer_s
        self.output_s += run.output_s
        requests = run.requests
        self.requests += requests
        weight = requests or 1  # a piece of a big request
        of_requests = self.of_requests
        of_requests[0] += run.input_s * weight
        of_requests[1] += run.infer_s * weight
        of_requests[2] += run.output_s * weight

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
        self._positions = 0
        self._padding = 0
        self._last_s: float | None = None
        self._success = _Total()
        self._fail = _Total()
        self._queue = _Total()
        self._runs: dict[int, _Runs] = {}  # by rows

    def executed(self, executed: Executed, started_s: float, finished_s: float) -> None:
        """A batch, or a piece of a big request, has run."""
        self._last_s = finished_s
        self.busy_s += finished_s - started_s
        self.finished += len(executed.outcomes)
        for run in executed.runs:
            runs = self._runs.get(run.rows)
            if runs is None:
                runs = self._runs[run.rows] = _Runs()
            runs.add(run)
            if run.positions:
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
            batch_rows=self._batch_rows(),
            positions=self._positions,
            padding=self._padding,
            busy_s=self.busy_s,
            pending=pending,
        )

    def snapshot(self, now_s: float, unix_time_s: float) -> ModelStatistics:
        """`now_s` and `unix_time_s` are the same instant on the two clocks."""
        runs = self._runs
        last_ms = 0 if self._last_s is None else round((unix_time_s - (now_s - self._last_s)) * 1000)
        requests = sum(each.requests for each in runs.values())
        compute = [
            DurationStatistic(requests, round(sum(each.of_requests[at] for each in runs.values()) * 1e9))
            for at in range(3)
        ]
        return ModelStatistics(
            last_inference_ms=last_ms,
            inference_count=sum(rows * each.count for rows, each in runs.items()),
            execution_count=sum(each.count for each in runs.values()),
            success=self._success.snapshot(),
            fail=self._fail.snapshot(),
            queue=self._queue.snapshot(),
            compute_input=compute[0],
            compute_infer=compute[1],
            compute_output=compute[2],
            batches={rows: each.snapshot() for rows, each in sorted(runs.items())},
        )

    def _batch_rows(self) -> HistogramSnapshot:
        histogram = Histogram(ROWS)
        for rows, runs in self._runs.items():
            histogram.add(rows, runs.count)
        return histogram.snapshot()
