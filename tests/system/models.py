"""Models that only these tests need; the usual one is `benchmarks.models.tiny_mlp`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models import save

# The protocol's name of a datatype -> ONNX's. (BYTES apart: onnxruntime's Python runs no model with strings and BF16.)
DATATYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
}

_SIDE = 512


def echo(path: Path) -> None:
    """Gives back what it gets: for every datatype D but BYTES an input `D` and an output `D_out`, both [N, 2]."""
    nodes, inputs, outputs = [], [], []
    for name, onnx_type in DATATYPES.items():
        inputs.append(helper.make_tensor_value_info(name, onnx_type, ["N", 2]))
        outputs.append(helper.make_tensor_value_info(f"{name}_out", onnx_type, ["N", 2]))
        nodes.append(helper.make_node("Identity", [name], [f"{name}_out"]))
    save(path, nodes, inputs, outputs)


def strings(path: Path) -> None:
    """Gives back what it gets: `text` BYTES [N, 2] -> `text_out`."""
    save(
        path,
        [helper.make_node("Identity", ["text"], ["text_out"])],
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["N", 2])],
        [helper.make_tensor_value_info("text_out", TensorProto.STRING, ["N", 2])],
    )


def slow(path: Path) -> None:
    """As long as it is told: `steps` INT64 [1], about a millisecond each. Output `sum` [1, 1]."""
    body = helper.make_graph(
        [helper.make_node("MatMul", ["before", "w"], ["after"]), helper.make_node("Identity", ["go"], ["go_on"])],
        "step",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [_SIDE, _SIDE]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [_SIDE, _SIDE]),
        ],
    )
    identity = np.eye(_SIDE, dtype=np.float32)
    save(
        path,
        [
            helper.make_node("Loop", ["steps", "", "w"], ["last"], body=body),
            helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=1),
        ],
        [helper.make_tensor_value_info("steps", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(identity, "w")],
    )


def two_classes(path: Path, border: float) -> None:
    """`x` FP32 [N, 1] -> `scores` [N, 2]: class 0 for x below `border`, else class 1."""
    weights = [
        numpy_helper.from_array(np.array([[-1.0, 1.0]], np.float32), "w"),
        numpy_helper.from_array(np.array([2 * border, 0.0], np.float32), "b"),
    ]
    save(
        path,
        [helper.make_node("Gemm", ["x", "w", "b"], ["scores"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        weights,
    )
