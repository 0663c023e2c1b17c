"""The look through a graph: what good models show of themselves, and that no bytes at all get it off its feet."""

from __future__ import annotations

import tracemalloc
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from adapters.onnx.graph_walk import walk
from adapters.onnx.wire import Malformed, Wire
from router.models.ports import AdmissionRefused
from tests.admission import graphs
from tests.admission.graphs import field, varint

MAGIKA = Path(str(distribution("magika").locate_file("magika/models/standard_v3_3/model.onnx")))


def walked(content: bytes, **sizes: int) -> object:
    return walk(content, "model.onnx", {"model.onnx": len(content), "weights.bin": 8, **sizes})


def test_a_real_model_is_counted() -> None:
    facts = walk(MAGIKA.read_bytes(), "model.onnx", {})
    assert (facts.nodes, facts.ir_version) == (len(onnx.load(MAGIKA).graph.node), 8)
    assert facts.opsets == (("", 15), ("ai.onnx.ml", 2))
    assert facts.external == ()


def test_the_models_that_come_with_onnx_are_all_fine_but_those_that_train() -> None:
    refused = []
    models = sorted(Path(onnx.__file__).parent.glob("backend/test/data/**/*.onnx"))
    for path in models:
        try:
            walk(path.read_bytes(), "model.onnx", {})
        except AdmissionRefused as error:
            refused.append(error.found)
    assert len(models) > 100
    assert all("ai.onnx.preview.training" in found for found in refused)


def test_weights_beside_and_below_are_named_with_their_folder() -> None:
    def located(location: str, **more: str) -> bytes:
        return graphs.scaled(graphs.external(location=location, **more))

    facts = walk(located("data/w.bin", offset="8", length="8"), "1/model.onnx", {"1/data/w.bin": 16})
    assert facts.external == ("1/data/w.bin",)
    with pytest.raises(AdmissionRefused, match=r"'w.bin', which is no file of this model"):
        walk(located("w.bin"), "1/model.onnx", {"w.bin": 16})


def test_what_is_inside_branches_and_functions_is_counted() -> None:
    inside = numpy_helper.from_array(np.ones(2, np.float32), "w")
    branch = walk(graphs.in_branch(inside), "model.onnx", {})
    assert (branch.nodes, branch.subgraphs) == (5, 2)
    function = walk(graphs.in_function(inside), "model.onnx", {})
    assert (function.nodes, function.functions) == (3, 1)


@pytest.mark.parametrize("depth", [0, 29])
def test_subgraphs_may_be_nested_as_deep_as_parsers_go(depth: int) -> None:
    walked(graphs.nested(depth))


def test_functions_may_call_the_same_function_many_times() -> None:
    walked(graphs.calls({"a": ["b", "c", "b"], "b": ["c", "c"], "c": ["Identity"] * 3}))


@pytest.mark.parametrize(
    "tensor",
    [
        helper.make_tensor("w", TensorProto.FLOAT, [2], [1, 2]),
        helper.make_tensor("w", TensorProto.FLOAT, [0, 4], []),
        helper.make_tensor("w", TensorProto.STRING, [2], [b"", b""]),
        helper.make_tensor("w", TensorProto.INT4, [3], [1, 2, 3]),
        helper.make_tensor("w", TensorProto.BFLOAT16, [2], [1.0, 2.0]),
        numpy_helper.from_array(np.ones((2, 3), np.float64), "w"),
        numpy_helper.from_array(np.array(True), "w"),
    ],
)
def test_tensors_have_room_for_what_they_claim(tensor: TensorProto) -> None:
    walked(graphs.scaled(tensor))
    bigger = TensorProto.FromString(tensor.SerializeToString())
    bigger.dims.append(1000)
    if 0 not in tensor.dims:
        with pytest.raises(AdmissionRefused, match=r"the tensor 'w' (takes|claims)"):
            walked(graphs.scaled(bigger))


def test_numbers_that_are_not_packed_count_as_well() -> None:
    values = b"".join(varint(4 << 3 | 5) + np.float32(at).tobytes() for at in range(3))
    tensor = varint(1 << 3) + varint(3) + varint(2 << 3) + varint(1) + values + field(8, b"w")
    assert list(TensorProto.FromString(tensor).float_data) == [0, 1, 2]
    walked(field(7, field(5, tensor)))


def test_memory_does_not_grow_with_weights() -> None:
    content = graphs.scaled(numpy_helper.from_array(np.zeros(4_000_000, np.float32), "w"))
    tracemalloc.start()
    walked(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000 < len(content)


def test_a_field_number_that_parsers_cut_to_another_one_is_refused() -> None:
    hidden = varint(2**32 + (7 << 3 | 2)) + field(7, b"")[1:]
    with pytest.raises(AdmissionRefused, match="it has no field number at byte"):
        walked(graphs.relu() + hidden)


def test_code_does_not_come_in_under_the_name_of_a_function() -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function("com.microsoft", "EPContext", ["a"], ["b"], body, [helper.make_opsetid("", 21)])
    graph = graphs.graph_of([helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")])
    content = graphs.proto_of(graph, {"": 21, "com.microsoft": 1}, [function]).SerializeToString()
    with pytest.raises(AdmissionRefused, match="is 'EPContext', which carries or calls code"):
        walked(content)


def test_there_is_an_end_to_what_is_read() -> None:
    wire = Wire(b"\x08\x01" * 100, max_fields=50)
    with pytest.raises(Malformed, match="more fields than any model needs"):
        list(wire.fields(0, 200))


@given(st.binary(max_size=300))
def test_any_bytes_are_walked_or_refused(content: bytes) -> None:
    _walked_or_refused(content)


MODELS = [
    graphs.relu(),
    graphs.in_branch(graphs.external(location="weights.bin")),
    graphs.in_function(graphs.external(location="weights.bin", offset="0", length="8")),
    graphs.sparse(numpy_helper.from_array(np.ones(2, np.float32), "w"), [2]),
    graphs.calls({"a": ["b", "Identity"], "b": ["Identity"]}),
    graphs.loop(3),
]


@given(st.sampled_from(MODELS), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=5))
def test_damaged_models_are_walked_or_refused(content: bytes, damage: list[tuple[int, int]]) -> None:
    damaged = bytearray(content)
    for at, byte in damage:
        damaged[at % len(damaged)] = byte
    _walked_or_refused(bytes(damaged))


@given(st.sampled_from(MODELS), st.integers(0, 2000), st.integers(0, 2000), st.binary(max_size=20))
def test_spliced_models_are_walked_or_refused(content: bytes, start: int, end: int, between: bytes) -> None:
    _walked_or_refused(content[: start % len(content)] + between + content[end % len(content) :])


def _walked_or_refused(content: bytes) -> None:
    try:
        facts = walk(content, "model.onnx", {"weights.bin": 8})
    except AdmissionRefused:
        return
    assert set(facts.external) <= {"weights.bin"}
    # Whatever passes is what a parser sees as well, when it sees a model at all.
    try:
        proto = ModelProto.FromString(content)
    except Exception:
        return
    assert facts.nodes >= len(proto.graph.node)
