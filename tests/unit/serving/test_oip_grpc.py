"""Infer over gRPC: with tritonclient's own request builder and reply reader where it has one, by hand elsewhere."""

from __future__ import annotations

import gzip
from math import inf

import numpy as np
import pytest
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult, service_pb2
from tritonclient.grpc._utils import _get_inference_request

from serving.errors import DeadlinePassed, ModelFailed, Overloaded, Unavailable
from serving.messages import InferReply
from serving.signature import Signature, TensorSpec
from tests.unit.serving.scripted_model import (
    GRPC,
    NAME,
    NOW_S,
    VERSION,
    ScriptedModel,
    call,
    error_of,
    frame,
    grpc_call,
    grpc_status,
    handler_of,
    header,
    message_of,
    one_tensor,
    raw_request,
)

X = np.array([[1.5, -2.0]], np.float32)

INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED = 3, 5, 12


def reply_of(response):
    return message_of(response, service_pb2.ModelInferResponse)


def typed_request(datatype, shape, **contents):
    message = service_pb2.ModelInferRequest(model_name=NAME, id="7")
    message.inputs.add(name="x", datatype=datatype, shape=shape, contents=contents)
    return message


def test_tritonclient_reads_back_what_it_sent():
    signature = Signature(
        (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "BYTES", (-1,))),
        (TensorSpec("c", "FP32", (-1, 2)), TensorSpec("d", "BYTES", (-1,))),
        is_batchable=True,
    )
    model = ScriptedModel(signature)
    a = InferInput("a", [1, 2], "FP32").set_data_from_numpy(X)
    b = InferInput("b", [1], "BYTES").set_data_from_numpy(np.array([b"\xff\0"], np.object_))
    message = _get_inference_request(
        model_name=NAME,
        inputs=[a, b],
        model_version=VERSION,
        request_id="request-7",
        outputs=[InferRequestedOutput("d"), InferRequestedOutput("c")],
        sequence_id=0,
        sequence_start=False,
        sequence_end=False,
        priority=1,
        timeout=1500,
        parameters={"s": "text", "i": 1, "f": 0.5, "b": True},
    )
    reply = reply_of(grpc_call(handler_of(model), "ModelInfer", message))
    assert (reply.model_name, reply.model_version, reply.id) == (NAME, VERSION, "request-7")
    assert [output.name for output in reply.outputs] == ["d", "c"]
    result = InferResult(reply)
    np.testing.assert_array_equal(result.as_numpy("c"), X)
    assert result.as_numpy("d").tolist() == [b"\xff\0"]
    assert model.requests[0].parameters == {
        "priority": 1,
        "timeout": 1500,
        "s": "text",
        "i": 1,
        "f": 0.5,
        "b": True,
    }
    assert model.deadlines_s == [pytest.approx(NOW_S + 0.0015)]


@pytest.mark.parametrize(
    ("datatype", "contents"),
    [
        ("BOOL", {"bool_contents": [True, False]}),
        ("INT8", {"int_contents": [-128, 127]}),
        ("INT16", {"int_contents": [-32768, 32767]}),
        ("INT32", {"int_contents": [-(2**31), 2**31 - 1]}),
        ("INT64", {"int64_contents": [-(2**63), 2**63 - 1]}),
        ("UINT8", {"uint_contents": [0, 255]}),
        ("UINT16", {"uint_contents": [0, 65535]}),
        ("UINT32", {"uint_contents": [0, 2**32 - 1]}),
        ("UINT64", {"uint64_contents": [0, 2**64 - 1]}),
        ("FP32", {"fp32_contents": [1.5, -inf]}),
        ("FP64", {"fp64_contents": [1e300, -0.0]}),
        ("BYTES", {"bytes_contents": [b"", b"\xff\0"]}),
    ],
)
def test_typed_contents_are_read_and_answered_raw(datatype, contents):
    model = ScriptedModel(one_tensor(datatype, (-1,)))
    reply = reply_of(grpc_call(handler_of(model), "ModelInfer", typed_request(datatype, [2], **contents)))
    (values,) = contents.values()
    assert InferResult(reply).as_numpy("y").tolist() == values
    assert not reply.outputs[0].HasField("contents")


def test_a_tensor_without_elements_needs_no_contents():
    model = ScriptedModel(one_tensor("FP32", (-1,)))
    reply = reply_of(grpc_call(handler_of(model), "ModelInfer", typed_request("FP32", [0])))
    assert InferResult(reply).as_numpy("y").shape == (0,)


