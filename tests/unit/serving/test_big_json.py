"""The fast path for big JSON: whatever it answers, the usual path answers the same; in doubt it answers nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.big_json import BIG_BYTES, BigJson
from serving.json_tensors import decode_json
from serving.tensors import DATATYPES
from tests.unit.serving.scripted_model import ROWS_OF_TWO, ScriptedModel, error_of, handler_of, infer, json_of, x

pytest.importorskip("simdjson")  # there is no wheel for every platform; without one, the usual path does it all

NUMBERS = [name for name, datatype in DATATYPES.items() if datatype.json_format]


def text_of(data: object, datatype: str = "FP32", shape: object = (1,), **more: object) -> bytes:
    return orjson.dumps({"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data}], **more})


@pytest.mark.parametrize("datatype", NUMBERS)
def test_flat_numbers_become_an_array_of_the_datatype(datatype: str) -> None:
    document = BigJson().parse(text_of([1, 2, 3], datatype, id="7", outputs=[{"name": "y"}], parameters={"a": 1}))
    assert document is not None
    data = document["inputs"][0].pop("data")
    assert data.dtype == DATATYPES[datatype].dtype
    assert data.tolist() == [1, 2, 3]
    assert document == {
        "inputs": [{"name": "x", "datatype": datatype, "shape": [1]}],
        "id": "7",
        "outputs": [{"name": "y"}],
        "parameters": {"a": 1},
    }


@pytest.mark.parametrize("shape", [(1, 2, 3), (6,), (3, 2), (2, 1, 3, 1), (1, 6)])
def test_data_nested_like_the_shape_is_the_same_as_flat_data(shape: tuple[int, ...]) -> None:
    values = np.arange(6.0, dtype=np.float32)
    for data in (values.tolist(), values.reshape(shape).tolist()):
        document = BigJson().parse(text_of(data, shape=shape))
        assert document is not None
        np.testing.assert_array_equal(document["inputs"][0]["data"], values)


@pytest.mark.parametrize(
    "text",
    [
        b"[1]",
        b"3",
        b"{",
        b'{"inputs": 3}',
        b'{"inputs": [3]}',
        b"\xff" + text_of([1]),
        text_of([1.0, float("nan")]),  # null
        text_of([1]).replace(b"[1]}", b"[NaN]}"),
        text_of([True]),
        text_of(["1"]),
        text_of([{"a": 1}]),
        text_of([[1], [2]]),
        text_of([1, [2]]),
        text_of([[1, 2], []]),
        text_of([1, [2, 3], []]),
        text_of([[1, 2], []], shape=[2, 1]),
        text_of([[1, 2, 3], [4]], shape=[2, 2]),
        text_of([[1, 2], [3, [4]]], shape=[2, 2]),
        text_of([[[1], [2]], [3, 4]], shape=[2, 2, 1]),
        text_of([[1, 2], [3, 4]], shape=[1, 2, 2]),
        text_of([[[1, 2], [3, 4]]], shape=[2, 2]),
        text_of([[1], 2], shape=[2, 1]),
        text_of([1, 2], shape="ab"),
        text_of([1, 2], shape=3),
        text_of([1, 2], name="["),
        text_of([1e300]),  # beyond FP32
        text_of([1.5], "INT32"),
        text_of([1.0], "INT64"),
        text_of([128], "INT8"),
        text_of([-1], "UINT64"),
        text_of([2**63], "INT64"),
        text_of([True], "BOOL"),
        text_of(["a"], "BYTES"),
        text_of([1.0], "FP16"),
        text_of([1.0], "FP128"),
        text_of([]),
        text_of([[]], shape=[1, 2, 3]),
        text_of([[1, 2], [3, 4]], shape={"a": 2, "b": 2}),
        text_of(True, shape=[]),
    ],
)
def test_in_doubt_the_usual_path_decides(text: bytes) -> None:
    assert BigJson().parse(text) is None


VALUES = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-300, 300),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.lists(st.integers(0, 3), max_size=3),
)


@given(
    st.one_of(st.lists(st.integers(-300, 300)), st.lists(st.floats(width=32)), st.lists(VALUES)),
    st.sampled_from(NUMBERS),
)
@settings(deadline=None, max_examples=400)
def test_what_it_answers_is_what_the_usual_path_answers(data: list[Any], datatype: str) -> None:
    try:
        text = text_of(data, datatype)
    except TypeError:  # an integer that orjson does not write
        text = text_of([2**63], datatype)
    document = BigJson().parse(text)
    if document is None:
        return
    usual = orjson.loads(text)["inputs"][0]["data"]
    expected = decode_json("x", DATATYPES[datatype], (len(usual),), len(usual), usual)
    got = document["inputs"][0]["data"]
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
)


@given(JSON, JSON | st.lists(st.integers(0, 3)), JSON | st.sampled_from(NUMBERS))
@settings(deadline=None, max_examples=400)
def test_nothing_that_a_client_sends_escapes_as_an_exception(data: Any, shape: Any, datatype: Any) -> None:
    document = BigJson().parse(orjson.dumps({"inputs": [{"datatype": datatype, "shape": shape, "data": data}]}))
    assert document is None or isinstance(document["inputs"][0]["data"], np.ndarray)


def test_of_equal_keys_the_usual_path_chooses() -> None:
    assert BigJson().parse(b'{"id": "1", "id": "2", "inputs": []}') is None
    assert BigJson().parse(b'{"inputs": [{"datatype": "FP32", "datatype": "INT8", "data": [2]}]}') is None


def test_a_parser_serves_one_request_after_the_other_and_a_failed_one_harms_none() -> None:
    json = BigJson()
    kept = []
    for value in range(50):
        kept.append(json.parse(text_of([value, value + 1])))
        assert json.parse(text_of([value, "no"])) is None
    for value, document in enumerate(kept):
        assert document is not None
        assert document["inputs"][0]["data"].tolist() == [value, value + 1]


def test_big_requests_are_answered_and_refused_in_the_same_words_as_small_ones() -> None:
    model = ScriptedModel(ROWS_OF_TWO)
    handler = handler_of(model)
    rows = BIG_BYTES // 8
    values = np.arange(2 * rows, dtype=np.float32)
    reply = infer(handler, x(values.tolist(), [rows, 2]))
    assert json_of(reply)["outputs"][0]["data"] == values.tolist()
    nested = infer(handler, x(values.reshape(rows, 2).tolist(), [rows, 2]))
    assert json_of(nested)["outputs"][0]["data"] == values.tolist()
    assert error_of(infer(handler, x(values.tolist(), [rows + 1, 2]))) == (
        f"input 'x' has {2 * rows} values, but shape [{rows + 1}, 2] takes {2 * rows + 2}"
    )
    assert error_of(infer(handler, x([*values.tolist()[:-1], "7"], [rows, 2]))) == (
        f"input 'x': value {2 * rows - 1} is '7', which is not FP32"
    )
    np.testing.assert_array_equal(model.requests[0].inputs["x"], values.reshape(rows, 2))
