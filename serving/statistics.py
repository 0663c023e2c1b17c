"""What a model has done so far, as the protocol's statistics extension counts it. Durations in nanoseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
