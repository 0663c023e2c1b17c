"""V2 datatypes as ONNX Runtime's bindings want them: element numbers, text, bfloat16."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from serving.errors import BadRequest

# onnx.TensorProto.DataType. (BYTES is missing: text cannot be bound by address.)
ONNX_ELEMENT = {
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


class OrtValue(Protocol):
    """A tensor of ONNX Runtime's own, wherever its memory is."""

    def shape(self) -> list[int]: ...
    def data_ptr(self) -> int: ...


def decoded(name: str, array: np.ndarray) -> np.ndarray:
    """Bytes to str: given bytes, ONNX Runtime's Python binding would silently score the text "b'…'"."""
    try:
        texts = [element.decode() for element in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise BadRequest(f"input {name!r} holds bytes that are not UTF-8, and the model takes text") from error
    return _objects(texts, array.shape)


def encoded(array: np.ndarray) -> np.ndarray:
    """Str to bytes, as the protocol has it."""
    return _objects([element.encode() for element in array.ravel().tolist()], array.shape)


def copied_bf16(value: OrtValue) -> np.ndarray:
    """A tensor of bfloat16 in this machine's memory, copied: the memory goes with `value`."""
    shape = tuple(value.shape())
    size = prod(shape)
    if size == 0:
        return np.empty(shape, ml_dtypes.bfloat16)
    return np.frombuffer(ctypes.string_at(value.data_ptr(), 2 * size), ml_dtypes.bfloat16).reshape(shape)


def _objects(elements: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    flat = np.empty(len(elements), object)
    flat[:] = elements
    return flat.reshape(shape)
