"""What a bridge sends to a Triton and reads from it, held against protobuf's own reading."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from adapters.triton.bridge_messages import Messages, Shared
from adapters.triton.bridge_sharing import SHARED_FROM_BYTES, Sharing, Span
from serving.errors import ModelFailed
from serving.signature import Signature, TensorSpec
from serving.tensors import DATATYPES

SIGNATURE = Signature(
    tuple(TensorSpec(name, name, (-1, -1)) for name in DATATYPES),
    tuple(TensorSpec(name, name, (-1, -1)) for name in DATATYPES),
    is_batchable=True,
    max_rows=8,
)
MESSAGES = Messages("fraud", 3, SIGNATURE)
Reply = service_pb2.ModelInferResponse


def blob(name: str, array: np.ndarray) -> bytes:
    if name == "BYTES":
        return bytes(serialize_byte_tensor(array).item()) if array.size else b""
    return array.tobytes()


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """One of each datatype, of any content."""
    rows = draw(st.integers(1, 3))
    arrays: dict[str, np.ndarray] = {}
    for name, datatype in DATATYPES.items():
        shape = (rows, draw(st.integers(0, 3)))
        count = shape[0] * shape[1]
        if datatype.is_bytes:
            arrays[name] = np.empty(count, np.object_)
            arrays[name][:] = draw(st.lists(st.binary(max_size=5), min_size=count, max_size=count))
        else:
            size = count * datatype.dtype.itemsize
            content = draw(st.binary(min_size=size, max_size=size))
            raw = bytes(byte & 1 for byte in content) if name == "BOOL" else content
            arrays[name] = np.frombuffer(raw, datatype.dtype)
        arrays[name] = arrays[name].reshape(shape)
    return arrays


def reply_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    reply = Reply(model_name="fraud", model_version="3", id="x")
    for name, array in arrays.items():
        reply.outputs.add(name=name, datatype=name, shape=array.shape)
        reply.raw_output_contents.append(blob(name, array))
    message: bytes = reply.SerializeToString()
    return message


@given(tensors(), st.permutations(list(DATATYPES)), st.integers(0, 2**40))
def test_a_request_says_what_protobuf_would_have_said(
    inputs: dict[str, np.ndarray], outputs: list[str], timeout_us: int
) -> None:
    said = service_pb2.ModelInferRequest.FromString(MESSAGES.request(inputs, outputs, timeout_us))
    assert (said.model_name, said.model_version) == ("fraud", "3")
    assert [(it.name, it.datatype, tuple(it.shape)) for it in said.inputs] == [
        (name, name, inputs[name].shape) for name in DATATYPES
    ]
    assert [it.name for it in said.outputs] == outputs
    assert list(said.raw_input_contents) == [blob(name, inputs[name]) for name in DATATYPES]
    assert said.parameters["timeout"].int64_param == timeout_us


@given(tensors(), st.permutations(list(DATATYPES)))
def test_a_reply_is_read_as_it_was_meant(arrays: dict[str, np.ndarray], outputs: list[str]) -> None:
    for name, got in zip(outputs, MESSAGES.reply(reply_of(arrays), outputs), strict=True):
        assert got.dtype == arrays[name].dtype
        assert got.shape == arrays[name].shape
        assert blob(name, got) == blob(name, arrays[name])
        assert got.flags.aligned


@given(st.data())
def test_whatever_comes_instead_of_a_reply_is_a_failure_of_the_model(data: st.DataObject) -> None:
    message = reply_of(data.draw(tensors()))
    cut = message[: data.draw(st.integers(0, len(message) - 1))] + data.draw(st.binary(max_size=8))
    try:
        MESSAGES.reply(cut, ["INT8"])
    except ModelFailed:
        return


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(), "no output 'INT8'"),
        (Reply(outputs=[Reply.InferOutputTensor(name="INT8", datatype="INT8", shape=[1, 1])]), "no data"),
        (Reply(outputs=[Reply.InferOutputTensor(name="INT8", datatype="FP32", shape=[1, 1])]), "said otherwise"),
        (
            Reply(
                outputs=[Reply.InferOutputTensor(name="INT8", datatype="INT8", shape=[1, 2])],
                raw_output_contents=[b"1"],
            ),
            "not what it says",
        ),
    ],
)
def test_a_reply_that_contradicts_itself_is_a_failure_of_the_model(reply: Reply, reason: str) -> None:
    with pytest.raises(ModelFailed, match=reason):
        MESSAGES.reply(reply.SerializeToString(), ["INT8"])


# -- shared memory

WIDE = Signature(
    (TensorSpec("x", "FP32", (-1, -1)), TensorSpec("text", "BYTES", (-1, -1))),
    (TensorSpec("y", "FP32", (-1, 1024)), TensorSpec("free", "FP32", (-1, -1))),
    is_batchable=True,
    max_rows=64,
)
ROWS = SHARED_FROM_BYTES // 4096


def inputs_of(rows: int) -> dict[str, np.ndarray]:
    text = np.full((rows, 1), b"?" * SHARED_FROM_BYTES, np.object_)
    return {"x": np.arange(rows * 1024, dtype=np.float32).reshape(rows, 1024), "text": text}


def test_what_is_large_and_has_a_size_is_shared_and_nothing_else() -> None:
    sharing, outputs = Sharing(WIDE), ["free", "y"]
    assert sharing.layout(inputs_of(ROWS - 1), outputs) is None
    layout = sharing.layout(inputs_of(ROWS), outputs)
    assert layout is not None
    assert layout.inputs == {"x": Span(0, SHARED_FROM_BYTES)}
    assert layout.outputs == {"y": Span(SHARED_FROM_BYTES, SHARED_FROM_BYTES)}
    assert layout.size == 2 * SHARED_FROM_BYTES


def test_without_rows_of_tritons_own_the_size_of_a_free_output_is_not_known() -> None:
    signature = Signature(WIDE.inputs, WIDE.outputs, is_batchable=True)
    layout = Sharing(signature).layout(inputs_of(ROWS), ["y"])
    assert layout is not None
    assert layout.outputs == {}


def test_spans_do_not_overlap_and_are_aligned() -> None:
    specs = tuple(TensorSpec(name, "INT8", (-1, -1)) for name in "abc")
    size = SHARED_FROM_BYTES + 1
    layout = Sharing(Signature(specs, specs, True, 8)).layout(
        {name: np.zeros((1, size), np.int8) for name in "abc"}, []
    )
    assert layout is not None
    assert [span.offset % 64 for span in layout.inputs.values()] == [0, 0, 0]
    ends = [span.offset + span.size for span in layout.inputs.values()]
    assert all(end <= span.offset for end, span in zip(ends, list(layout.inputs.values())[1:], strict=False))
    assert ends[-1] <= layout.size


def test_shared_tensors_are_not_sent_and_are_read_from_where_they_were_put() -> None:
    messages, inputs, outputs = Messages("wide", 0, WIDE), inputs_of(ROWS), ["y", "free"]
    layout = Sharing(WIDE).layout(inputs, outputs)
    assert layout is not None
    memory = memoryview(bytearray(layout.size))
    shared = Shared("region", layout.inputs, layout.outputs, memory)
    shared.write(inputs)
    said = service_pb2.ModelInferRequest.FromString(messages.request(inputs, outputs, 1, shared))
    assert len(said.raw_input_contents) == 1  # the text
    x, y = said.inputs[0].parameters, said.outputs[0].parameters
    for parameters, span in ((x, layout.inputs["x"]), (y, layout.outputs["y"])):
        assert parameters["shared_memory_region"].string_param == "region"
        assert parameters["shared_memory_offset"].int64_param == span.offset
        assert parameters["shared_memory_byte_size"].int64_param == span.size
    assert bytes(memory[: inputs["x"].nbytes]) == inputs["x"].tobytes()
    assert not said.inputs[1].parameters
    assert not said.outputs[1].parameters

    memory[layout.outputs["y"].offset :] = memory[: layout.outputs["y"].size]
    reply = Reply(raw_output_contents=[b"\0\0\0\0"])
    reply.outputs.add(name="y", datatype="FP32", shape=[ROWS, 1024])
    reply.outputs.add(name="free", datatype="FP32", shape=[1, 1])
    got, _ = messages.reply(reply.SerializeToString(), outputs, shared)
    memory[layout.outputs["y"].offset] = 99  # the next call's
    np.testing.assert_array_equal(got, inputs["x"])

    reply.outputs[0].shape[0] += 1
    with pytest.raises(ModelFailed, match="more than its configuration says"):
        messages.reply(reply.SerializeToString(), outputs, shared)
