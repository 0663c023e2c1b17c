"""What a model takes and gives: names, V2 datatypes, shapes, and whether rows may be joined."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. `datatype` is the V2 name (FP32, INT64, BYTES …); -1 in `shape` is a free axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """`is_batchable`: axis 0 of every input and output is a free batch axis, so rows of several requests may be joined.

    When false, the model answers one request at a time, whatever its shape. `max_rows`: the most that the model takes
    in one run; 0: it has no limit of its own.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    is_batchable: bool
    max_rows: int = 0

    def input(self, name: str) -> TensorSpec | None:
        return next((spec for spec in self.inputs if spec.name == name), None)

    def output(self, name: str) -> TensorSpec | None:
        return next((spec for spec in self.outputs if spec.name == name), None)
