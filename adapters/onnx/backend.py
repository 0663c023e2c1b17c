"""ONNX Runtime. The only file that imports it; its errors are translated here.

`session.run` is used, not a prebound `run_with_iobinding`: bound once, that saves 1.3 of 5.0 µs, but it needs inputs at
fixed addresses and overwrites its outputs, so both must be copied; what is left of the gain is under 1 µs a batch.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort

from adapters.onnx_signature import read_signature
from router.domain.errors import ModelUnavailable
from serving.errors import BadRequest, ModelFailed, ScoringError
from serving.signature import Signature

log = logging.getLogger(__name__)

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

_FATAL = 4  # what fails is raised; ONNX Runtime need not print it as well, once for every bad request

# ONNX's element types, as `bind_input` and `bind_output` want them when NumPy has no such type of its own.
_ONNX_ELEMENT = {
    "BF16": 16,
    "FP32": 1,
    "UINT8": 2,
    "INT8": 3,
    "UINT16": 4,
    "INT16": 5,
    "INT32": 6,
    "INT64": 7,
    "BOOL": 9,
    "FP16": 10,
    "FP64": 11,
    "UINT32": 12,
    "UINT64": 13,
}

_SOURCE_LOCATION = re.compile(r"\S*/\S+\.(?:cc|cpp|h|cu|cuh)(?::\d+)?(?: [^\[\n]*?\))? ?")
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")

# Running a session is thread-safe, creating one is not.
_creating = threading.Lock()


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """`sha256`: 64 hex digits that the file must have. `cpu`: cores to use. `gpu`: devices; 0 means the CPU only."""

    path: str
    sha256: str
    cpu: float = 1.0
    gpu: float = 0.0


class OnnxBackend:
    """One session. Raises `ModelUnavailable` when the file is not the expected one or cannot be served."""

    def __init__(self, options: OnnxOptions) -> None:
        path = Path(options.path)
        _verify(path, options.sha256)
        self._session = _open_session(path, options)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._signature = read_signature(inputs, outputs, path)
        self._datatypes = {spec.name: spec.datatype for spec in (*self._signature.inputs, *self._signature.outputs)}
        datatypes = set(self._datatypes.values())
        if {"BF16", "BYTES"} <= datatypes:
            raise ModelUnavailable("a model with both BF16 and string tensors cannot be run from Python")
        self._has_bf16 = "BF16" in datatypes
        self._text_inputs = [spec.name for spec in self._signature.inputs if spec.datatype == "BYTES"]
        self._has_text_output = any(spec.datatype == "BYTES" for spec in self._signature.outputs)

    @property
    def signature(self) -> Signature:
        return self._signature

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Raises `ModelFailed`, or `BadRequest` for inputs that ONNX Runtime cannot be given."""
        if self._text_inputs:
            inputs = {**inputs, **{name: _decoded(name, inputs[name]) for name in self._text_inputs}}
        for name, array in inputs.items():
            if not array.flags.aligned:  # a view into a request's body, which ONNX Runtime would take as it is
                inputs = {**inputs, name: array.copy()}
        try:
            arrays: list[np.ndarray] = (
                self._run_bound(inputs, outputs) if self._has_bf16 else self._session.run(outputs, inputs)
            )
        except Exception as error:
            raise _translated(error) from error
        if self._has_text_output:
            arrays = [_encoded(array) if array.dtype.hasobject else array for array in arrays]
        return arrays

    def close(self) -> None:
        """Free the model. Nothing may be called afterwards."""
        del self._session

    def _run_bound(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """For BF16, which ONNX Runtime cannot exchange as NumPy arrays: tensors are passed by address."""
        binding = self._session.io_binding()
        kept = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in kept.items():
            element = _ONNX_ELEMENT[self._datatypes[name]]
            binding.bind_input(name, "cpu", 0, element, array.shape, array.ctypes.data)
        for name in outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        return [
            _copied_bf16(value) if self._datatypes[name] == "BF16" else value.numpy()
            for name, value in zip(outputs, binding.get_outputs(), strict=True)
        ]


def execution_providers(gpu: float, available: Sequence[str]) -> list[Any]:
    """The providers to ask for. Raises `ModelUnavailable` when a GPU is wanted and ONNX Runtime has no CUDA."""
    if gpu <= 0:
        return [CPU]
    if CUDA not in available:
        raise ModelUnavailable(
            "the deployment asks for a GPU, but the installed ONNX Runtime has no CUDA support: "
            "install onnxruntime-gpu (Linux on x86-64) with Crossfade's extra `gpu`"
        )
    # The CPU provider stays: it runs the shape arithmetic that CUDA leaves to it. Heuristic search, because
    # an exhaustive one repeats for every new batch size, inside a request.
    return [(CUDA, {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}), CPU]


def _verify(path: Path, sha256: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelUnavailable(f"model file {path.name!r} cannot be read: {error.strerror}") from error
    if found != sha256:
        raise ModelUnavailable(f"model file {path.name!r} is not what was deployed: sha256 {found}, expected {sha256}")


def _open_session(path: Path, options: OnnxOptions) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    # The default is every core of the machine, for every session, busy-waiting: with little traffic, 1.1 cores burnt
    # where 0.16 do the work.
    settings.intra_op_num_threads = max(1, int(options.cpu))
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    settings.log_severity_level = _FATAL
    providers = execution_providers(options.gpu, ort.get_available_providers())
    with _creating:
        try:
            if options.gpu > 0:
                ort.preload_dlls()  # CUDA and cuDNN from their wheels
            session = ort.InferenceSession(str(path), settings, providers=providers)
        except Exception as error:
            raise ModelUnavailable(f"model file {path.name!r} did not load: {_words(error, path)}") from error
    session.disable_fallback()  # or a failing GPU run would quietly move the model to the CPU
    if options.gpu > 0 and CUDA not in session.get_providers():
        raise ModelUnavailable(
            "the deployment asks for a GPU, but ONNX Runtime could not start CUDA: it needs an NVIDIA driver and the "
            "CUDA and cuDNN libraries of Crossfade's extra `gpu`"
        )
    return session


def _translated(error: Exception) -> ScoringError:
    words = _words(error)
    # ONNX Runtime says INVALID_ARGUMENT for inputs that do not fit, but also for what a node finds wrong while it runs.
    if type(error).__name__ == "InvalidArgument" and "while running" not in words:
        return BadRequest(words)
    return ModelFailed(words)


def _words(error: Exception, path: Path | None = None) -> str:
    """ONNX Runtime's message without its status prefix, source locations and this machine's folders."""
    words = _SOURCE_LOCATION.sub("", _STATUS.sub("", str(error)))
    if path is not None:
        words = words.replace(str(path), path.name).replace(f"{path.parent}/", "")
    return " ".join(words.split()) or type(error).__name__


def _decoded(name: str, array: np.ndarray) -> np.ndarray:
    """Bytes to str: given bytes, ONNX Runtime's Python binding would silently score the text "b'…'"."""
    try:
        texts = [element.decode() for element in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise BadRequest(f"input {name!r} holds bytes that are not UTF-8, and the model takes text") from error
    return _objects(texts, array.shape)


def _encoded(array: np.ndarray) -> np.ndarray:
    return _objects([element.encode() for element in array.ravel().tolist()], array.shape)


def _objects(elements: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    flat = np.empty(len(elements), object)
    flat[:] = elements
    return flat.reshape(shape)


def _copied_bf16(value: ort.OrtValue) -> np.ndarray:
    shape = tuple(value.shape())
    size = prod(shape)
    if size == 0:
        return np.empty(shape, ml_dtypes.bfloat16)
    content = ctypes.string_at(value.data_ptr(), 2 * size)  # a copy: the memory goes with `value`
    return np.frombuffer(content, ml_dtypes.bfloat16).reshape(shape)
