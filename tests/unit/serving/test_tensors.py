"""Tensors in binary form, held against tritonclient's own serialisation."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from serving.errors import BadRequest, ModelFailed
from serving.tensors import COPY_LIMIT_BYTES, DATATYPES, decode_binary, encode_binary

BYTES = DATATYPES["BYTES"]
FP32 = DATATYPES["FP32"]


def objects(*values: object) -> np.ndarray:
    return np.array(values, np.object_)


def test_decoding_a_numeric_tensor_shares_the_body_s_memory():
    body = b"json" + np.arange(6, dtype=np.float32).tobytes()
    array = decode_binary("x", FP32, (2, 3), 6, body, 4)
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    np.testing.assert_array_equal(array, np.arange(6, dtype=np.float32).reshape(2, 3))


def test_encoding_a_large_tensor_shares_the_array_s_memory():
    array = np.zeros(COPY_LIMIT_BYTES, np.float32)
    assert np.shares_memory(np.frombuffer(encode_binary("y", FP32, array), np.uint8), array)


@pytest.mark.parametrize("size", [10, COPY_LIMIT_BYTES])
def test_encoding_follows_the_array_s_logical_order(size):
    array = np.arange(2 * size, dtype=np.float32).reshape(2, size).T
    assert bytes(encode_binary("y", FP32, array)) == np.ascontiguousarray(array).tobytes()


def test_bytes_elements_are_what_tritonclient_writes_and_reads():
    values = objects(b"", b"\x00\xff", "gr\u00fcn".encode(), b"a" * 300)
    encoded = serialize_byte_tensor(values).item()
    assert encode_binary("y", BYTES, values) == encoded
    assert decode_binary("x", BYTES, (2, 2), 4, encoded).ravel().tolist() == values.tolist()
    assert deserialize_bytes_tensor(encode_binary("y", BYTES, values)).tolist() == values.tolist()


def test_text_elements_are_sent_as_utf_8():
    assert encode_binary("y", BYTES, objects("é")) == b"\x02\0\0\0\xc3\xa9"


def test_an_array_element_that_looks_like_a_sequence_stays_one_element():
    array = decode_binary("x", BYTES, (1,), 1, b"\x02\0\0\0ab")
    assert array.shape == (1,)
    assert array[0] == b"ab"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too few"),
        (b"\x01\0\0\0a", "too few"),
        (b"\x09\0\0\0ab\0\0", "reaches beyond"),
        (b"\x04\0\0\0abcd\0\0", "reaches beyond"),
        (b"\x00\0\0\0\x00\0\0\0!", "1 bytes left over"),
    ],
)
def test_broken_bytes_tensors_are_refused(data, reason):
    with pytest.raises(BadRequest, match=reason):
        decode_binary("x", BYTES, (2,), 2, data)


def test_an_impossible_number_of_bytes_elements_is_refused_before_anything_is_built():
    with pytest.raises(BadRequest, match="too few"):
        decode_binary("x", BYTES, (2**40,), 2**40, b"\0" * 64)


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_size_that_does_not_fit_the_shape_is_refused_with_both(size):
    with pytest.raises(BadRequest, match=rf"'x' has {size} bytes.*\[2, 2\] of FP32 takes 16"):
        decode_binary("x", FP32, (2, 2), 4, b"\0" * size)


def test_a_bool_that_is_neither_0_nor_1_is_refused():
    with pytest.raises(BadRequest, match="neither 0 nor 1"):
        decode_binary("x", DATATYPES["BOOL"], (3,), 3, b"\0\x01\x02")


def test_an_output_of_another_type_than_promised_is_the_model_s_failure():
    with pytest.raises(ModelFailed, match=r"'y' is float64.*FP32"):
        encode_binary("y", FP32, np.zeros(1))
    with pytest.raises(ModelFailed, match="holds int instead of bytes"):
        encode_binary("y", BYTES, objects(1))
