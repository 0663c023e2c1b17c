"""Made-up inputs that fit a signature, for warm-up. Deterministic. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from serving.signature import Signature, TensorSpec
from serving.tensors import DATATYPES

Inputs = dict[str, np.ndarray]

# Sizes for free axes other than the batch axis: sequences take any, image models often need a multiple of 32 or 64.
_AXIS_SIZES = (64, 16, 224, 8, 1)
# Integers are below the first bound, or when the model refuses that (an index out of range), below the second.
# Two values alone make poor evidence: on such input, magika amplifies rounding in the last bits to 6e-3.
_INTEGER_BOUNDS = (100, 2)
# Rows of different magnitude, so that whatever is scaled by the batch's maximum shows.
_ROW_SCALES = (1.0, 4.0, 0.25)
_MAX_ELEMENTS = 16_000_000  # a row


@dataclass(frozen=True, slots=True)
class Sample:
    """`axis_size` for every free axis except a batch axis; integers are drawn below `integer_bound`."""

    signature: Signature
    axis_size: int
    integer_bound: int

    def rows(self, count: int) -> Inputs:
        """`count` different rows, the first ones the same for any count. (Not batchable: one whole input.)"""
        return {spec.name: self._tensor(at, spec, count) for at, spec in enumerate(self.signature.inputs)}

    def _tensor(self, seed: int, spec: TensorSpec, count: int) -> np.ndarray:
        free = self.axis_size
        if self.signature.is_batchable:
            shape = (count, *(free if dim < 0 else dim for dim in spec.shape[1:]))
        else:
            shape = tuple(free if dim < 0 else dim for dim in spec.shape)
        random = np.random.default_rng(seed)
        dtype = DATATYPES[spec.datatype].dtype
        if spec.datatype == "BYTES":
            digits = random.integers(0, min(self.integer_bound, 10), shape)
            return np.asarray(np.vectorize(lambda digit: b"%d" % digit, otypes=[object])(digits))
        if spec.datatype == "BOOL":
            return np.asarray(random.integers(0, 2, shape), dtype)
        if dtype.kind in "iu":
            return np.asarray(random.integers(0, self.integer_bound, shape), dtype)
        values = np.asarray(random.standard_normal(shape))
        if self.signature.is_batchable:
            values *= np.resize(_ROW_SCALES, count).reshape(count, *(1 for _ in shape[1:]))
        return values.astype(dtype)


def candidates(signature: Signature) -> Iterator[Sample]:
    """Samples to try, the likeliest first. At least one, unless even the smallest is too big to be made up."""
    first_axis = 1 if signature.is_batchable else 0
    shapes = [spec.shape[first_axis:] for spec in signature.inputs]
    axis_sizes = _AXIS_SIZES if any(dim < 0 for shape in shapes for dim in shape) else (1,)
    has_integers = any(spec.datatype.startswith(("INT", "UINT", "BYTES")) for spec in signature.inputs)
    for integer_bound in _INTEGER_BOUNDS if has_integers else _INTEGER_BOUNDS[:1]:
        for size in axis_sizes:
            if sum(prod(size if dim < 0 else dim for dim in shape) for shape in shapes) <= _MAX_ELEMENTS:
                yield Sample(signature, size, integer_bound)
