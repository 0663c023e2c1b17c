"""What an ONNX model takes and gives, read from its session. Nothing runs here."""

from __future__ import annotations

import mmap
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from router.domain.errors import ModelUnavailable
from serving.signature import Signature, TensorSpec

DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

# DynamicQuantizeLinear, DynamicQuantizeMatMul, DynamicQuantizeLSTM take their scale from the whole tensor, all rows of
# it: beside other rows, a row gets another scale and so another answer (int8 magika: up to 1.5 % off). Operator names
# stand as plain text in the file; a hit by chance costs speed, not correctness.
_OPERATORS_THAT_MIX_ROWS = b"DynamicQuantize"

# Names that ONNX Runtime gives to axes that the author left unnamed.
_GENERATED_SYMBOL = "unk__"

_OPTIONAL = re.compile(r"optional\((.+)\)")


class NodeArg(Protocol):
    """ONNX Runtime's description of an input or output. A free axis is a str (its symbol) or None in `shape`."""

    name: str
    type: str
    shape: Sequence[int | str | None]


def read_signature(inputs: Sequence[NodeArg], outputs: Sequence[NodeArg], path: Path) -> Signature:
    """`is_batchable` says that axis 0 may be a batch axis by all that is declared; the warm-up tries whether it is.

    Raises `ModelUnavailable` for anything but tensors of V2 datatypes.
    """
    is_batchable = has_batch_axis(inputs, outputs) and not _mixes_rows(path)
    return Signature(
        tuple(_spec("input", node) for node in inputs), tuple(_spec("output", node) for node in outputs), is_batchable
    )


def has_batch_axis(inputs: Sequence[NodeArg], outputs: Sequence[NodeArg]) -> bool:
    """Axis 0 is free on every input and output, and no name that the author gave contradicts that it is one batch axis.

    A fixed axis 0, a scalar, inputs whose first axes have different names, and a name that stands on another axis as
    well (a square matrix, a sequence against itself) all mean no. Names of outputs are not compared: exporters make
    them up (`Addoutput_dim_0`).
    """
    for node in (*inputs, *outputs):
        if not node.shape or isinstance(node.shape[0], int):
            return False
    named = {symbol for node in inputs if (symbol := _author_symbol(node.shape[0]))}
    elsewhere = {_author_symbol(dim) for node in (*inputs, *outputs) for dim in node.shape[1:]}
    return bool(inputs) and len(named) <= 1 and not named & elsewhere


def _author_symbol(dim: int | str | None) -> str:
    """Empty when the axis is fixed or was not named."""
    return dim if isinstance(dim, str) and not dim.startswith(_GENERATED_SYMBOL) else ""


def _spec(kind: str, node: NodeArg) -> TensorSpec:
    # An optional tensor is asked for like any other: the protocol has no word for a missing value.
    optional = _OPTIONAL.fullmatch(node.type)
    type_ = optional[1] if optional else node.type
    datatype = DATATYPES.get(type_)
    if datatype is None:
        hint = "export the classifier with zipmap off" if type_.startswith("seq(map(") else "only tensors can be served"
        raise ModelUnavailable(f"{kind} {node.name!r} is a {node.type}: {hint}")
    return TensorSpec(
        node.name, datatype, tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in node.shape)
    )


def _mixes_rows(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_OPERATORS_THAT_MIX_ROWS) >= 0
