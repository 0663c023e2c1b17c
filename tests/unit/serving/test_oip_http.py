"""Infer over HTTP: with tritonclient's own request builder and reply reader where it has one, by hand elsewhere."""

from __future__ import annotations

import gzip
import zlib
from math import inf

import ml_dtypes
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from serving.errors import (
    BadRequest,
    DeadlinePassed,
    ModelFailed,
    Overloaded,
    ScoringError,
    Unavailable,
)
from serving.exchange import HttpRequest
from serving.messages import InferReply
from serving.signature import Signature, TensorSpec
from tests.unit.serving.scripted_model import (
    NAME,
    NOW_S,
    TWO_INPUTS,
    VERSION,
    ScriptedModel,
    body_of,
    call,
    error_of,
    handler_of,
    header,
    infer,
    json_of,
    one_tensor,
    x,
)

A = np.array([[1.5, -2.0], [3.25, 4.0]], np.float32)
B = np.array([b"one", "zw\u00f6lf".encode()], np.object_)


def triton_inputs(binary_a=True, binary_b=True):
    a = InferInput("a", [2, 2], "FP32")
    a.set_data_from_numpy(A, binary_data=binary_a)
    b = InferInput("b", [2], "BYTES")
    b.set_data_from_numpy(B, binary_data=binary_b)
    return [a, b]


def triton_call(handler, inputs, headers=None, compressed_as=None, **request):
    """What tritonclient.http sends (without a content type), and its own reading of the reply."""
    body, json_length = InferenceServerClient.generate_request_body(inputs, **request)
    headers = dict(headers or {})
    if json_length is not None:
        headers[b"inference-header-content-length"] = str(json_length).encode()
    if compressed_as == "gzip":
        body, headers[b"content-encoding"] = gzip.compress(body), b"gzip"
    elif compressed_as == "deflate":
        body, headers[b"content-encoding"] = zlib.compress(body), b"deflate"
    response = call(handler, "POST", f"/v2/models/{NAME}/infer", body, headers)
    assert response.status == 200, body_of(response)
    length = header(response, b"inference-header-content-length")
    encoding = header(response, b"content-encoding")
    return response, InferResult.from_response_body(
        body_of(response), header_length=length and int(length), content_encoding=encoding and encoding.decode()
    )


@pytest.mark.parametrize("binary_a", [True, False])
@pytest.mark.parametrize("binary_b", [True, False])
@pytest.mark.parametrize("binary_c", [True, False])
@pytest.mark.parametrize("compressed_as", [None, "gzip", "deflate"])
@pytest.mark.parametrize("accept_encoding", [None, b"gzip", b"deflate", b"gzip, deflate, br"])
def test_tritonclient_reads_back_what_it_sent_in_every_form(
    binary_a, binary_b, binary_c, compressed_as, accept_encoding
):
    outputs = [InferRequestedOutput("d"), InferRequestedOutput("c", binary_data=binary_c)]
    response, result = triton_call(
        handler_of(ScriptedModel(TWO_INPUTS)),
        triton_inputs(binary_a, binary_b),
        {b"accept-encoding": accept_encoding} if accept_encoding else {},
        compressed_as,
        outputs=outputs,
    )
    np.testing.assert_array_equal(result.as_numpy("c"), A)
    assert result.as_numpy("d").tolist() == B.tolist()
    chosen = accept_encoding if accept_encoding in (b"gzip", b"deflate") else None
    assert header(response, b"content-encoding") == chosen


def test_tritonclient_asks_for_all_outputs_as_binary_data_by_default():
    response, result = triton_call(
        handler_of(ScriptedModel(TWO_INPUTS)), triton_inputs(), request_id="request-7", parameters={"flavour": "plain"}
    )
    assert header(response, b"content-type") == b"application/octet-stream"
    document = result.get_response()
    assert document["id"] == "request-7"
    assert (document["model_name"], document["model_version"]) == (NAME, VERSION)
    assert [output["parameters"] for output in document["outputs"]] == [
        {"binary_data_size": 16},
        {"binary_data_size": 17},
    ]


def test_a_json_request_gets_a_json_reply_with_flat_data():
    response = infer(handler_of(ScriptedModel()), x((1, 2.5, 3, 4), (2, 2)) | {"id": "7"})
    assert header(response, b"content-type") == b"application/json"
    assert header(response, b"inference-header-content-length") is None
    assert json_of(response) == {
        "model_name": NAME,
        "model_version": VERSION,
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.5, 3.0, 4.0]}],
    }


