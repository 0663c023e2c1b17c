"""Compact records of answers, so that what two deployments answered to the same request can be compared elsewhere.

Pure. A record holds outputs, never inputs, and stays small whatever the model gives back:

- An output of up to `WHOLE_BYTES` is kept whole.
- Of a larger float output, `SPREAD` values at evenly spread positions are kept, and the top class of up to `SPREAD`
  evenly spread rows. Both sides keep the same positions, because these depend on the shape alone.
- Of a larger output of another type, a digest is kept (BLAKE2b, 16 bytes); above `DIGEST_BYTES` it covers evenly
  spread elements, and of a BYTES element its length and its first `DIGEST_ELEMENT_BYTES`.

FP16 and BF16 are kept as FP32, which holds each of their values.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from math import ceil, prod

import numpy as np

from serving.messages import InferReply

WHOLE_BYTES = 4096
SPREAD = 512
DIGEST_BYTES = 1024 * 1024
DIGEST_ELEMENT_BYTES = 64 * 1024
NO_CLASS = -1  # of a row that holds a NaN: nothing in it is the largest

_FLOATS = frozenset(("FP16", "BF16", "FP32", "FP64"))
_MAX_TOP_ELEMENTS = 1 << 18  # elements that are looked at for top classes, about 0.1 ms
_RECORD_OVERHEAD_BYTES = 256
_LENGTH = struct.Struct("<I")


class Form(StrEnum):
    WHOLE = "whole"  # every element
    SPREAD = "spread"  # some of the elements
    DIGEST = "digest"


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """One output. `data`: floats as little-endian FP32 (FP64 as such), other types in the protocol's binary form.

    `tops` (only with `Form.SPREAD`): the top classes of some rows as little-endian INT32.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    form: Form
    data: bytes
    tops: bytes = b""

    @property
    def is_float(self) -> bool:
        return self.datatype in _FLOATS

    @property
    def has_classes(self) -> bool:
        """Whether rows are taken for scores of classes: floats whose last axis is longer than one."""
        return has_classes(self.datatype, self.shape)

    def values(self) -> np.ndarray:
        """The kept elements of a float output, flat."""
        return np.frombuffer(self.data, "<f8" if self.datatype == "FP64" else "<f4")

    def top_classes(self) -> np.ndarray:
        """The top class of each kept row, flat; for outputs that have classes."""
        if self.form is Form.WHOLE:
            return top_classes(self.values().reshape(self.shape))
        return np.frombuffer(self.tops, "<i4")


@dataclass(frozen=True, slots=True)
class Answered:
    outputs: tuple[OutputRecord, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The request was refused or the model failed on it, as it will again. `kind`: the error's name, not its words:

    they can quote the input.
    """

    kind: str


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The request arrived and was not scored, for lack of room or time: this says nothing about the model."""


@dataclass(frozen=True, slots=True)
class Key:
    """Which request it was. Clients may use an id for more than one request, the fingerprint tells those apart."""

    request_id: str
    fingerprint: int


@dataclass(frozen=True, slots=True)
class Answer:
    key: Key
    what: Answered | Failed | Unanswered


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same request, answered twice by the same replica."""

    key: Key
    first: Answered
    second: Answered


Record = Answer | Repeat


def has_classes(datatype: str, shape: tuple[int, ...]) -> bool:
    return datatype in _FLOATS and len(shape) > 0 and shape[-1] > 1 and prod(shape) > 0


def recorded(reply: InferReply) -> Answered:
    """Copies what is kept. Raises when an array is not of its datatype, which encoding the reply has ruled out."""
    return Answered(tuple([_output(name, datatype, array) for name, datatype, array in reply.outputs]))


def top_classes(scores: np.ndarray) -> np.ndarray:
    """INT32, flat: for each row along the last axis the index of its largest value (the first of equals)."""
    tops = scores.argmax(axis=-1)
    # argmax gives the first NaN of a row that has one, so only that place needs a look.
    largest = np.take_along_axis(scores, tops[..., None], axis=-1)[..., 0]
    return np.where(np.isnan(largest), NO_CLASS, tops).astype("<i4").ravel()


def record_bytes(record: Record) -> int:
    """About what it takes in memory."""
    match record:
        case Answer(what=Answered() as what):
            return _answered_bytes(what)
        case Repeat():
            return _answered_bytes(record.first) + _answered_bytes(record.second)
        case _:
            return _RECORD_OVERHEAD_BYTES


def _answered_bytes(answered: Answered) -> int:
    kept = sum(len(output.data) + len(output.tops) + _RECORD_OVERHEAD_BYTES for output in answered.outputs)
    return kept + _RECORD_OVERHEAD_BYTES


def _output(name: str, datatype: str, array: np.ndarray) -> OutputRecord:
    shape = array.shape
    if datatype == "BYTES":
        return _bytes_output(name, array)
    if datatype not in _FLOATS:
        if array.nbytes <= WHOLE_BYTES:
            return OutputRecord(name, datatype, shape, Form.WHOLE, array.tobytes())
        flat = array.ravel()[:: ceil(array.nbytes / DIGEST_BYTES)]
        return OutputRecord(name, datatype, shape, Form.DIGEST, _digest(np.ascontiguousarray(flat).view(np.uint8).data))
    kept_as = "<f8" if datatype == "FP64" else "<f4"
    if array.nbytes <= WHOLE_BYTES:
        return OutputRecord(name, datatype, shape, Form.WHOLE, array.astype(kept_as, copy=False).tobytes())
    data = array.ravel()[:: ceil(array.size / SPREAD)].astype(kept_as).tobytes()
    tops = b""
    if has_classes(datatype, shape):
        rows = array.reshape(-1, shape[-1])
        wanted = max(1, min(SPREAD, _MAX_TOP_ELEMENTS // shape[-1]))
        tops = top_classes(rows[:: ceil(len(rows) / wanted)].astype(kept_as, copy=False)).tobytes()
    return OutputRecord(name, datatype, shape, Form.SPREAD, data, tops)


def _bytes_output(name: str, array: np.ndarray) -> OutputRecord:
    elements = [value.encode() if isinstance(value, str) else value for value in array.ravel().tolist()]
    if sum(map(len, elements)) + _LENGTH.size * len(elements) <= WHOLE_BYTES:
        data = b"".join([_LENGTH.pack(len(element)) + element for element in elements])
        return OutputRecord(name, "BYTES", array.shape, Form.WHOLE, data)
    spread = elements[:: ceil(len(elements) / WHOLE_BYTES)]
    parts = [_LENGTH.pack(len(element)) + element[:DIGEST_ELEMENT_BYTES] for element in spread]
    return OutputRecord(name, "BYTES", array.shape, Form.DIGEST, _digest(b"".join(parts)))


def _digest(data: bytes | memoryview) -> bytes:
    return blake2b(data, digest_size=16).digest()
