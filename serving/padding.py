"""Requests of different lengths in one batch: shorter ones are padded with zeros, their outputs cut back.

Only where the deployment names the model's padding mask (`batching.padding_mask`), the input that is 1 where there is
something and 0 where there is not, as `attention_mask` of the usual text encoders. All inputs that are free along the
mask's axis are padded, the mask with zeros as well. Whether the model keeps its promise is tried in warm-up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.lanes import PaddedAxis
from serving.signature import Signature


def padded_axis(signature: Signature, mask: str) -> PaddedAxis:
    """Where `mask` says that padding goes. Raises `ValueError` with the reason when the model has no such place."""
    spec = next((spec for spec in signature.inputs if spec.name == mask), None)
    if spec is None:
        names = ", ".join(repr(spec.name) for spec in signature.inputs)
        raise ValueError(f"the model has no input {mask!r}, its inputs are {names}")
    free = [axis for axis, length in enumerate(spec.shape) if axis > 0 and length < 0]
    if len(free) != 1:
        raise ValueError(f"{mask!r} has shape {list(spec.shape)}, it needs one free axis besides the batch")
    axis = free[0]
    padded = [spec for spec in signature.inputs if len(spec.shape) > axis and spec.shape[axis] < 0]
    if any(spec.datatype == "BYTES" for spec in padded):
        raise ValueError("an input of text cannot be padded")
    return PaddedAxis(axis, tuple(spec.name for spec in padded))


def joined(arrays: Sequence[np.ndarray], axis: int, length: int) -> np.ndarray:
    """The rows of all `arrays`, each padded with zeros to `length` along `axis`."""
    first = arrays[0]
    rows = sum(len(array) for array in arrays)
    whole = np.zeros((rows, *first.shape[1:axis], length, *first.shape[axis + 1 :]), first.dtype)
    start = 0
    for array in arrays:
        stop = start + len(array)
        whole[(slice(start, stop), *_to(axis, array.shape[axis]))] = array
        start = stop
    return whole


def cut(array: np.ndarray, axis: int, length: int) -> np.ndarray:
    """A view of `array` without what is beyond `length` along `axis`."""
    return array[(slice(None), *_to(axis, length))]


def cut_outputs(signature: Signature, axis: int) -> frozenset[str]:
    """The outputs that are as long as the request: those that are free along the padded axis."""
    return frozenset(spec.name for spec in signature.outputs if len(spec.shape) > axis and spec.shape[axis] < 0)


def _to(axis: int, length: int) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(axis - 1)), slice(length))