def test_framing_headers_are_left_to_the_listener():
    response = infer(handler_of(ScriptedModel()), x())
    assert header(response, b"content-length") is None


def test_an_id_that_was_not_sent_is_not_made_up():
    assert "id" not in json_of(infer(handler_of(ScriptedModel()), x()))


def test_the_nan_that_tritonclient_writes_is_read():
    model = ScriptedModel()
    tensor = InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.array([[np.nan, -np.inf]], np.float32), binary_data=False)
    _, result = triton_call(handler_of(model), [tensor])
    np.testing.assert_array_equal(result.as_numpy("y"), [[np.nan, -np.inf]])


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_travels_as_binary_data_only(datatype):
    dtype = np.float16 if datatype == "FP16" else ml_dtypes.bfloat16
    values = np.array([[1.5, -2]], dtype)
    model = ScriptedModel(one_tensor(datatype, (-1, 2)))
    tensor = InferInput("x", [1, 2], datatype)
    tensor.set_data_from_numpy(values)
    _, result = triton_call(handler_of(model), [tensor])
    assert result.as_numpy("y").tobytes() == values.tobytes()
    refused = infer(handler_of(model), x(datatype=datatype) | {"parameters": {"binary_data_output": True}})
    assert error_of(refused) == f"input 'x': {datatype} cannot be sent as JSON numbers, use binary data"


@pytest.mark.parametrize("outputs", [None, [{"name": "y"}], [{"name": "y", "parameters": {"binary_data": False}}]])
def test_a_half_precision_output_as_json_is_refused_before_the_model_runs(outputs):
    model = ScriptedModel(
        Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP16", (-1, 2)),), is_batchable=True)
    )
    response = infer(handler_of(model), x() | ({"outputs": outputs} if outputs else {}))
    assert response.status == 400
    assert error_of(response) == "output 'y' is FP16, which JSON cannot carry: ask for it with 'binary_data': true"
    assert model.requests == []


def test_a_raw_request_is_the_only_input_s_data_and_all_outputs_are_binary():
    model = ScriptedModel(one_tensor("FP32", (-1, -1, 2), is_batchable=True))
    body = np.arange(6, dtype=np.float32).tobytes()
    response = call(
        handler_of(model), "POST", f"/v2/models/{NAME}/infer", body, {b"inference-header-content-length": b"0"}
    )
    length = int(header(response, b"inference-header-content-length"))
    result = InferResult.from_response_body(body_of(response), header_length=length)
    np.testing.assert_array_equal(result.as_numpy("y"), np.arange(6, dtype=np.float32).reshape(1, 3, 2))


def test_a_raw_bytes_request_is_one_element():
    model = ScriptedModel(one_tensor("BYTES", (-1, 1), is_batchable=True))
    call(handler_of(model), "POST", f"/v2/models/{NAME}/infer", b"%PDF\0", {b"inference-header-content-length": b"0"})
    assert model.requests[0].inputs["x"].tolist() == [[b"%PDF\0"]]


def test_more_rows_than_a_batch_holds_are_no_mistake():
    model = ScriptedModel()
    assert infer(handler_of(model), x([0.0] * 400, (200, 2))).status == 200
    assert model.requests[0].inputs["x"].shape == (200, 2)


def test_requested_outputs_are_passed_on_in_order_with_their_form():
    model = ScriptedModel(TWO_INPUTS)
    triton_call(
        handler_of(model),
        triton_inputs(),
        outputs=[InferRequestedOutput("d"), InferRequestedOutput("c", binary_data=False)],
    )
    assert [(output.name, output.binary) for output in model.requests[0].outputs] == [("d", True), ("c", False)]


def test_an_output_s_own_setting_overrides_the_request_s():
    model = ScriptedModel(TWO_INPUTS)
    body, _ = InferenceServerClient.generate_request_body(triton_inputs(False, False))
    assert b"binary_data_output" in body
    body = body[:-1] + b',"outputs":[{"name":"c"},{"name":"d","parameters":{"binary_data":false}}]}'
    document_length = int(
        header(infer(handler_of(model), body), b"inference-header-content-length")
    )  # one output was binary
    assert document_length > 0
    assert [(output.name, output.binary) for output in model.requests[0].outputs] == [("c", True), ("d", False)]


def test_parameters_are_parsed_and_unknown_ones_ignored():
    model = ScriptedModel()
    parameters = {"priority": 1, "timeout": 0, "sequence_id": 0, "triton_x": "y", "mine": 1.5}
    assert infer(handler_of(model), x() | {"parameters": parameters, "model_name": NAME}).status == 200
    assert model.requests[0].parameters == parameters


