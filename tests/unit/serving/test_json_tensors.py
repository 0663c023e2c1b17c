"""Tensors as JSON values: what fits a datatype and what does not."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import orjson
import pytest

from serving.errors import BadRequest
from serving.json_tensors import decode_json, encode_json, may_hold_booleans
from serving.tensors import DATATYPES


def decode(datatype, data, shape=None):
    shape = (len(data),) if shape is None else shape
    return decode_json("x", DATATYPES[datatype], shape, int(np.prod(shape)), data)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_integers_are_accepted_up_to_their_limits_and_refused_beyond(bits):
    for datatype, low, high in (
        (f"INT{bits}", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1),
        (f"UINT{bits}", 0, 2**bits - 1),
    ):
        assert decode(datatype, [low, high]).tolist() == [low, high]
        for value in (low - 1, high + 1):
            with pytest.raises(BadRequest, match=f"value 1 is {value}, which is not {datatype}"):
                decode(datatype, [0, value])


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT32", 1.5),
        ("INT32", 1.0),
        ("INT32", True),
        ("INT32", "1"),
        ("INT32", None),
        ("INT32", [1]),
        ("INT64", 1e30),
        ("FP32", True),
        ("FP32", "1.5"),
        ("FP32", None),
        ("FP32", {}),
        ("FP32", 1e39),
        ("FP64", "nan"),
        ("BOOL", 1),
        ("BOOL", "true"),
        ("BYTES", 1),
        ("BYTES", None),
        ("BYTES", "\ud800"),
    ],
)
def test_a_value_of_another_kind_is_refused(datatype, value):
    good = {"BOOL": False, "BYTES": "a"}.get(datatype, 0)
    with pytest.raises(BadRequest, match="'x'"):
        decode(datatype, [good, value])


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_cannot_be_sent_as_json(datatype):
    with pytest.raises(BadRequest, match=f"{datatype} cannot be sent as JSON numbers, use binary data"):
        decode(datatype, [1.0])


def test_whole_numbers_are_good_floats_and_non_finite_ones_too():
    np.testing.assert_array_equal(decode("FP32", [1, -inf, nan]), np.array([1, -inf, nan], np.float32))


@pytest.mark.parametrize(
    "data",
    [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]],
)
def test_data_may_be_flat_or_nested_like_the_shape(data):
    assert decode("INT32", data, (2, 3)).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    "data",
    [[[1, 2], [3, 4], [5, 6]], [[1, 2, 3], [4, 5]], [[1, 2, 3], 4], [[1, 2, 3, 4, 5, 6]], [[[1, 2, 3], [4, 5, 6]]]],
)
def test_data_nested_in_another_way_is_refused(data):
    with pytest.raises(BadRequest, match=r"does not match shape \[2, 3\]"):
        decode("INT32", data, (2, 3))


def test_the_wrong_number_of_values_is_refused_with_both_numbers():
    with pytest.raises(BadRequest, match=r"has 2 values, but shape \[3\] takes 3"):
        decode("INT32", [1, 2], (3,))


def test_a_scalar_may_come_bare_or_in_an_array():
    for data in (7, [7]):
        assert decode("INT32", data, ()).tolist() == 7
    with pytest.raises(BadRequest, match="must be an array"):
        decode("INT32", 7, (1,))


@pytest.mark.parametrize(("shape", "data"), [((0,), []), ((0, 3), []), ((2, 0), [[], []])])
def test_tensors_without_elements_are_tensors(shape, data):
    assert decode("FP32", data, shape).shape == shape


def test_a_text_without_true_or_false_cannot_hold_booleans():
    assert not may_hold_booleans(b'{"inputs":[{"name":"fuse","shape":[1],"data":[null,1.5e3]}]}')
    assert not may_hold_booleans(b"u s")
    assert may_hold_booleans(b"true")
    assert may_hold_booleans(b"false")
    assert may_hold_booleans(b"[" + b'"us",' * 3 + b"true]")
    assert may_hold_booleans(b"u" * 1000 + b"true")


def test_non_finite_outputs_become_null_so_that_the_reply_stays_json():
    encoded = encode_json("y", DATATYPES["FP32"], np.array([[1.5, nan], [inf, -inf]], np.float32))
    assert orjson.dumps(encoded, option=orjson.OPT_SERIALIZE_NUMPY) == b"[1.5,null,null,null]"


def test_outputs_that_are_not_utf_8_must_be_asked_for_as_binary_data():
    with pytest.raises(BadRequest, match="'y' holds bytes that are not UTF-8: ask for it as binary data"):
        encode_json("y", DATATYPES["BYTES"], np.array([b"\xff"], np.object_))
