"""Infer over HTTP, refused: every request that breaks the protocol or does not fit the model, and the words it gets."""

from __future__ import annotations

import zlib

import pytest

from tests.unit.serving.scripted_model import (
    NAME,
    TWO_INPUTS,
    ScriptedModel,
    call,
    error_of,
    handler_of,
    header,
    infer,
    one_tensor,
    x,
)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "the body is not valid JSON"),
        (b"{", "the body is not valid JSON"),
        (b"[NaN", "the body is not valid JSON"),
        (b"\xff\xfe", "the body is not valid JSON"),
        (b"[]", "the body must be a JSON object, got 'list'"),
        (b"null", "the body must be a JSON object"),
        (b"[" * 250_000 + b"]" * 250_000, "the body is not valid JSON"),
        (b'{"inputs":' + b"[" * 250_000 + b"NaN" + b"]" * 250_000 + b"}", "the body is not valid JSON"),
        ({}, "'inputs' must be an array, it is missing"),
        ({"inputs": {}}, "'inputs' must be an array, got {}"),
        ({"inputs": []}, "inputs are missing: 'x'"),
        ({"inputs": [1]}, "every input must be an object, got 1"),
        ({"inputs": [{}]}, "the name of an input must be a string, got None"),
        (x(name=7), "the name of an input must be a string, got 7"),
        (x(name="z"), "the model has no input 'z', its inputs are 'x'"),
        ({"inputs": x()["inputs"] * 2}, "input 'x' is given twice"),
        (x(datatype="FP64"), "input 'x' is FP32, got 'FP64'"),
        (x(datatype=None), "input 'x' is FP32, got None"),
        (x(shape=None), "'shape' must be an array, it is missing"),
        (x(shape=(1, 3), data=[1, 2, 3]), "input 'x' takes shape [-1, 2] (-1 is any size), got [1, 3]"),
        (x(shape=(2,)), "input 'x' takes shape [-1, 2] (-1 is any size), got [2]"),
        (x(shape=(-1, 2)), "got [-1, 2]"),
        (x(shape=(1.0, 2)), "got [1.0, 2]"),
        (x(shape=(True, 2)), "got [True, 2]"),
        (x(shape=("1", 2)), "got ['1', 2]"),
        (x(shape=(2**62, 2)), "input 'x': shape [4611686018427387904, 2] is too large"),
        (x(shape=(0, 2), data=[]), "the inputs have no rows"),
        (x(shape=(2, 2)), "input 'x' has 2 values, but shape [2, 2] takes 4"),
        (x(data="1"), "input 'x': 'data' must be an array, got '1'"),
        (x(data=["1", 2]), "input 'x': value 0 is '1', which is not FP32"),
        (x(data=[True, 1]), "input 'x': value 0 is True, which is not FP32"),
        (x(data=None), "input 'x' has neither 'data' nor 'binary_data_size'"),
        (x(parameters=7), "the parameters of an input must be an object, got 7"),
        (x(parameters={"a": [1]}), "parameter 'a' must be a string, a number or a boolean"),
        (x(parameters={"binary_data_size": 8}), "input 'x' has both 'data' and 'binary_data_size'"),
        (x(parameters={"shared_memory_region": "r"}), "input 'x': shared memory is not offered"),
        (x() | {"id": 7}, "'id' must be a string, got 7"),
        (x() | {"outputs": 7}, "'outputs' must be an array, got 7"),
        (x() | {"outputs": {}}, "'outputs' must be an array, got {}"),
        (x() | {"outputs": [7]}, "every requested output must be an object, got 7"),
        (x() | {"outputs": [{}]}, "the name of a requested output must be a string"),
        (x() | {"outputs": [{"name": "z"}]}, "the model has no output 'z', its outputs are 'y'"),
        (x() | {"outputs": [{"name": "y"}] * 2}, "output 'y' is requested twice"),
        (
            x() | {"outputs": [{"name": "y", "parameters": {"classification": 3}}]},
            "output 'y': 'classification' is not supported",
        ),
        (
            x() | {"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
            "output 'y': shared memory is not offered",
        ),
        (
            x() | {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
            "parameter 'binary_data' must be true or false",
        ),
        (x() | {"parameters": {"binary_data_output": "yes"}}, "parameter 'binary_data_output' must be true or false"),
        (x() | {"parameters": {"sequence_id": 5}}, "parameter 'sequence_id' is not supported"),
        (x() | {"parameters": {"sequence_start": True}}, "parameter 'sequence_start' is not supported"),
        (x() | {"parameters": {"timeout": -1}}, "parameter 'timeout' must be a whole number"),
        (x() | {"parameters": {"timeout": True}}, "parameter 'timeout' must be a whole number"),
        (x() | {"parameters": {"priority": "high"}}, "parameter 'priority' must be a whole number"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_what_was_wrong(document, reason):
    model = ScriptedModel()
    response = infer(handler_of(model), document)
    assert response.status == 400
    assert reason in error_of(response)
    assert model.requests == []


def test_a_shape_whose_product_overflows_is_refused():
    model = ScriptedModel(one_tensor("FP32", (-1, -1, -1, -1, -1)))
    for shape in ([2, 2, 2, 2, 2**60 + 2], [0, 2**62, 2**62, 1, 1]):
        assert "is too large" in error_of(infer(handler_of(model), x(shape=shape)))


@pytest.mark.parametrize(
    ("parameters", "blobs", "headers", "reason"),
    [
        ({"binary_data_size": 8}, b"\0" * 7, {}, "binary_data_size 8, but only 7 bytes of the body are left"),
        ({"binary_data_size": 8}, b"\0" * 9, {}, "1 bytes are left over after the binary data of the last input"),
        ({"binary_data_size": 4}, b"\0" * 4, {}, "has 4 bytes of data, but shape [1, 2] of FP32 takes 8"),
        ({"binary_data_size": -1}, b"\0" * 8, {}, "'binary_data_size' must be a whole number, got -1"),
        ({"binary_data_size": "8"}, b"\0" * 8, {}, "'binary_data_size' must be a whole number, got '8'"),
        ({"binary_data_size": True}, b"\0", {}, "'binary_data_size' must be a whole number, got True"),
        ({"binary_data_size": 2**63}, b"\0" * 8, {}, "only 8 bytes of the body are left"),
        ({"binary_data_size": 8}, b"", {}, "the header Inference-Header-Content-Length is missing"),
        ({}, b"\0" * 8, {}, "neither 'data' nor 'binary_data_size'"),
    ],
)
def test_binary_data_that_does_not_add_up_is_refused(parameters, blobs, headers, reason):
    document = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": parameters}]}
    response = infer(handler_of(ScriptedModel()), document, headers, blobs)
    assert response.status == 400
    assert reason in error_of(response)


@pytest.mark.parametrize("value", [b"", b"-1", b"1e3", b"0x10", b"1_0", b"9" * 30, b"99999", b" 5", b"\xb2"])
def test_a_json_length_that_cannot_be_is_refused(value):
    response = infer(handler_of(ScriptedModel()), x(), {b"inference-header-content-length": value})
    assert response.status == 400
    assert "Inference-Header-Content-Length" in error_of(response)


def test_inputs_must_have_the_same_number_of_rows():
    document = {
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
            {"name": "b", "datatype": "BYTES", "shape": [2], "data": ["1", "2"]},
        ]
    }
    response = infer(handler_of(ScriptedModel(TWO_INPUTS)), document)
    assert error_of(response) == ("all inputs must have the same number of rows (axis 0): 'a' has 1, 'b' has 2")


@pytest.mark.parametrize(
    ("signature", "body", "reason"),
    [
        (TWO_INPUTS, b"", "a raw binary request needs a model with 1 input, this one has 2"),
        (one_tensor("FP32", (-1, -1, -1), True), b"", "free axes cannot be deduced"),
        (one_tensor("BYTES", (-1, -1), True), b"", "free axes cannot be deduced"),
        (one_tensor("BYTES", (-1, 2), True), b"abc", "'x'"),
        (one_tensor("FP32", (-1, 2), True), b"\0" * 7, "takes 8"),
        (one_tensor("FP32", (-1, -1), True), b"\0" * 7, "takes 4"),
    ],
)
def test_raw_requests_that_leave_the_shape_open_are_refused(signature, body, reason):
    response = call(
        handler_of(ScriptedModel(signature)),
        "POST",
        f"/v2/models/{NAME}/infer",
        body,
        {b"inference-header-content-length": b"0"},
    )
    assert response.status == 400
    assert reason in error_of(response)


def test_an_unsupported_coding_is_answered_with_the_supported_ones():
    response = infer(handler_of(ScriptedModel()), x(), {b"content-encoding": b"br"})
    assert (response.status, header(response, b"accept-encoding")) == (415, b"gzip, deflate")
    assert "'br' is not supported" in error_of(response)


def test_a_compressed_body_may_not_grow_beyond_the_limit():
    response = infer(
        handler_of(ScriptedModel(), max_request_bytes=1000),
        zlib.compress(b" " * 100_000),
        {b"content-encoding": b"deflate"},
    )
    assert response.status == 413
    assert "larger than 1000 bytes" in error_of(response)


def test_infer_is_a_post():
    response = call(handler_of(ScriptedModel()), "GET", f"/v2/models/{NAME}/infer")
    assert (response.status, header(response, b"allow")) == (405, b"POST")
    assert "use POST" in error_of(response)
