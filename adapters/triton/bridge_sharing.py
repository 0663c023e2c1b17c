"""Which tensors of a call go through shared memory, and where in a region they lie. Pure.

Only large ones, only of datatypes with a fixed size, and of outputs only those whose size is known before they are
computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from serving.signature import Signature, TensorSpec
from serving.tensors import DATATYPES

# Measured with a model that gives back what it gets, one call at a time, median of a call (and CPU of both processes):
# 32 KiB 0.41 ms sent, 0.40 shared; 64 KiB 0.40, 0.34; 1 MiB 1.13 (1.4), 0.53 (0.6); 16 MiB 32 (38), 5.8 (6.1).
SHARED_FROM_BYTES = 64 * 1024
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Span:
    """A tensor's bytes in a region."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """By name. `size`: of the region that holds all of them."""

    inputs: Mapping[str, Span]
    outputs: Mapping[str, Span]
    size: int


class Sharing:
    """For one model."""

    def __init__(self, signature: Signature) -> None:
        self._inputs = [spec.name for spec in signature.inputs if not DATATYPES[spec.datatype].is_bytes]
        self._has_rows = signature.max_rows > 0  # only then does Triton promise as many rows as it was given
        # Of each output with a known size: the bytes of one row, or of all of it.
        self._output_bytes = {
            spec.name: size for spec in signature.outputs if (size := _fixed_bytes(spec, self._has_rows)) > 0
        }

    def layout(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> Layout | None:
        """None when nothing is large enough."""
        large = [(name, size) for name in self._inputs if (size := inputs[name].nbytes) >= SHARED_FROM_BYTES]
        rows = next(iter(inputs.values())).shape[0] if self._has_rows else 1
        sizes = [(name, rows * self._output_bytes.get(name, 0)) for name in outputs]
        results = [(name, size) for name, size in sizes if size >= SHARED_FROM_BYTES]
        if not large and not results:
            return None
        given, end = _placed(large, 0)
        taken, end = _placed(results, end)
        return Layout(given, taken, end)


def _placed(tensors: Sequence[tuple[str, int]], start: int) -> tuple[dict[str, Span], int]:
    spans: dict[str, Span] = {}
    for name, size in tensors:
        spans[name] = Span(start, size)
        start += -(-size // _ALIGNMENT) * _ALIGNMENT
    return spans, start


def _fixed_bytes(spec: TensorSpec, has_rows: bool) -> int:
    """0 when it is not known."""
    datatype, shape = DATATYPES[spec.datatype], spec.shape[1:] if has_rows else spec.shape
    return 0 if datatype.is_bytes or any(dim < 0 for dim in shape) else prod(shape) * datatype.dtype.itemsize
