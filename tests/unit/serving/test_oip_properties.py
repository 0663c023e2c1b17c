"""Round trips: whatever tensors a client sends, in whatever form, the model gets them and the client gets them back.

The model echoes. Requests are tritonclient's, replies are read by tritonclient.
"""

from __future__ import annotations

import gzip
import zlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http
from tritonclient.grpc import service_pb2
from tritonclient.grpc._utils import _get_inference_request

from serving.compression import response_encoding
from serving.signature import Signature, TensorSpec
from serving.tensors import DATATYPES, decode_binary, encode_binary
from tests.unit.serving.scripted_model import (
    NAME,
    ScriptedModel,
    body_of,
    call,
    grpc_call,
    handler_of,
    header,
    message_of,
)

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
IDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ROUND_TRIPS = settings(max_examples=150, deadline=None)


@st.composite
def tensors(draw, for_json: bool) -> tuple[str, np.ndarray]:
    """A datatype and an array of it. `for_json`: only values that JSON can carry there and back."""
    names = [name for name, datatype in DATATYPES.items() if datatype.has_json_form or not for_json]
    name = draw(st.sampled_from(names))
    shape = draw(SHAPES)
    dtype = DATATYPES[name].dtype
    if name == "BYTES":
        element = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(str.encode)
        element = element if for_json else st.binary(max_size=8)
        count = int(np.prod(shape))
        array = np.empty(count, np.object_)
        array[:] = draw(st.lists(element, min_size=count, max_size=count))
        return name, array.reshape(shape)
    if for_json and dtype.kind == "f":
        return name, draw(hnp.arrays(dtype, shape, elements={"allow_nan": False, "allow_infinity": False}))
    if name == "BF16":  # any bits
        return name, np.asarray(draw(hnp.arrays(np.uint16, shape))).view(ml_dtypes.bfloat16)
    return name, np.asarray(draw(hnp.arrays(dtype, shape)))


@st.composite
def requests(draw) -> list[tuple[str, np.ndarray, bool, bool]]:
    """For each input: its datatype, its values, and whether it goes out and comes back as binary data."""
    request = []
    for _ in range(draw(st.integers(1, 3))):
        is_binary, returns_binary = draw(st.booleans()), draw(st.booleans())
        datatype, array = draw(tensors(for_json=not (is_binary and returns_binary)))
        request.append((datatype, array, is_binary, returns_binary))
    return request


def echo_of(given_tensors) -> ScriptedModel:
    """A model whose outputs are its inputs, axes free."""
    specs = [(datatype, (-1,) * array.ndim) for datatype, array, *_ in given_tensors]
    return ScriptedModel(
        Signature(
            tuple(TensorSpec(f"in{i}", datatype, shape) for i, (datatype, shape) in enumerate(specs)),
            tuple(TensorSpec(f"out{i}", datatype, shape) for i, (datatype, shape) in enumerate(specs)),
            is_batchable=False,
        )
    )


def assert_same(got: np.ndarray, sent: np.ndarray) -> None:
    assert got.shape == sent.shape
    if sent.dtype == np.object_:
        texts = [value.encode() if isinstance(value, str) else value for value in got.ravel().tolist()]
        assert texts == sent.ravel().tolist()
    else:
        assert got.astype(sent.dtype, copy=False).tobytes() == sent.tobytes()


@given(st.booleans(), st.data())
def test_every_tensor_survives_its_binary_form(shifted, data):
    name, array = data.draw(tensors(for_json=False))
    datatype = DATATYPES[name]
    start = 3 if shifted else 0
    body = b"\xff" * start + bytes(encode_binary("x", datatype, array))
    decoded = decode_binary("x", datatype, array.shape, array.size, body, start)
    assert decoded.dtype == array.dtype
    assert_same(decoded, array)


