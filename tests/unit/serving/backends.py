"""Backends in plain NumPy for tests that need none of ONNX Runtime. They pass tests/onnx/test_backend_contract.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from math import inf

import numpy as np

from serving.errors import ModelFailed
from serving.signature import Signature, TensorSpec

POISON = -1.0
WAIT_S = 20.0


class DoublingBackend:
    """`double` = 2·`x` and `sum` = the row's sum of `x`. A row that holds `POISON` makes the whole run fail.

    `row_counts` remembers the rows of every run; `gate`, when given, holds every run up until it is set.
    """

    parallelism = 1
    trouble = ""

    def __init__(self, columns: int = 2, is_batchable: bool = True, gate: threading.Event | None = None) -> None:
        self.row_counts: list[int] = []
        self.thread_names: set[str] = set()
        self.is_closed = False
        self._gate = gate
        free = -1 if is_batchable else 1
        self._signature = Signature(
            (TensorSpec("x", "FP32", (free, columns)),),
            (TensorSpec("double", "FP32", (free, columns)), TensorSpec("sum", "FP32", (free,))),
            is_batchable,
        )

    @property
    def signature(self) -> Signature:
        return self._signature

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], deadline_s: float = inf
    ) -> list[np.ndarray]:
        x = inputs["x"]
        self.row_counts.append(len(x))
        self.thread_names.add(threading.current_thread().name)
        if self._gate is not None and not self._gate.wait(timeout=30):
            raise ModelFailed("the test forgot to open the gate")
        if (x == POISON).any():
            raise ModelFailed("poison")
        results = {"double": x * 2, "sum": x.sum(axis=1)}
        return [results[name] for name in outputs]

    def close(self) -> None:
        self.is_closed = True


def rows_of(*values: float, columns: int = 2) -> np.ndarray:
    """One row for each value, filled with it."""
    return np.repeat(np.array(values, np.float32)[:, None], columns, axis=1)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until `condition` holds."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  # what is waited for happens in another thread and sets no event
            await asyncio.sleep(0)
