"""What is kept of an answer, and how little that is."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.answers import (
    NO_CLASS,
    SPREAD,
    WHOLE_BYTES,
    Answer,
    Answered,
    Failed,
    Form,
    Key,
    OutputRecord,
    Repeat,
    Unanswered,
    record_bytes,
    recorded,
    top_classes,
)
from serving.messages import InferReply
from serving.samples_api import read_batch, written_batch
from serving.sampling import Batch, Sampled
from serving.tensors import DATATYPES, object_array

KEY = Key("r-1", 7)
FLOATS = ("FP16", "BF16", "FP32", "FP64")


def record_of(datatype: str, array: np.ndarray) -> OutputRecord:
    (output,) = recorded(InferReply("m", "1", "", [("y", datatype, array)])).outputs
    return output


def floats(shape: tuple[int, ...], datatype: str = "FP32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(DATATYPES[datatype].dtype)


@pytest.mark.parametrize("datatype", FLOATS)
def test_a_small_float_output_is_kept_whole(datatype: str) -> None:
    array = floats((3, 4), datatype)

    record = record_of(datatype, array)

    assert (record.form, record.shape) == (Form.WHOLE, (3, 4))
    assert np.array_equal(record.values(), array.astype(np.float64).ravel())
    assert np.array_equal(record.top_classes(), array.astype(np.float64).argmax(axis=-1))


@pytest.mark.parametrize("datatype", FLOATS)
def test_of_a_large_float_output_some_values_and_top_classes_are_kept(datatype: str) -> None:
    array = floats((3000, 100), datatype)

    record = record_of(datatype, array)

    assert record.form is Form.SPREAD
    assert record_bytes(Answer(KEY, Answered((record,)))) < 16 * 1024
    step = -(-array.size // SPREAD)
    assert np.array_equal(record.values(), array.ravel()[::step].astype(np.float64))
    rows = -(-3000 // SPREAD)
    assert np.array_equal(record.top_classes(), array[::rows].astype(np.float64).argmax(axis=-1))


def test_few_rows_of_very_many_classes_are_looked_at() -> None:
    array = floats((20, 50_000))

    tops = record_of("FP32", array).top_classes()

    assert 1 <= len(tops) < 20
    assert tops[0] == array[0].argmax()


def test_a_large_output_that_is_no_float_becomes_a_digest_of_all_of_it() -> None:
    array = np.arange(5000, dtype=np.int32)
    changed = array.copy()
    changed[4321] = -1

    one, same, other = (record_of("INT32", data) for data in (array, array.copy(), changed))

    assert (one.form, len(one.data)) == (Form.DIGEST, 16)
    assert one == same
    assert one != other


def test_a_huge_output_becomes_a_digest_of_spread_elements() -> None:
    record = record_of("UINT8", np.zeros((3000, 3001), np.uint8))

    assert (record.form, len(record.data)) == (Form.DIGEST, 16)


def test_bytes_are_kept_whole_when_they_are_few_and_as_a_digest_otherwise() -> None:
    few = record_of("BYTES", object_array([b"a", b"", b"\xff"], (3,)))
    many = [record_of("BYTES", object_array([b"x" * WHOLE_BYTES, end], (2,))) for end in (b"1", b"1", b"2")]

    assert few.data == b"\1\0\0\0a\0\0\0\0\1\0\0\0\xff"
    assert {record.form for record in many} == {Form.DIGEST}
    assert many[0] == many[1]
    assert many[0] != many[2]


def test_text_is_recorded_as_the_bytes_that_are_sent() -> None:
    text, data = np.array(["ü"], object), object_array(["ü".encode()], (1,))

    assert record_of("BYTES", text) == record_of("BYTES", data)


def test_a_row_that_holds_a_nan_has_no_top_class() -> None:
    scores = np.array([[1, 2, np.nan], [3, 2, 1], [np.nan, np.nan, np.nan], [1, np.inf, 2]], np.float32)

    assert top_classes(scores).tolist() == [NO_CLASS, 0, NO_CLASS, 1]


def test_empty_and_scalar_outputs_are_recorded() -> None:
    assert not record_of("FP32", np.empty((0, 4), np.float32)).has_classes
    assert not record_of("FP32", np.float32(3).reshape(())).has_classes
    assert record_of("INT64", np.empty((0,), np.int64)).data == b""
    assert record_of("BYTES", np.empty((0,), object)).data == b""


def test_a_record_does_not_hold_on_to_the_batch() -> None:
    batch = floats((64, 10))
    record = record_of("FP32", batch[3:4])
    before = record.values().copy()
    batch[:] = 0

    assert np.array_equal(record.values(), before)


shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=40)
arrays = st.one_of(
    *(
        st.tuples(st.just(name), hnp.arrays(DATATYPES[name].dtype, shapes))
        for name in ("BOOL", "INT8", "UINT64", "FP16", "FP32", "FP64")
    ),
    st.tuples(st.just("BF16"), hnp.arrays(np.float32, shapes, elements=st.floats(width=32)).map(
        lambda array: array.astype(ml_dtypes.bfloat16))),
    st.lists(st.binary(max_size=300), max_size=40).map(lambda v: ("BYTES", object_array(v, (len(v),)))),
)  # fmt: skip


@given(st.lists(arrays, max_size=3))
def test_records_are_small_and_survive_the_way_to_the_control_plane(outputs: list[tuple[str, np.ndarray]]) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        answered = recorded(InferReply("m", "1", "", [(f"y{at}", *output) for at, output in enumerate(outputs)]))
    records = (
        Answer(KEY, answered),
        Repeat(KEY, answered, answered),
        Answer(KEY, Failed("BadRequest")),
        Answer(Key("ü\x00" * 20, 2**32 - 1), Unanswered()),
    )
    batch = Batch(9, has_gap=True, records=tuple(Sampled(record, 0.5) for record in records))

    assert all(len(output.data) + len(output.tops) <= 2 * WHOLE_BYTES for output in answered.outputs)
    assert read_batch(written_batch(batch)) == batch


def test_a_record_whose_size_is_not_that_of_its_shape_is_refused() -> None:
    cut = OutputRecord("y", "FP32", (1, 2), Form.WHOLE, bytes(7))
    batch = Batch(1, has_gap=False, records=(Sampled(Answer(KEY, Answered((cut,))), 0.0),))

    with pytest.raises(ValueError, match="has 7 bytes"):
        read_batch(written_batch(batch))


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"last": 1, "has_gap": false, "records": [{}]}'])
def test_what_is_no_batch_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a batch"):
        read_batch(text)
