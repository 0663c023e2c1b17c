"""ONNX files for these tests: one that is good, and many that no exporter writes. Bytes, as they lie in a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

OPSETS = {"": 21}


def value(name: str, shape: Sequence[int | str] = ("N", 2), element: int = TensorProto.FLOAT) -> object:
    return helper.make_tensor_value_info(name, element, shape)


def graph_of(nodes: Sequence[NodeProto], tensors: Sequence[TensorProto] = (), **more: object) -> GraphProto:
    """`x` FP32 [N, 2] -> `y` FP32 [N, 2]."""
    return helper.make_graph(nodes, "net", [value("x")], [value("y")], initializer=tensors, **more)


def proto_of(graph: GraphProto, opsets: dict[str, int] | None = None, functions: Sequence[object] = ()) -> ModelProto:
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or OPSETS).items()]
    model = helper.make_model(graph, opset_imports=imports, functions=functions)
    model.ir_version = 10
    return model


def model(nodes: Sequence[NodeProto], tensors: Sequence[TensorProto] = (), **more: object) -> bytes:
    return proto_of(graph_of(nodes, tensors, **more)).SerializeToString()


def relu() -> bytes:
    return model([helper.make_node("Relu", ["x"], ["y"])])


def scaled(weights: TensorProto) -> bytes:
    """`y` = `x` * `w`."""
    return model([helper.make_node("Mul", ["x", "w"], ["y"])], [weights])


def external(**entries: str) -> TensorProto:
    """`w` FP32 [2], kept in a file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    return tensor


def in_branch(tensor: TensorProto) -> bytes:
    """`tensor` as a constant inside both branches of an If."""
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["w"], value=tensor), helper.make_node("Mul", ["x", "w"], ["z"])],
        "branch",
        [],
        [value("z")],
    )
    yes = numpy_helper.from_array(np.array(True), "yes")
    return model([helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)], [yes])


def in_function(tensor: TensorProto) -> bytes:
    """`tensor` as a constant inside a function that the graph calls."""
    body = [helper.make_node("Constant", [], ["w"], value=tensor), helper.make_node("Mul", ["a", "w"], ["b"])]
    function = helper.make_function("local", "Scale", ["a"], ["b"], body, [helper.make_opsetid("", 21)])
    graph = graph_of([helper.make_node("Scale", ["x"], ["y"], domain="local")])
    return proto_of(graph, {"": 21, "local": 1}, [function]).SerializeToString()


def sparse(values: TensorProto, dims: Sequence[int]) -> bytes:
    indices = numpy_helper.from_array(np.array([0, 1], np.int64))
    tensor = SparseTensorProto(values=values, indices=indices, dims=dims)
    return model([helper.make_node("Mul", ["x", "w"], ["y"])], sparse_initializer=[tensor])


def loop(steps: int) -> bytes:
    """`steps` turns that do nothing."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["before"], ["after"])],
        "turn",
        [value("turn", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("before")],
        [value("go_on", [], TensorProto.BOOL), value("after")],
    )
    count = numpy_helper.from_array(np.array(steps, np.int64), "steps")
    return model([helper.make_node("Loop", ["steps", "", "x"], ["y"], body=body)], [count])


def huge_constant(elements: int) -> bytes:
    shape = numpy_helper.from_array(np.array([elements], np.int64), "shape")
    return model(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "sum"], ["y"]),
        ],
        [shape],
    )


def nested(depth: int) -> bytes:
    """An If in an If in an If. Written by hand: `onnx` itself gives up at 100 messages inside one another."""
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "inner", [], [value("y")])
    content = inner.SerializeToString()
    for _ in range(depth):
        attribute = AttributeProto(name="then_branch", type=AttributeProto.GRAPH).SerializeToString()
        node = NodeProto(op_type="If", input=["x"], output=["y"]).SerializeToString()
        content = field(1, node + field(5, attribute + field(6, content)))
    return field(7, content) + helper.make_opsetid("", 21).SerializeToString()


def calls(functions: dict[str, Sequence[str]]) -> bytes:
    """Functions that call others, one after the other; the graph calls the first one."""
    made = [
        helper.make_function(
            "local",
            name,
            ["v0"],
            [f"v{len(called)}"],
            [_calling(other, at) for at, other in enumerate(called)],
            [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)],
        )
        for name, called in functions.items()
    ]
    first = next(iter(functions))
    graph = graph_of([helper.make_node(first, ["x"], ["y"], domain="local")])
    return proto_of(graph, {"": 21, "local": 1}, made).SerializeToString()


def _calling(name: str, at: int) -> NodeProto:
    domain = "" if name == "Identity" else "local"
    return helper.make_node(name, [f"v{at}"], [f"v{at + 1}"], domain=domain)


def field(number: int, content: bytes) -> bytes:
    """A field with a length, as it goes over the wire."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(encoded) + bytes([number])
