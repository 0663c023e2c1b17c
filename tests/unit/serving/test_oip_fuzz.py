"""Hostile input: there is one reply, no exception, and the fault is the caller's (4xx, or its gRPC code).

The model itself always answers, so every refusal here is the protocol layer's.
"""

from __future__ import annotations

import gzip
import zlib

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from serving.exchange import HttpResponse
from serving.protocol import server_handler
from serving.signature import Signature, TensorSpec
from tests.unit.serving.scripted_model import (
    GRPC,
    NAME,
    VERSION,
    ScriptedModel,
    body_of,
    call,
    error_of,
    frame,
    grpc_status,
    handler_of,
    view,
)

SIGNATURE = Signature(
    (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "BYTES", (-1,)), TensorSpec("c", "UINT8", (-1, -1))),
    (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("z", "BYTES", (-1,)), TensorSpec("w", "UINT8", (-1, -1))),
    is_batchable=True,
)
HANDLER = handler_of(ScriptedModel(SIGNATURE))
SERVER = server_handler(view)
INFER = f"/v2/models/{NAME}/infer"

FUZZ = settings(max_examples=300, deadline=None)

DOCUMENT = {
    "id": "7",
    "parameters": {"binary_data_output": True, "priority": 1},
    "inputs": [
        {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [[1.5, 2]]},
        {"name": "b", "datatype": "BYTES", "shape": [1], "data": ["text"]},
        {"name": "c", "datatype": "UINT8", "shape": [1, 3], "parameters": {"binary_data_size": 3}},
    ],
    "outputs": [{"name": "y"}, {"name": "z", "parameters": {"binary_data": False}}],
}
KEYS = ["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id", "binary_data_size", "timeout"]
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
    | st.sampled_from(["a", "FP32", "BYTES", "x" * 1000]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.sampled_from(KEYS), children, max_size=4),
    max_leaves=12,
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *(b"content-encoding", b"accept-encoding", b"inference-header-content-length", b"grpc-timeout"),
            *(b"grpc-encoding", b"x-envoy-expected-rq-timeout-ms", b"content-type"),
        ]
    ),
    st.binary(max_size=12)
    | st.integers(0, 400).map(lambda number: b"%d" % number)
    | st.sampled_from([b"gzip", b"deflate", b"br", b"gzip;q=0.1,*", b"10S", b"application/grpc"]),
    max_size=3,
)
FLAWS = st.lists(st.tuples(st.integers(0, 2**31), st.sampled_from("dirtx"), st.binary(max_size=6)), max_size=4)


def flawed(body: bytes, flaws: list[tuple[int, str, bytes]]) -> bytes:
    """Delete, insert, repeat, truncate or overwrite, at places given by large numbers."""
    for place, what, data in flaws:
        at = place % (len(body) + 1)
        if what == "d":
            body = body[:at] + body[at + 1 + len(data) :]
        elif what == "i":
            body = body[:at] + data + body[at:]
        elif what == "r":
            body = body[:at] + body[max(0, at - 8) :]
        elif what == "t":
            body = body[:at]
        else:
            body = body[:at] + data + body[at + len(data) :]
    return body


def assert_caller_s_fault_or_answered(response: HttpResponse) -> None:
    if dict(response.headers).get(b"content-type") == b"application/grpc":
        if response.trailers is None:
            # INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED (too large), UNIMPLEMENTED
            assert grpc_status(response)[0] in (3, 5, 8, 12)
        return
    assert response.status < 500, body_of(response)
    if response.status != 200:
        assert error_of(response)


def replaced(document: object, path: list[int], value: object) -> object:
    """A copy in which the part at the end of `path` (indices, taken modulo what is there) is `value`."""
    if not path or not isinstance(document, dict | list) or not document:
        return value
    if isinstance(document, dict):
        key = sorted(document)[path[0] % len(document)]
        return document | {key: replaced(document[key], path[1:], value)}
    index = path[0] % len(document)
    return [*document[:index], replaced(document[index], path[1:], value), *document[index + 1 :]]


@FUZZ
@given(FLAWS, HEADERS, st.booleans())
def test_flawed_http_bodies_and_headers(flaws, headers, keeps_length):
    text = orjson.dumps(DOCUMENT)
    if keeps_length:
        headers = {b"inference-header-content-length": b"%d" % len(text)} | headers
    body = flawed(text + b"\1\2\3", flaws)
    assert_caller_s_fault_or_answered(call(HANDLER, "POST", INFER, body, headers))


@FUZZ
@given(st.lists(st.tuples(st.lists(st.integers(0, 100), max_size=5), JSON_VALUES), min_size=1, max_size=3))
def test_documents_with_other_values_in_them(changes):
    document: object = DOCUMENT
    for path, value in changes:
        document = replaced(document, path, value)
    text = orjson.dumps(document)
    headers = {b"inference-header-content-length": b"%d" % len(text)}
    assert_caller_s_fault_or_answered(call(HANDLER, "POST", INFER, text + b"\1\2\3", headers))
    assert_caller_s_fault_or_answered(call(HANDLER, "POST", INFER, text))
    assert_caller_s_fault_or_answered(call(HANDLER, "POST", "/v2/repository/index", text))


