"""What bounds a queue: how much is joined, how much waits, and the latency that is aimed at. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """`max_waiting` counts requests. `slots`: executions at a time.

    `objective_s`: the latency that is aimed at. `is_binding`: the user has set it, so that when more comes in than can
    be answered within it, those who would miss it are refused; else it refuses nobody until the queue runs full.
    """

    max_batch_rows: int
    max_waiting: int
    objective_s: float = math.inf
    slots: int = 1
    is_binding: bool = False
