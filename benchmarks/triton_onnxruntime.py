"""Triton's `onnxruntime` backend for a Triton that has none, such as the one in NVIDIA's wheel: a Python-based backend.

https://github.com/triton-inference-server/backend/blob/main/docs/python_based_backends.md. It takes the configurations
that the real one takes, as far as benchmarks and tests need them. It is copied beside Triton's other backends
(triton_home.py) and loaded from there alone, so it knows nothing of this package.
"""

from __future__ import annotations

import json
import os
from itertools import accumulate
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Any ONNX model; requests that Triton batched are joined on axis 0."""

    def initialize(self, arguments: dict[str, str]) -> None:
        config = json.loads(arguments["model_config"])
        file = config.get("default_model_filename") or "model.onnx"
        path = os.path.join(arguments["model_repository"], arguments["model_version"], file)
        options = onnxruntime.SessionOptions()
        threads = config.get("parameters", {}).get("intra_op_thread_count", {}).get("string_value", "1")
        options.intra_op_num_threads = int(threads)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._inputs = [one.name for one in self._session.get_inputs()]
        self._outputs = [one.name for one in self._session.get_outputs()]
        self._is_batched = config.get("max_batch_size", 0) > 0

    def execute(self, requests: list[Any]) -> list[Any]:
        groups = [requests] if self._is_batched else [[request] for request in requests]
        return [reply for group in groups for reply in self._answers(group)]

    def _answers(self, requests: list[Any]) -> list[Any]:
        parts = [
            [_for_onnx(pb_utils.get_input_tensor_by_name(request, name).as_numpy()) for request in requests]
            for name in self._inputs
        ]
        try:
            feeds = {
                name: part[0] if len(part) == 1 else np.concatenate(part)
                for name, part in zip(self._inputs, parts, strict=True)
            }
            results = [_for_triton(result) for result in self._session.run(self._outputs, feeds)]
        except Exception as error:
            refused = pb_utils.TritonError(str(error))
            return [pb_utils.InferenceResponse(error=refused) for _ in requests]
        if len(requests) == 1:
            return [self._reply(results)]
        sizes = [len(rows) for rows in parts[0]]
        return [
            self._reply([result[end - size : end] for result in results])
            for size, end in zip(sizes, accumulate(sizes), strict=True)
        ]

    def _reply(self, results: list[np.ndarray]) -> Any:
        tensors = [pb_utils.Tensor(name, result) for name, result in zip(self._outputs, results, strict=True)]
        return pb_utils.InferenceResponse(tensors)


def _for_onnx(array: np.ndarray) -> np.ndarray:
    """ONNX Runtime takes text, Triton has bytes."""
    if array.dtype != np.object_:
        return array
    return np.array([item.decode() for item in array.flat], dtype=object).reshape(array.shape)


def _for_triton(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.object_:
        return array
    return np.array([str(item).encode() for item in array.flat], dtype=object).reshape(array.shape)