@FUZZ
@given(st.sampled_from(["gzip", "deflate"]), FLAWS)
def test_flawed_compressed_bodies(encoding, flaws):
    text = orjson.dumps(DOCUMENT) + b"\1\2\3"
    body = flawed(gzip.compress(text) if encoding == "gzip" else zlib.compress(text), flaws)
    headers = {b"content-encoding": encoding.encode(), b"inference-header-content-length": b"%d" % (len(text) - 3)}
    assert_caller_s_fault_or_answered(call(HANDLER, "POST", INFER, body, headers))


@FUZZ
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", ""]),
    st.lists(
        st.sampled_from(
            [
                *("v2", "models", NAME, "versions", VERSION, "infer", "ready", "config", "stats", "repository"),
                *("index", "health", "live", "ModelInfer", "ModelReady", "inference.GRPCInferenceService", "", "%2F"),
                *(
                    "grpc.health.v1.Health",
                    "Check",
                    "load",
                    "trace",
                    "setting",
                    "%",
                    "%zz",
                    "é",
                    "\0",
                    "..",
                    "x" * 5000,
                ),
            ]
        ),
        max_size=6,
    ),
    HEADERS,
    st.binary(max_size=30),
)
def test_paths_methods_and_bodies_of_any_kind(method, segments, headers, body):
    path = "/" + "/".join(segments)
    assert_caller_s_fault_or_answered(call(HANDLER, method, path, body, headers))
    known_but_not_here = f"/v2/models/{NAME}"  # which the control plane honestly answers with 503
    if not path.startswith(known_but_not_here):
        assert_caller_s_fault_or_answered(call(SERVER, method, path, body, headers))


def grpc_request() -> service_pb2.ModelInferRequest:
    message = service_pb2.ModelInferRequest(model_name=NAME, model_version=VERSION, id="7")
    message.inputs.add(name="a", datatype="FP32", shape=[1, 2])
    message.inputs.add(name="b", datatype="BYTES", shape=[1])
    message.inputs.add(name="c", datatype="UINT8", shape=[1, 3])
    message.raw_input_contents.extend([b"\0" * 8, b"\1\0\0\0x", b"\1\2\3"])
    message.outputs.add(name="y")
    message.parameters["timeout"].int64_param = 1_000_000
    return message


@FUZZ
@given(FLAWS, FLAWS, HEADERS)
def test_flawed_grpc_messages_frames_and_headers(message_flaws, frame_flaws, headers):
    message = flawed(grpc_request().SerializeToString(), message_flaws)
    body = flawed(frame(message), frame_flaws)
    headers = GRPC | {name: value for name, value in headers.items() if name != b"content-type"}
    for path in (f"/v2/models/{NAME}/ModelInfer", "/inference.GRPCInferenceService/ModelConfig"):
        assert_caller_s_fault_or_answered(call(HANDLER, "POST", path, body, headers))


PARAMETER = st.builds(service_pb2.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1)) | st.builds(
    service_pb2.InferParameter, string_param=st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)
PARAMETERS = st.dictionaries(
    st.sampled_from(["timeout", "priority", "sequence_id", "shared_memory_region", "classification", "mine"]),
    PARAMETER,
    max_size=2,
)
TENSOR = st.builds(
    service_pb2.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["a", "b", "c", "d", ""]),
    datatype=st.sampled_from(["FP32", "BYTES", "UINT8", "FP16", ""]),
    shape=st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**62, 2**63 - 1]), max_size=3),
    parameters=PARAMETERS,
    contents=st.builds(
        service_pb2.InferTensorContents,
        fp32_contents=st.lists(st.floats(width=32), max_size=3),
        uint_contents=st.lists(st.integers(0, 2**32 - 1), max_size=3),
        bytes_contents=st.lists(st.binary(max_size=5), max_size=2),
    ),
)


@FUZZ
@given(
    st.builds(
        service_pb2.ModelInferRequest,
        model_name=st.sampled_from([NAME, NAME, "other", ""]),
        model_version=st.sampled_from(["", VERSION, "9"]),
        inputs=st.lists(TENSOR, max_size=4),
        outputs=st.lists(
            st.builds(
                service_pb2.ModelInferRequest.InferRequestedOutputTensor,
                name=st.sampled_from(["y", "z", "v"]),
                parameters=PARAMETERS,
            ),
            max_size=2,
        ),
        parameters=PARAMETERS,
        raw_input_contents=st.lists(st.binary(max_size=12), max_size=4),
    )
)
def test_well_formed_messages_that_make_no_sense(message):
    path = f"/v2/models/{NAME}/ModelInfer"
    assert_caller_s_fault_or_answered(call(HANDLER, "POST", path, frame(message), GRPC))
