"""Statistics as Triton counts them."""

from __future__ import annotations

import math

import numpy as np

from serving.errors import ModelFailed, Refusal
from serving.execution import Executed, Run
from serving.recorder import Recorder
from serving.statistics import DurationStatistic, ModelStatistics
from serving.work import Work

OUTPUTS = [np.zeros(1)]


def work(enqueued_s: float) -> Work:
    return Work({}, ("y",), 1, math.inf, enqueued_s, lambda _: None)


def test_nothing_has_happened_yet() -> None:
    assert Recorder().snapshot(1.0, 2.0) == ModelStatistics()


def test_every_request_of_a_batch_counts_the_whole_batch_and_the_batch_counts_once() -> None:
    recorder = Recorder()
    run = Run(rows=5, requests=2, input_s=0.001, infer_s=0.002, output_s=0.003)
    recorder.executed(Executed([work(10.0), work(10.5)], [OUTPUTS, OUTPUTS], [run]), 11.0, 12.0)
    got = recorder.snapshot(now_s=13.0, unix_time_s=1000.0)
    assert got.inference_count == 5
    assert got.execution_count == 1
    assert got.queue == DurationStatistic(2, 1_500_000_000)
    assert got.success == DurationStatistic(2, 3_500_000_000)
    assert got.fail == DurationStatistic()
    assert got.compute_infer == DurationStatistic(2, 4_000_000)
    assert got.batches[5].compute_input == DurationStatistic(1, 1_000_000)
    assert got.batches[5].compute_infer == DurationStatistic(1, 2_000_000)
    assert got.batches[5].compute_output == DurationStatistic(1, 3_000_000)
    assert got.last_inference_ms == 999_000


def test_failures_count_as_failures_only() -> None:
    recorder = Recorder()
    recorder.executed(Executed([work(10.0)], [ModelFailed("no")], []), 11.0, 12.0)
    recorder.expired(0.5)
    recorder.refused(Refusal.QUEUE_FULL)
    got = recorder.snapshot(12.0, 0.0)
    assert got.fail == DurationStatistic(3, 2_500_000_000)
    assert (got.success.count, got.queue.count, got.inference_count, got.execution_count) == (0, 0, 0, 0)


def test_a_request_run_in_pieces_counts_once() -> None:
    recorder = Recorder()
    recorder.executed(Executed((), [], [Run(8, 0, 0.0, 0.25, 0.0)]), 1.0, 1.25)
    recorder.executed(Executed([work(1.0)], [OUTPUTS], [Run(4, 1, 0.0, 0.25, 0.0)]), 1.25, 1.5)
    got = recorder.snapshot(2.0, 2.0)
    assert (got.inference_count, got.execution_count, got.success.count) == (12, 2, 1)
    assert got.compute_infer == DurationStatistic(1, 500_000_000)


def test_the_time_in_which_batches_ran_counts_once_a_batch_and_whatever_came_of_it() -> None:
    recorder = Recorder()
    run = Run(rows=2, requests=2, input_s=0.0, infer_s=0.25, output_s=0.0)
    recorder.executed(Executed([work(1.0), work(1.0)], [OUTPUTS, OUTPUTS], [run]), 1.0, 1.5)
    recorder.executed(Executed([work(2.0)], [ModelFailed("no")], []), 2.0, 2.25)
    recorder.expired(0.5)
    assert (recorder.busy_s, recorder.finished) == (0.75, 3)