@pytest.mark.parametrize(
    ("datatype", "contents", "reason"),
    [
        ("INT8", {"int_contents": [1, 128]}, "value 1 is 128, which is not INT8"),
        ("UINT8", {"uint_contents": [256, 0]}, "value 0 is 256, which is not UINT8"),
        ("UINT16", {"int_contents": [1, 2]}, "is UINT16, which travels in uint_contents, not int_contents"),
        ("INT64", {"int_contents": [1, 2]}, "travels in int64_contents, not int_contents"),
        ("FP32", {"fp32_contents": [1], "fp64_contents": [1]}, "travels in fp32_contents, not fp64_contents"),
        ("FP16", {"fp32_contents": [1, 2]}, "FP16 has no typed contents, use raw_input_contents"),
        ("BF16", {}, "BF16 has no typed contents, use raw_input_contents"),
        ("BYTES", {"bytes_contents": [b"a"]}, "has 1 values, but its shape takes 2"),
        ("FP32", {"fp32_contents": [1]}, "has 1 values, but shape [2] takes 2"),
        ("FP32", {}, "has 0 values, but shape [2] takes 2"),
    ],
)
def test_typed_contents_that_do_not_fit_are_refused(datatype, contents, reason):
    model = ScriptedModel(one_tensor(datatype, (-1,)))
    response = grpc_call(handler_of(model), "ModelInfer", typed_request(datatype, [2], **contents))
    code, message = grpc_status(response)
    assert code == INVALID_ARGUMENT
    assert reason in message.decode()


def spoiled(spoil):
    message = raw_request(x=X)
    spoil(message)
    return message


