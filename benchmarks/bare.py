"""The floor: ONNX Runtime in a loop, in this process, with nothing around it: no server, no queue, no copy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.load import Load
from benchmarks.payloads import Inputs

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
_LOOK_S = 0.4
_WARM_UP_RUNS = 3


class BareLoop:
    """Runs `requests`, in turn, `batch` of them at once. They must have equal shapes if `batch` is more than 1."""

    def __init__(self, model: Path, requests: Sequence[Inputs], batch: int = 1, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._requests = list(requests)
        self._used_cpu_s = 0.0
        self.batch = batch

    @property
    def batch(self) -> int:
        return self._batch

    @batch.setter
    def batch(self, size: int) -> None:
        self._batch = size
        self._feeds = [dict(inputs) for inputs in self._requests] if size == 1 else [self._joined(size)]

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds that `run` has used."""
        return {"bare": self._used_cpu_s}

    def run(self, duration_s: float) -> Load:
        """One run after the other. `requests` counts requests, not runs; latencies are those of runs."""
        session, feeds = self._session, self._feeds
        for feed in feeds[:_WARM_UP_RUNS]:
            session.run(None, feed)
        took_s: list[float] = []
        cpu_before_s, start_s = time.process_time(), time.perf_counter()
        before_s = start_s
        while before_s - start_s < duration_s:
            session.run(None, feeds[len(took_s) % len(feeds)])
            now_s = time.perf_counter()
            took_s.append(now_s - before_s)
            before_s = now_s
        self._used_cpu_s += time.process_time() - cpu_before_s
        p50_us, p99_us = np.percentile(took_s, [50, 99]) * 1e6
        return Load(len(took_s) * self._batch, before_s - start_s, float(p50_us), float(p99_us))

    def scores(self, inputs: Inputs) -> np.ndarray:
        """The first output for one request, alone."""
        scores: np.ndarray = self._session.run(None, dict(inputs))[0]
        return scores

    def choose_best_batch(self) -> int:
        """Sets and returns the batch size with the most rows a second."""
        speeds = {}
        for self.batch in BATCH_SIZES:
            speeds[self.batch] = self.run(_LOOK_S).per_second
        self.batch = max(speeds, key=speeds.__getitem__)
        return self.batch

    def single_latency_s(self) -> float:
        """The median of one request alone, in seconds."""
        batch, self.batch = self.batch, 1
        latency_s = self.run(_LOOK_S).p50_us / 1e6
        self.batch = batch
        return latency_s

    def _joined(self, size: int) -> dict[str, np.ndarray]:
        chosen = [self._requests[at % len(self._requests)] for at in range(size)]
        return {name: np.concatenate([inputs[name] for inputs in chosen]) for name in chosen[0]}
