"""When two answers differ: by datatype and shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from router.agreement.rules import Tolerance, difference, rendered
from serving.answers import Answered, Failed, recorded
from serving.messages import InferReply
from serving.tensors import DATATYPES, object_array

NAN, INF = float("nan"), float("inf")


def answer(datatype: str = "FP32", name: str = "y", **arrays: object) -> Answered:
    """One output, or several by name, of one datatype."""
    dtype = DATATYPES[datatype].dtype
    return recorded(InferReply("m", "1", "", [(key, datatype, np.asarray(v, dtype)) for key, v in arrays.items()]))


def y(values: object, datatype: str = "FP32") -> Answered:
    return answer(datatype, y=values)


@pytest.mark.parametrize(
    ("stable", "candidate", "reason"),
    [
        (y([[0.1, 0.9, 0.5]]), y([[0.4, 0.6, 0.1]]), ""),
        (y([[0.1, 0.9, 0.5]]), y([[0.1, 0.4, 0.5]]), "y: top class 1 → 2"),
        (y([[0, 1], [1, 0], [1, 0]]), y([[0, 1], [0, 1], [0, 1]]), "y: top class 0 → 1, in 2 of 3 rows"),
        (y([[NAN, 1]]), y([[NAN, 2]]), ""),
        (y([[0, 1]]), y([[0, NAN]]), "y: top class 1 → NaN"),
        (y([0.2, 0.8]), y([0.8, 0.2]), "y: top class 1 → 0"),
        (y([[[0, 1], [1, 0]]], "FP16"), y([[[0, 1], [1, 0]]], "FP16"), ""),
        (y([[100.0]]), y([[100.05]]), ""),
        (y([[100.0]]), y([[100.5]]), "y: differs by up to 0.5, 0.50% of the largest magnitude"),
        (y([[1e-8]]), y([[-1e-8]]), ""),
        (y([[1000.0], [0.0]]), y([[1000.0], [0.5]]), ""),
        (y([[1.0], [0.0]]), y([[1.0], [0.5]]), "y: differs by up to 0.5, 50.00% of the largest magnitude"),
        (y([[NAN], [INF]]), y([[NAN], [INF]]), ""),
        (y([[1.0], [INF]]), y([[1.0], [-INF]]), "y: NaN or infinity on one side only"),
        (y([[1.0]]), y([[NAN]]), "y: NaN or infinity on one side only"),
        (y(2.5, "FP64"), y(2.5000001, "FP64"), ""),
        (y([[1.7e308]], "FP64"), y([[-1.7e308]], "FP64"), "y: differs by up to inf, inf% of the largest magnitude"),
        (y([3], "INT64"), y([4], "INT64"), "y: 3 → 4"),
        (y([[3, 4, 5]], "UINT8"), y([[3, 0, 0]], "UINT8"), "y: 4 → 0 at 1, 2 of 3 values differ"),
        (y([[True]], "BOOL"), y([[True]], "BOOL"), ""),
        (y([[1.0]]), y([[1.0]], "FP64"), "y: FP32 → FP64"),
        (y([[1.0]]), y([1.0]), "y: shape [1, 1] → [1]"),
        (answer(a=[1.0], b=[1.0]), answer(b=[1.0]), "a: the candidate has no such output"),
        (answer(a=[1.0]), answer(b=[2.0], a=[1.0]), ""),
        (y([[1.0]]), Failed("BadRequest"), "only stable answers, the candidate fails (BadRequest)"),
    ],
)
def test_the_rule_follows_from_datatype_and_shape(stable: Answered, candidate: Answered | Failed, reason: str) -> None:
    assert difference(stable, candidate) == reason


def test_bytes_must_be_equal() -> None:
    def text(*elements: bytes) -> Answered:
        return recorded(InferReply("m", "1", "", [("y", "BYTES", object_array(list(elements), (len(elements),)))]))

    assert difference(text(b"a", b"bc"), text(b"a", b"bc")) == ""
    assert difference(text(b"a", b"bc"), text(b"ab", b"c")) == "y: other values"
    assert difference(text(b"x" * 9000), text(b"x" * 9000)) == ""
    assert difference(text(b"x" * 9000), text(b"x")) == "y: other values"


def test_the_tolerance_can_be_chosen() -> None:
    assert difference(y([[1.0]]), y([[1.05]]), Tolerance(relative=0.1)) == ""
    assert difference(y([[1.0]]), y([[1.0001]]), Tolerance(relative=0, absolute=0)) != ""


def test_large_outputs_are_compared_by_what_is_kept_of_them() -> None:
    scores = np.random.default_rng(0).random((2000, 30)).astype(np.float32)
    flipped = scores.copy()
    flipped[:, 0] = 2.0
    regression = np.ones((20_000, 1), np.float32)

    assert difference(y(scores), y(scores * 0.5)) == ""
    assert "top class" in difference(y(scores), y(flipped))
    assert difference(y(regression), y(regression * 1.0001)) == ""
    assert difference(y(regression), y(regression * 1.01)) != ""
    assert difference(y(np.arange(9000), "INT32"), y(np.arange(9000), "INT32")) == ""
    assert difference(y(np.arange(9000), "INT32"), y(np.arange(1, 9001), "INT32")) == "y: other values"


def test_records_that_keep_other_values_are_not_taken_for_equal() -> None:
    large = y(np.ones((20_000, 1))).outputs[0]
    fewer = replace(large, data=large.data[:4])

    assert "another version" in difference(Answered((large,)), Answered((fewer,)))


arrays = st.sampled_from(["BOOL", "INT8", "INT64", "FP16", "FP32", "FP64"]).flatmap(
    lambda name: st.tuples(
        st.just(name), hnp.arrays(DATATYPES[name].dtype, hnp.array_shapes(min_dims=0, max_dims=3, max_side=30))
    )
)


@given(arrays)
def test_every_answer_agrees_with_itself(output: tuple[str, np.ndarray]) -> None:
    name, array = output

    assert difference(y(array, name), y(array.copy(), name)) == ""


@given(arrays, st.data())
def test_any_two_answers_can_be_compared_and_rendered_briefly(
    output: tuple[str, np.ndarray], data: st.DataObject
) -> None:
    name, array = output
    other = data.draw(hnp.arrays(array.dtype, array.shape))
    one, two = y(array, name), y(other, name)

    assert bool(difference(one, two)) == bool(difference(two, one))
    assert len(rendered(one)["y"]) <= 130


def test_renderings_show_the_beginning_of_the_values() -> None:
    text = recorded(InferReply("m", "1", "", [("t", "BYTES", object_array([b"caf\xc3\xa9", b""], (2,)))]))

    assert rendered(y([[0.5, 1 / 3]])) == {"y": "FP32 [1, 2] 0.5, 0.333333"}
    assert rendered(y(np.arange(12), "INT8"))["y"] == "INT8 [12] 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …"
    assert rendered(text) == {"t": "BYTES [2] b'caf\\xc3\\xa9', b''"}
    assert rendered(y(np.zeros(9000), "INT64"))["y"].startswith("INT64 [9000] digest ")
    assert rendered(Failed("BadRequest")) == {}