@pytest.mark.parametrize(
    ("spoil", "code", "reason"),
    [
        (lambda m: setattr(m, "model_name", "other"), NOT_FOUND, "unknown model 'other'"),
        (lambda m: setattr(m, "model_name", ""), NOT_FOUND, "unknown model ''"),
        (lambda m: setattr(m, "model_version", "9"), NOT_FOUND, "has no version '9' here, it has '3'"),
        (lambda m: m.inputs[0].contents.fp32_contents.append(1), INVALID_ARGUMENT, "raw_input_contents excludes"),
        (lambda m: m.raw_input_contents.append(b""), INVALID_ARGUMENT, "1 inputs but 2 raw_input_contents"),
        (lambda m: m.inputs.append(m.inputs[0]), INVALID_ARGUMENT, "2 inputs but 1 raw_input_contents"),
        (
            lambda m: (m.inputs.append(m.inputs[0]), m.raw_input_contents.append(X.tobytes())),
            INVALID_ARGUMENT,
            "input 'x' is given twice",
        ),
        (lambda m: m.ClearField("inputs"), INVALID_ARGUMENT, "0 inputs but 1 raw_input_contents"),
        (
            lambda m: (m.ClearField("inputs"), m.ClearField("raw_input_contents")),
            INVALID_ARGUMENT,
            "inputs are missing: 'x'",
        ),
        (lambda m: setattr(m.inputs[0], "name", "z"), INVALID_ARGUMENT, "the model has no input 'z'"),
        (lambda m: setattr(m.inputs[0], "datatype", "FP64"), INVALID_ARGUMENT, "input 'x' is FP32, got 'FP64'"),
        (
            lambda m: m.inputs[0].shape.append(1),
            INVALID_ARGUMENT,
            "takes shape [-1, 2] (-1 is any size), got [1, 2, 1]",
        ),
        (lambda m: m.inputs[0].shape.__setitem__(0, -1), INVALID_ARGUMENT, "got [-1, 2]"),
        (lambda m: m.inputs[0].shape.__setitem__(0, 2**62), INVALID_ARGUMENT, "is too large"),
        (lambda m: m.inputs[0].shape.__setitem__(0, 2), INVALID_ARGUMENT, "has 8 bytes of data"),
        (lambda m: m.outputs.add(name="z"), INVALID_ARGUMENT, "the model has no output 'z'"),
        (lambda m: (m.outputs.add(name="y"), m.outputs.add(name="y")), INVALID_ARGUMENT, "requested twice"),
        (
            lambda m: m.outputs.add(name="y").parameters["classification"].MergeFrom(number(3)),
            INVALID_ARGUMENT,
            "'classification' is not supported",
        ),
        (
            lambda m: m.outputs.add(name="y").parameters["shared_memory_region"].MergeFrom(number(1)),
            INVALID_ARGUMENT,
            "shared memory is not offered",
        ),
        (
            lambda m: m.inputs[0].parameters["shared_memory_region"].MergeFrom(number(1)),
            INVALID_ARGUMENT,
            "shared memory is not offered",
        ),
        (
            lambda m: m.parameters["sequence_id"].MergeFrom(number(1)),
            INVALID_ARGUMENT,
            "'sequence_id' is not supported",
        ),
        (lambda m: m.parameters["timeout"].MergeFrom(number(-1)), INVALID_ARGUMENT, "'timeout' must be"),
        (lambda m: m.parameters["empty"], INVALID_ARGUMENT, "parameter 'empty' has no value"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_what_was_wrong(spoil, code, reason):
    model = ScriptedModel()
    response = grpc_call(handler_of(model), "ModelInfer", spoiled(spoil))
    got, message = grpc_status(response)
    assert (got, reason in message.decode()) == (code, True), message
    assert model.requests == []


def number(value):
    return service_pb2.InferParameter(int64_param=value)


def test_bytes_that_are_no_message_are_refused():
    code, message = grpc_status(grpc_call(handler_of(ScriptedModel()), "ModelInfer", b"\xff" * 20))
    assert (code, message) == (INVALID_ARGUMENT, b"the message is not a valid inference.ModelInferRequest")


def test_the_grpc_timeout_is_a_deadline_and_the_earliest_counts():
    model = ScriptedModel()
    for headers in ({b"grpc-timeout": b"250m"}, {b"grpc-timeout": b"9S", b"x-envoy-expected-rq-timeout-ms": b"250"}):
        grpc_call(handler_of(model), "ModelInfer", raw_request(x=X), headers)
    grpc_call(handler_of(model), "ModelInfer", raw_request(x=X))
    assert model.deadlines_s == [pytest.approx(NOW_S + 0.25), pytest.approx(NOW_S + 0.25), inf]


def test_a_malformed_grpc_timeout_is_refused():
    response = grpc_call(handler_of(ScriptedModel()), "ModelInfer", raw_request(x=X), {b"grpc-timeout": b"soon"})
    assert grpc_status(response)[0] == INVALID_ARGUMENT


def test_a_compressed_request_is_answered_uncompressed():
    text = gzip.compress(raw_request(x=X).SerializeToString())
    body = b"\1" + len(text).to_bytes(4, "big") + text
    response = call(
        handler_of(ScriptedModel()),
        "POST",
        "/inference.GRPCInferenceService/ModelInfer",
        body,
        GRPC | {b"grpc-encoding": b"gzip"},
    )
    np.testing.assert_array_equal(InferResult(reply_of(response)).as_numpy("y"), X)


@pytest.mark.parametrize(
    ("error", "code", "extra"),
    [
        (Overloaded("the queue is full"), 8, (b"retry-after", b"1")),
        (Unavailable("model 'fraud' is draining"), 14, (b"x-crossfade-retry", b"1")),
        (DeadlinePassed("too late"), 4, None),
        (ModelFailed("Gather index out of range"), 13, None),
    ],
)
def test_the_model_s_errors_keep_their_words_and_get_their_code(error, code, extra):
    response = grpc_call(handler_of(ScriptedModel(answer=lambda _: error)), "ModelInfer", raw_request(x=X))
    assert grpc_status(response) == (code, str(error).encode())
    assert (extra is None) or (extra in response.headers)


def test_the_head_that_is_kept_for_a_shape_is_not_mixed_up_between_shapes_and_requests():
    handler = handler_of(ScriptedModel())
    for rows, sent in [(1, ""), (2, "b"), (1, "c"), *((rows, f"{rows}") for rows in range(1, 400)), (1, "é" * 200)]:
        values = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
        message = raw_request(x=values)
        message.id = sent
        reply = reply_of(grpc_call(handler, "ModelInfer", message))
        assert (reply.id, reply.model_name, reply.model_version) == (sent, NAME, VERSION)
        np.testing.assert_array_equal(InferResult(reply).as_numpy("y"), values)


@pytest.mark.parametrize("elements", [31, 32, 4096, 2**19])
def test_replies_of_any_length_are_whole(elements):
    values = np.arange(elements, dtype=np.float32).reshape(-1, elements)
    model = ScriptedModel(one_tensor("FP32", (-1, -1), is_batchable=True))
    reply = reply_of(grpc_call(handler_of(model, 1 << 22), "ModelInfer", raw_request(x=values)))
    np.testing.assert_array_equal(InferResult(reply).as_numpy("y"), values)


@pytest.mark.parametrize(
    "path",
    [
        f"/v2/models/{NAME}/ModelInfer",
        f"/v2/models/{NAME}/versions/{VERSION}/ModelInfer",
        "/inference.GRPCInferenceService/ModelInfer",
    ],
)
def test_infer_is_found_under_the_service_s_path_and_under_the_gateway_s(path):
    assert reply_of(grpc_call(handler_of(ScriptedModel()), "", raw_request(x=X), path=path)).outputs[0].name == "y"


def test_a_grpc_path_without_grpc_s_content_type_is_a_415():
    response = call(handler_of(ScriptedModel()), "POST", f"/v2/models/{NAME}/ModelInfer", frame(raw_request(x=X)))
    assert response.status == 415
    assert "content-type is application/grpc" in error_of(response)


def test_a_grpc_call_is_a_post():
    response = call(handler_of(ScriptedModel()), "GET", f"/v2/models/{NAME}/ModelInfer", b"", GRPC)
    assert grpc_status(response)[0] == UNIMPLEMENTED
    assert header(response, b"grpc-accept-encoding") is not None


def test_an_output_that_cannot_be_encoded_is_the_model_s_failure_and_no_exception(caplog):
    def answer(request):
        return InferReply(NAME, VERSION, request.id, [("y", "COMPLEX", np.zeros((1, 2)))])

    response = grpc_call(handler_of(ScriptedModel(answer=answer)), "ModelInfer", raw_request(x=X))
    assert grpc_status(response)[0] == 13
    assert "outputs could not be encoded" in caplog.text


def test_a_mistake_of_ours_while_a_request_is_decoded_is_internal_and_no_exception(caplog):
    model = ScriptedModel()
    model.signature = None  # what the decoder cannot work with
    response = grpc_call(handler_of(model), "ModelInfer", raw_request(x=X))
    assert grpc_status(response)[0] == 13
    assert "a request could not be decoded" in caplog.text
