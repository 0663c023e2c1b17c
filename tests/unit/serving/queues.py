"""Requests and queues without arrays: what the pure core of the batcher is tested with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from serving.batching import BatchQueue
from serving.lanes import Lanes, PaddedAxis
from serving.latency import LatencyTable
from serving.queue_limits import BatchLimits
from serving.work import Batch, Work

FREE = dict.fromkeys((1, 2, 4, 8), 1e-5)  # joining costs nothing, and waiting for company is never worth it


class Shaped:
    """All that the queue may look at of an array."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape


def work(
    rows: int = 1, deadline_s: float = math.inf, columns: int = 2, at_s: float = 0.0, priority: int = 0, **shapes: Any
) -> Work:
    inputs: Any = shapes or {"x": Shaped(rows, columns)}
    return Work(inputs, ("y",), rows, deadline_s, at_s, lambda _: None, priority)


def queue(
    latency_s: Mapping[int, float] = FREE,
    max_batch_rows: int = 8,
    max_waiting: int = 100,
    objective_s: float = math.inf,
    slots: int = 1,
    is_binding: bool = False,
    ragged: tuple[str, ...] = ("x",),
    padded: PaddedAxis | None = None,
) -> BatchQueue:
    lanes = Lanes(LatencyTable(latency_s, max_batch_rows), ragged, row_elements=2, padded=padded)
    return BatchQueue(BatchLimits(max_batch_rows, max_waiting, objective_s, slots, is_binding), lanes)


def taken(q: BatchQueue, now_s: float = 0.0) -> list[Batch]:
    """Every batch, until the queue is empty. Each has run before the next is taken."""
    batches = []
    while (batch := q.take(now_s)[0]) is not None:
        batches.append(batch)
        q.ended(batch, now_s)
    return batches


def run(q: BatchQueue, now_s: float) -> Batch:
    """The next batch, which has run as soon as it is taken."""
    batch, _ = q.take(now_s)
    assert batch is not None
    q.ended(batch, now_s)
    return batch
