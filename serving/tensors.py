"""V2 tensor datatypes and their binary form: little-endian, row-major, without padding.

Only the bytes of tensors live here. JSON numbers: json_tensors.py. What a model accepts: model_contract.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from serving.errors import BadRequest, ModelFailed
from serving.text import quoted, shape_text

# Replies above this size are sent from the array's own memory; below it a copy is cheaper than a memoryview
# (tobytes 0.04 µs, a view 0.37 µs for 40 bytes).
COPY_LIMIT_BYTES = 4096

_LENGTH = struct.Struct("<I")
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Datatype:
    """A V2 datatype. `json_format` is the struct code that packs its JSON numbers; empty when JSON has none for it."""

    name: str
    dtype: np.dtype
    json_format: str = ""
    is_bytes: bool = False
    has_json_form: bool = True  # FP16 and BF16 cannot travel as JSON numbers


DATATYPES: dict[str, Datatype] = {
    datatype.name: datatype
    for datatype in (
        Datatype("BOOL", np.dtype("?")),
        Datatype("INT8", np.dtype("<i1"), "b"),
        Datatype("INT16", np.dtype("<i2"), "h"),
        Datatype("INT32", np.dtype("<i4"), "i"),
        Datatype("INT64", np.dtype("<i8"), "q"),
        Datatype("UINT8", np.dtype("<u1"), "B"),
        Datatype("UINT16", np.dtype("<u2"), "H"),
        Datatype("UINT32", np.dtype("<u4"), "I"),
        Datatype("UINT64", np.dtype("<u8"), "Q"),
        Datatype("FP16", np.dtype("<f2"), has_json_form=False),
        Datatype("BF16", np.dtype(ml_dtypes.bfloat16), has_json_form=False),
        Datatype("FP32", np.dtype("<f4"), "f"),
        Datatype("FP64", np.dtype("<f8"), "d"),
        Datatype("BYTES", np.dtype("O"), is_bytes=True),
    )
}


def decode_binary(
    name: str, datatype: Datatype, shape: tuple[int, ...], count: int, buffer: bytes, start: int = 0, size: int = -1
) -> np.ndarray:
    """The tensor whose binary form is `buffer[start : start + size]` (to the end when `size` is -1).

    `count` is the product of `shape`. Fixed-size datatypes come back as read-only views of `buffer`, which may be
    unaligned; BYTES as an object array of `bytes`. Raises `BadRequest` when size and shape disagree.
    """
    if size < 0:
        size = len(buffer) - start
    if datatype.is_bytes:
        return _decode_elements(name, shape, count, buffer, start, size)
    wanted = count * datatype.dtype.itemsize
    if size != wanted:
        raise BadRequest(
            f"input {quoted(name)} has {size} bytes of data,"
            f" but shape {shape_text(shape)} of {datatype.name} takes {wanted}"
        )
    if not count:
        return np.empty(shape, datatype.dtype)
    flat = np.frombuffer(buffer, datatype.dtype, count, start)
    # A numpy or C++ bool that is neither 0 nor 1 has no defined meaning.
    if datatype.dtype.kind == "b" and flat.view(np.uint8).max() > 1:
        raise BadRequest(f"input {quoted(name)}: a BOOL element is neither 0 nor 1")
    return flat.reshape(shape)


def encode_binary(name: str, datatype: Datatype, array: np.ndarray) -> bytes | memoryview:
    """The binary form of an output; large arrays that are contiguous are not copied.

    BYTES arrays hold `bytes` or `str` (sent as UTF-8). Raises `ModelFailed` when the array is not of `datatype`.
    """
    if array.dtype != datatype.dtype:
        raise ModelFailed(f"the model's output {name!r} is {array.dtype}, but its signature says {datatype.name}")
    if datatype.is_bytes:
        return _encode_elements(name, array)
    if array.nbytes <= COPY_LIMIT_BYTES:
        return array.tobytes()
    return array.ravel().view(np.uint8).data


def object_array(values: list[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """An object array of `bytes`. (`np.array` would look inside the elements.)"""
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array.reshape(shape)


def _decode_elements(name: str, shape: tuple[int, ...], count: int, buffer: bytes, start: int, size: int) -> np.ndarray:
    end = start + size
    if count * _LENGTH_BYTES > size:
        raise BadRequest(
            f"input {quoted(name)} has {size} bytes of data, too few for the {count} BYTES elements of its shape"
        )
    values: list[bytes] = []
    at = start
    for _ in range(count):
        if at + _LENGTH_BYTES > end:
            raise _cut_off(name, len(values), count)
        (length,) = _LENGTH.unpack_from(buffer, at)
        at += _LENGTH_BYTES
        if at + length > end:
            raise _cut_off(name, len(values), count)
        values.append(buffer[at : at + length])
        at += length
    if at != end:
        raise BadRequest(f"input {quoted(name)} has {end - at} bytes left over after its {count} BYTES elements")
    return object_array(values, shape)


def _cut_off(name: str, decoded: int, count: int) -> BadRequest:
    return BadRequest(f"input {quoted(name)}: BYTES element {decoded} of {count} reaches beyond the tensor's data")


def _encode_elements(name: str, array: np.ndarray) -> bytes:
    parts: list[bytes] = []
    for value in array.ravel().tolist():
        element = value.encode() if isinstance(value, str) else value
        if not isinstance(element, bytes):
            raise ModelFailed(f"the model's output {name!r} holds {type(value).__name__} instead of bytes")
        parts.append(_LENGTH.pack(len(element)))
        parts.append(element)
    return b"".join(parts)
