"""Small models for benchmarks and tests, made with the `onnx` package. Weights are random but the same every time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET = 20
_IR_VERSION = 10


def tiny_mlp(path: Path) -> str:
    """64→128→128→10, FP32: input `x` [N,64], output `y` [N,10]. Returns the file's sha256."""
    return _mlp(path, (64, 128, 128, 10))


_POISON = 1000.0


def poison(column: int = 0) -> dict[str, np.ndarray]:
    """Inputs that `tiny_mlp` answers, and a `faulty_mlp` cannot that is sensitive there."""
    row = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    row[0, column] = _POISON
    return {"x": row}


def faulty_mlp(path: Path, columns: Sequence[int] = (0,)) -> str:
    """`tiny_mlp` with the same scores, which raises when it is given `poison` for one of these columns.

    Returns the file's sha256.
    """

    def index(tensor: str) -> list[onnx.NodeProto]:
        """0 for ordinary rows; for others an index that `Gather` does not find."""
        return [
            helper.make_node("Gather", ["x", "columns"], ["column"], axis=1),
            helper.make_node("ReduceMax", ["column"], ["largest"], keepdims=0),
            helper.make_node("Greater", ["largest", "limit"], ["is_poison"]),
            helper.make_node("Cast", ["is_poison"], [tensor], to=TensorProto.INT64),
        ]

    nothing = [
        numpy_helper.from_array(np.array(columns, np.int64), "columns"),
        numpy_helper.from_array(np.array(_POISON / 2, np.float32), "limit"),
        numpy_helper.from_array(np.zeros(1, np.float32), "nothing"),
    ]
    last = [
        *index("index"),
        helper.make_node("Gather", ["nothing", "index"], ["zero"]),
        helper.make_node("Add", ["scores", "zero"], ["y"]),
    ]
    return _mlp(path, (64, 128, 128, 10), "scores", last, nothing)


def slow_mlp(path: Path, products: int) -> str:
    """`tiny_mlp` with the same scores, and the work of so many products of 256×256 matrices. Returns the sha256."""
    side = 256
    weights = [
        numpy_helper.from_array(np.eye(side, dtype=np.float32), "identity"),
        numpy_helper.from_array(np.zeros((), np.float32), "none"),
    ]
    # What depends on the input cannot be worked out beforehand.
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "none"], ["nothing"]),
        helper.make_node("Add", ["identity", "nothing"], ["product0"]),
        *(
            helper.make_node("MatMul", [f"product{number}", "identity"], [f"product{number + 1}"])
            for number in range(products)
        ),
        helper.make_node("ReduceMax", [f"product{products}"], ["one"], keepdims=0),
        helper.make_node("Mul", ["scores", "one"], ["y"]),
    ]
    return _mlp(path, (64, 128, 128, 10), "scores", nodes, weights)


def wide_mlp(path: Path) -> str:
    """Four layers of 2048×2048 (64 MB), FP32: input `x` [N,2048], output `y` [N,2048]. Returns the file's sha256."""
    return _mlp(path, (2048,) * 5)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
) -> str:
    """Write a checked model; returns the file's sha256."""
    graph = helper.make_graph(nodes, "model", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _mlp(
    path: Path,
    sizes: Sequence[int],
    scores: str = "y",
    more_nodes: Sequence[onnx.NodeProto] = (),
    more_weights: Sequence[onnx.TensorProto] = (),
) -> str:
    """`more_nodes` make `y` of `scores`, where that is not it."""
    random = np.random.default_rng(seed=7)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    tensor = "x"
    for layer, (before, after) in enumerate(pairwise(sizes), start=1):
        is_last = layer == len(sizes) - 1
        matrix = (random.standard_normal((before, after)) / np.sqrt(before)).astype(np.float32)
        bias = random.standard_normal(after).astype(np.float32)
        weights += [numpy_helper.from_array(matrix, f"w{layer}"), numpy_helper.from_array(bias, f"b{layer}")]
        sums = scores if is_last else f"sums{layer}"
        nodes.append(helper.make_node("Gemm", [tensor, f"w{layer}", f"b{layer}"], [sums]))
        if not is_last:
            tensor = f"hidden{layer}"
            nodes.append(helper.make_node("Relu", [sums], [tensor]))
    return save(
        path,
        [*nodes, *more_nodes],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", sizes[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", sizes[-1]])],
        [*weights, *more_weights],
    )
