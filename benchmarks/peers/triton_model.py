"""Triton's Python backend around ONNX Runtime: the requests that Triton batched are run as one.

Follows https://github.com/triton-inference-server/python_backend#usage. It is copied into Triton's model repository and
loaded from there alone, so it knows nothing of this package.
"""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One FP32 input, one output, rows on axis 0."""

    def initialize(self, arguments: dict[str, str]) -> None:
        path = json.loads(arguments["model_config"])["parameters"]["path"]["string_value"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def execute(self, requests: list[Any]) -> list[Any]:
        rows = [pb_utils.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        joined = rows[0] if len(rows) == 1 else np.concatenate(rows)
        (scores,) = self._session.run([self._output], {self._input: joined})
        ends = accumulate(len(part) for part in rows)
        replies = [scores[end - len(part) : end] for part, end in zip(rows, ends, strict=True)]
        return [pb_utils.InferenceResponse([pb_utils.Tensor(self._output, reply)]) for reply in replies]
