"""The replica's Prometheus text, and what the recorder counts for it."""

from __future__ import annotations

import math

import numpy as np

from serving.errors import ModelFailed, Refusal
from serving.exchange import HttpRequest, HttpResponse
from serving.execution import Executed, Run
from serving.histogram import Histogram
from serving.metrics import metrics_handler, model_metrics
from serving.recorder import Recorder
from serving.work import Work

OUTPUTS = [np.zeros(1)]
LABELS = {"endpoint": "fraud", "deployment": "blue", "replica": "r1"}
OWN = 'endpoint="fraud",deployment="blue",replica="r1"'


def work(enqueued_s: float) -> Work:
    return Work({}, ("y",), 1, math.inf, enqueued_s, lambda _: None)


def a_busy_recorder() -> Recorder:
    recorder = Recorder()
    run = Run(rows=3, requests=2, input_s=0.0, infer_s=0.0, output_s=0.0, positions=20, padding=4)
    recorder.executed(Executed([work(10.0), work(10.4)], [OUTPUTS, ModelFailed("no")], [run]), 10.5, 11.0)
    recorder.refused(Refusal.OVERLOAD)
    recorder.refused(Refusal.OVERLOAD)
    recorder.expired(0.25)
    recorder.cancelled()
    return recorder


def samples(text: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_every_request_is_counted_by_how_it_ended() -> None:
    found = samples(model_metrics(a_busy_recorder().counters(pending=5), LABELS))
    prefix = "crossfade_model_"
    assert found[f'{prefix}requests_total{{{OWN},outcome="succeeded"}}'] == 1
    assert found[f'{prefix}requests_total{{{OWN},outcome="failed"}}'] == 1
    assert found[f'{prefix}requests_total{{{OWN},outcome="refused"}}'] == 2
    assert found[f'{prefix}requests_total{{{OWN},outcome="deadline_missed"}}'] == 1
    assert found[f'{prefix}refused_total{{{OWN},reason="overload"}}'] == 2
    assert found[f'{prefix}refused_total{{{OWN},reason="queue_full"}}'] == 0
    assert found[f"{prefix}deadline_missed_total{{{OWN}}}"] == 1
    assert found[f"{prefix}cancelled_total{{{OWN}}}"] == 1
    assert found[f"{prefix}pending_requests{{{OWN}}}"] == 5
    assert found[f"{prefix}busy_seconds_total{{{OWN}}}"] == 0.5
    assert found[f'{prefix}padded_positions_total{{{OWN},kind="asked"}}'] == 20
    assert found[f'{prefix}padded_positions_total{{{OWN},kind="padding"}}'] == 4


def test_histograms_are_cumulative_and_agree_with_their_sum_and_count() -> None:
    found = samples(model_metrics(a_busy_recorder().counters(0), LABELS))
    request = "crossfade_model_request_seconds"
    assert found[f'{request}_bucket{{{OWN},le="0.5"}}'] == 0
    assert found[f'{request}_bucket{{{OWN},le="1.0"}}'] == 2  # 1.0 and 0.6 seconds
    assert found[f'{request}_bucket{{{OWN},le="+Inf"}}'] == found[f"{request}_count{{{OWN}}}"] == 2
    assert math.isclose(found[f"{request}_sum{{{OWN}}}"], 1.6)
    queue = "crossfade_model_queue_seconds"
    assert found[f'{queue}_bucket{{{OWN},le="0.1"}}'] == 1  # 0.5 and 0.1 seconds
    assert math.isclose(found[f"{queue}_sum{{{OWN}}}"], 0.6)
    rows = "crossfade_model_batch_rows"
    assert found[f'{rows}_bucket{{{OWN},le="2.0"}}'] == 0
    assert found[f'{rows}_bucket{{{OWN},le="4.0"}}'] == 1
    assert found[f"{rows}_sum{{{OWN}}}"] == 3


def test_every_family_has_its_help_and_its_type_once_and_before_its_samples() -> None:
    text = model_metrics(Recorder().counters(0), LABELS)
    heads = [line for line in text.splitlines() if line.startswith("#")]
    names = [line.split()[2] for line in heads]
    assert [line.split()[1] for line in heads] == ["HELP", "TYPE"] * (len(heads) // 2)
    assert names[::2] == names[1::2]
    assert len(set(names)) == len(names) // 2
    current = ""
    for line in text.splitlines():
        if line.startswith("# HELP"):
            current = line.split()[2]
        elif not line.startswith("#"):
            assert line.startswith(current)


def test_bounds_are_inclusive_and_what_is_beyond_them_is_counted() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5, 99.0):
        histogram.add(value)
    assert histogram.snapshot().counts == (2, 2, 2)
    assert histogram.snapshot().total == 106.5


def test_only_get_is_answered() -> None:
    handler = metrics_handler(lambda: Recorder().counters(0), LABELS)
    answers: list[HttpResponse] = []
    handler(HttpRequest(b"GET", b"/metrics", {}, b""), answers.append)
    handler(HttpRequest(b"POST", b"/metrics", {}, b""), answers.append)
    assert [answer.status for answer in answers] == [200, 405]
