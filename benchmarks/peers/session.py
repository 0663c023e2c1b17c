"""The same ONNX Runtime session in every peer: one thread that does not spin, as in Crossfade's replicas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

MAX_BATCH_SIZE = 64


class Session:
    """A model with one FP32 input and one output, rows on axis 0."""

    def __init__(self, path: Path | str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.input_name: str = self._session.get_inputs()[0].name
        self.output_name: str = self._session.get_outputs()[0].name

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        (scores,) = self._session.run([self.output_name], {self.input_name: rows})
        return scores
