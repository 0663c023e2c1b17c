"""What a model has done so far: as the protocol's statistics extension counts it, with durations in nanoseconds, and as
Prometheus does, with durations in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.errors import Refusal
from serving.histogram import HistogramSnapshot


@dataclass(frozen=True, slots=True)
class DurationStatistic:
    """How often something happened, and the time spent on it in total."""

    count: int = 0
    ns: int = 0


@dataclass(frozen=True, slots=True)
class BatchStatistic:
    """Executions with one batch size (rows)."""

    compute_input: DurationStatistic = field(default_factory=DurationStatistic)
    compute_infer: DurationStatistic = field(default_factory=DurationStatistic)
    compute_output: DurationStatistic = field(default_factory=DurationStatistic)


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """A snapshot. `inference_count` counts rows, `execution_count` counts batches run."""

    last_inference_ms: int = 0  # milliseconds since the epoch
    inference_count: int = 0
    execution_count: int = 0
    success: DurationStatistic = field(default_factory=DurationStatistic)
    fail: DurationStatistic = field(default_factory=DurationStatistic)
    queue: DurationStatistic = field(default_factory=DurationStatistic)
    compute_input: DurationStatistic = field(default_factory=DurationStatistic)
    compute_infer: DurationStatistic = field(default_factory=DurationStatistic)
    compute_output: DurationStatistic = field(default_factory=DurationStatistic)
    batches: Mapping[int, BatchStatistic] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelCounters:
    """A snapshot since the model was loaded.

    A request is `refused`, or its deadline passes before it reaches the model (`deadline_missed`), or it runs and has
    `succeeded` or `failed`; `request_s` and `queue_s` are of those that ran. `cancelled`: the client went away
    meanwhile. `positions` and `padding`: see `serving.execution.Run`. `busy_s`: time in which batches ran, added up
    over slots.
    """

    succeeded: int
    failed: int
    refused: Mapping[Refusal, int]
    deadline_missed: int
    cancelled: int
    request_s: HistogramSnapshot
    queue_s: HistogramSnapshot
    batch_rows: HistogramSnapshot
    positions: int
    padding: int
    busy_s: float
    pending: int