@ROUND_TRIPS
@given(
    requests(),
    IDS,
    st.sampled_from([None, "gzip", "deflate"]),
    st.sampled_from([b"", b"gzip", b"deflate", b"gzip, deflate, br", b"identity;q=0, *"]),
)
def test_http_round_trip(request_tensors, id, compressed_as, accept_encoding):
    model = echo_of(request_tensors)
    inputs, outputs = [], []
    for index, (datatype, array, is_binary, returns_binary) in enumerate(request_tensors):
        tensor = triton_http.InferInput(f"in{index}", list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=is_binary)
        inputs.append(tensor)
        outputs.append(triton_http.InferRequestedOutput(f"out{index}", binary_data=returns_binary))
    body, json_length = triton_http.InferenceServerClient.generate_request_body(inputs, outputs, request_id=id)
    headers = {b"accept-encoding": accept_encoding}
    if json_length is not None:
        headers[b"inference-header-content-length"] = b"%d" % json_length
    if compressed_as:
        body = gzip.compress(body) if compressed_as == "gzip" else zlib.compress(body)
        headers[b"content-encoding"] = compressed_as.encode()

    response = call(handler_of(model), "POST", f"/v2/models/{NAME}/infer", body, headers)

    assert response.status == 200, body_of(response)
    for index, (_, array, *_) in enumerate(request_tensors):
        assert_same(model.requests[0].inputs[f"in{index}"], array)
    encoding = header(response, b"content-encoding")
    assert encoding == response_encoding(accept_encoding)
    length = header(response, b"inference-header-content-length")
    assert (length is not None) is any(returns_binary for *_, returns_binary in request_tensors)
    result = triton_http.InferResult.from_response_body(
        body_of(response), header_length=length, content_encoding=encoding and encoding.decode()
    )
    assert result.get_response().get("id", "") == id
    for index, (_, array, *_) in enumerate(request_tensors):
        assert_same(result.as_numpy(f"out{index}"), array)


def grpc_message(request_tensors, id) -> service_pb2.ModelInferRequest:
    inputs = [
        triton_grpc.InferInput(f"in{index}", list(array.shape), datatype).set_data_from_numpy(array)
        for index, (datatype, array) in enumerate(request_tensors)
    ]
    return _get_inference_request(NAME, inputs, "", id, None, 0, False, False, 0, None, None)


@ROUND_TRIPS
@given(st.lists(tensors(for_json=False), min_size=1, max_size=3), IDS)
def test_grpc_raw_round_trip(request_tensors, id):
    model = echo_of(request_tensors)
    reply = message_of(
        grpc_call(handler_of(model), "ModelInfer", grpc_message(request_tensors, id)), service_pb2.ModelInferResponse
    )
    assert reply.id == id
    result = triton_grpc.InferResult(reply)
    for index, (_, array) in enumerate(request_tensors):
        assert_same(model.requests[0].inputs[f"in{index}"], array)
        assert_same(result.as_numpy(f"out{index}"), array)


CONTENTS = {"BOOL": "bool", "INT64": "int64", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes"}


@ROUND_TRIPS
@given(tensors(for_json=False).filter(lambda tensor: DATATYPES[tensor[0]].has_json_form))
def test_grpc_typed_round_trip(tensor):
    datatype, array = tensor
    field = CONTENTS.get(datatype) or ("uint" if datatype.startswith("U") else "int")
    message = service_pb2.ModelInferRequest(model_name=NAME)
    contents = {f"{field}_contents": array.ravel().tolist()}
    message.inputs.add(name="in0", datatype=datatype, shape=array.shape, contents=contents)
    model = echo_of([tensor])
    reply = message_of(grpc_call(handler_of(model), "ModelInfer", message), service_pb2.ModelInferResponse)
    got = triton_grpc.InferResult(reply).as_numpy("out0")
    if array.dtype.kind == "f":  # a signalling NaN may come back quiet
        np.testing.assert_array_equal(got, array)
    else:
        assert_same(got, array)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BYTES"])
def test_decoded_numeric_inputs_are_views_of_the_request(datatype):
    array = np.zeros((2, 3), DATATYPES[datatype].dtype)
    model = echo_of([(datatype, array)])
    tensor = triton_http.InferInput("in0", [2, 3], datatype)
    tensor.set_data_from_numpy(array)
    body, json_length = triton_http.InferenceServerClient.generate_request_body([tensor])
    headers = {b"inference-header-content-length": b"%d" % json_length}
    call(handler_of(model), "POST", f"/v2/models/{NAME}/infer", body, headers)
    decoded = model.requests[0].inputs["in0"]
    assert np.shares_memory(decoded.view(np.uint8), np.frombuffer(body, np.uint8))
    assert not decoded.flags.writeable