@pytest.mark.parametrize(
    ("headers", "parameters", "limit_s"),
    [
        ({}, {}, inf),
        ({b"x-envoy-expected-rq-timeout-ms": b"250"}, {}, 0.25),
        ({b"x-envoy-expected-rq-timeout-ms": b"0"}, {}, inf),
        ({}, {"timeout": 1500}, 0.0015),
        ({}, {"timeout": 0}, inf),
        ({b"x-envoy-expected-rq-timeout-ms": b"250"}, {"timeout": 2_000_000}, 0.25),
        ({b"x-envoy-expected-rq-timeout-ms": b"9000"}, {"timeout": 2_000_000}, 2),
    ],
)
def test_the_deadline_is_the_earliest_that_anybody_set(headers, parameters, limit_s):
    model = ScriptedModel()
    infer(handler_of(model), x() | {"parameters": parameters}, headers)
    assert model.deadlines_s == [pytest.approx(NOW_S + limit_s)]


def test_an_unreadable_timeout_header_is_refused():
    response = infer(handler_of(ScriptedModel()), x(), {b"x-envoy-expected-rq-timeout-ms": b"soon"})
    assert response.status == 400


@pytest.mark.parametrize(
    ("error", "status", "extra"),
    [
        (Overloaded("the queue is full"), 429, (b"retry-after", b"1")),
        (Unavailable("model 'fraud' is draining"), 503, (b"x-crossfade-retry", b"1")),
        (DeadlinePassed("too late"), 504, None),
        (ModelFailed("Gather index out of range"), 424, None),
        (BadRequest("é" * 5000), 400, None),
    ],
)
def test_the_model_s_errors_keep_their_words_and_get_their_status(error, status, extra):
    response = infer(handler_of(ScriptedModel(answer=lambda _: error)), x())
    assert response.status == status
    assert error_of(response) == str(error)[:1000]
    assert (extra is None) or (extra in response.headers)
    assert (header(response, b"x-crossfade-retry") is not None) is isinstance(error, Unavailable)


@pytest.mark.parametrize(
    "path",
    [
        f"/v2/models/{NAME}/infer",
        f"/v2/models/{NAME}/infer/",
        f"/v2/models/{NAME}/versions/{VERSION}/infer",
        "/v2/models/f%72aud/infer",
    ],
)
def test_infer_is_found_under_all_its_paths(path):
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}'
    assert call(handler_of(ScriptedModel()), "POST", path, body).status == 200


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/v2/models/other/infer", "unknown model 'other'"),
        (f"/v2/models/{NAME}/versions/9/infer", "model 'fraud' has no version '9' here, it has '3'"),
    ],
)
def test_another_model_or_version_is_not_found(path, reason):
    response = call(handler_of(ScriptedModel()), "POST", path, b"{}")
    assert response.status == 404
    assert error_of(response) == reason


def test_a_client_that_is_gone_cancels_its_work():
    model = ScriptedModel(hold=True)
    replies: list[object] = []
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}'
    request = HttpRequest(b"POST", f"/v2/models/{NAME}/infer".encode(), {}, body)
    cancel = handler_of(model)(request, replies.append)
    assert replies == []
    assert cancel is not None
    cancel()
    assert model.cancelled == 1


def test_an_output_that_cannot_be_encoded_is_the_model_s_failure_and_no_exception():
    def answer(request) -> InferReply | ScoringError:
        return InferReply(NAME, VERSION, request.id, [("y", "FP32", np.zeros((1, 2)))])

    response = infer(handler_of(ScriptedModel(answer=answer)), x())
    assert response.status == 424
    assert "'y' is float64, but its signature says FP32" in error_of(response)


def test_a_model_that_answers_nonsense_cannot_end_the_batch_loop(caplog):
    def answer(request) -> InferReply | ScoringError:
        return InferReply(NAME, VERSION, request.id, [("y", "COMPLEX", np.zeros((1, 2)))])

    response = infer(handler_of(ScriptedModel(answer=answer)), x())
    assert response.status == 424
    assert "could not be encoded" in error_of(response)
    assert "outputs could not be encoded" in caplog.text


def test_a_mistake_of_ours_while_a_request_is_decoded_is_a_500_and_no_exception(caplog):
    model = ScriptedModel()
    model.signature = None  # what the decoder cannot work with
    response = infer(handler_of(model), x())
    assert response.status == 500
    assert "could not be decoded (AttributeError)" in error_of(response)
    assert "a request could not be decoded" in caplog.text
