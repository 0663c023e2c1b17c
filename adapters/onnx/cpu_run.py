"""Runs a session on arrays in this machine's memory. (On a GPU: models with text, which has no place on a device.)

`session.run` is used, not a prebound `run_with_iobinding`: bound once, that saves 1.3 of 5.0 µs, but it needs inputs at
fixed addresses and overwrites its outputs, so both must be copied; what is left of the gain is under 1 µs a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adapters.onnx.elements import ONNX_ELEMENT, copied_bf16, decoded, encoded
from router.domain.errors import ModelUnavailable
from serving.signature import Signature


class CpuRun:
    """Raises `ModelUnavailable` for a signature that cannot be run from Python."""

    parallelism = 1  # a second run beside the first would want the same threads

    def __init__(self, session: Any, signature: Signature) -> None:
        self._session = session
        self._datatypes = {spec.name: spec.datatype for spec in (*signature.inputs, *signature.outputs)}
        datatypes = set(self._datatypes.values())
        if {"BF16", "BYTES"} <= datatypes:
            raise ModelUnavailable("a model with both BF16 and string tensors cannot be run from Python")
        self._has_bf16 = "BF16" in datatypes
        self._text_inputs = [spec.name for spec in signature.inputs if spec.datatype == "BYTES"]
        self._has_text_output = any(spec.datatype == "BYTES" for spec in signature.outputs)

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Raises ONNX Runtime's errors, or `BadRequest` for text that is not UTF-8."""
        if self._text_inputs:
            inputs = {**inputs, **{name: decoded(name, inputs[name]) for name in self._text_inputs}}
        for name, array in inputs.items():
            if not array.flags.aligned:  # a view into a request's body, which ONNX Runtime would take as it is
                inputs = {**inputs, name: array.copy()}
        arrays: list[np.ndarray] = (
            self._run_bound(inputs, outputs) if self._has_bf16 else self._session.run(outputs, inputs)
        )
        if self._has_text_output:
            arrays = [encoded(array) if array.dtype.hasobject else array for array in arrays]
        return arrays

    def close(self) -> None:
        del self._session

    def _run_bound(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """For BF16, which ONNX Runtime cannot exchange as NumPy arrays: tensors are passed by address."""
        binding = self._session.io_binding()
        kept = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in kept.items():
            element = ONNX_ELEMENT[self._datatypes[name]]
            binding.bind_input(name, "cpu", 0, element, array.shape, array.ctypes.data)
        for name in outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        return [
            copied_bf16(value) if self._datatypes[name] == "BF16" else value.numpy()
            for name, value in zip(outputs, binding.get_outputs(), strict=True)
        ]
