"""How a model runs on a device: which batches get a CUDA graph, in which buffers. Pure; no ONNX Runtime, no device.

A CUDA graph replays kernels that were recorded once, which saves launching each of them. It needs the same shapes and
the same addresses every time, so there is one graph for each of a few numbers of rows, and buffers that never move.
Other numbers of rows run without a graph: rows are never made up, because only the warm-up knows whether they would
change the answers of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from serving.signature import Signature, TensorSpec
from serving.tensors import DATATYPES

# While one batch computes, the next is copied to the device: more than two would only wait.
DEPTH = 2

# Beyond this many rows the kernels take so long that launching them is no longer what counts.
MAX_GRAPH_ROWS = 256
# A graph's buffers stay for good, so they are bounded: inputs and outputs of one slot.
MAX_GRAPH_BYTES = 256 * 1024**2


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """One graph for every slot and number of rows. `row_counts` is sorted; (0,) stands for shapes without a batch."""

    row_counts: tuple[int, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def graph_id(self, slot: int, rows: int) -> int:
        """ONNX Runtime's `gpu_graph_id`: above 0, which means "the only graph"; -1 means "without"."""
        return 1 + slot * len(self.row_counts) + self.row_counts.index(rows)

    def rows_of(self, inputs: Mapping[str, np.ndarray]) -> int | None:
        """Which graph fits these inputs. None: no graph does."""
        rows = next(iter(inputs.values())).shape[0] if self.row_counts != (0,) else 0
        if rows not in self.row_counts:
            return None
        fits = all(inputs[spec.name].shape == shape_for(spec, rows) for spec in self.inputs)
        return rows if fits else None


def graph_plan(signature: Signature, max_batch_size: int) -> GraphPlan | str:
    """The plan, or why there can be none."""
    specs = (*signature.inputs, *signature.outputs)
    if not signature.inputs:
        return "the model has no inputs"
    if any(spec.datatype == "BYTES" for spec in specs):
        return "the model has text tensors"
    if signature.is_batchable:
        if any(dim < 0 for spec in specs for dim in spec.shape[1:]):
            return "an axis besides the batch axis is free"
        row_counts = graph_row_counts(max_batch_size)
    else:
        if any(dim < 0 for spec in specs for dim in spec.shape):
            return "an axis is free and is not a batch axis"
        row_counts = (0,)
    fitting = [rows for rows in row_counts if sum(size_for(spec, rows) for spec in specs) <= MAX_GRAPH_BYTES]
    if not fitting:
        return "its tensors are too large"
    return GraphPlan(tuple(fitting), signature.inputs, signature.outputs)


def graph_row_counts(max_batch_size: int) -> tuple[int, ...]:
    """1, 2, 4 … and the largest batch itself."""
    most = min(max_batch_size, MAX_GRAPH_ROWS)
    powers = [1 << exponent for exponent in range(most.bit_length()) if 1 << exponent <= most]
    return tuple(sorted({*powers, most}))


def shape_for(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    """The tensor's shape for a batch of `rows`; 0: the shape that the model declares."""
    return (rows, *spec.shape[1:]) if rows else spec.shape


def size_for(spec: TensorSpec, rows: int) -> int:
    """In bytes."""
    return prod(shape_for(spec, rows)) * DATATYPES[spec.datatype].dtype.itemsize


def capacity_for(size: int, present: int) -> int:
    """How large a buffer of `present` bytes becomes to hold `size`: whole pages, at least doubled when it grows."""
    if size <= present:
        return present
    return max(-(-size // 4096) * 4096, 2 * present)


def can_be_bound(signature: Signature) -> bool:
    """Whether every tensor can live on a device. Text cannot."""
    specs: Sequence[TensorSpec] = (*signature.inputs, *signature.outputs)
    return bool(signature.inputs) and all(spec.datatype != "BYTES" for spec in specs)
