"""What every backend promises to the serving core; the NumPy one used in unit tests is held to it like the real one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from adapters.onnx.backend import OnnxBackend
from adapters.onnx.options import OnnxOptions
from benchmarks.models import save
from serving.errors import ModelFailed
from serving.ports import Backend
from tests.unit.serving.backends import POISON, DoublingBackend, rows_of


def doubling_model(path: Path) -> str:
    """`double` and `sum` as in DoublingBackend; a row that holds POISON (or any negative number) makes the run fail."""
    constants = [
        helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("nothing", TensorProto.FLOAT, [1], [0.0]),
    ]
    nodes = [
        # 0 unless x is negative; then the index is -2 or less, outside a table with one entry.
        helper.make_node("Min", ["x", "nothing"], ["negative"]),
        helper.make_node("Cast", ["negative"], ["index"], to=TensorProto.INT64),
        helper.make_node("Add", ["index", "index"], ["indices"]),
        helper.make_node("Gather", ["nothing", "indices"], ["zeros"]),
        helper.make_node("Add", ["x", "zeros"], ["checked"]),
        helper.make_node("Mul", ["checked", "two"], ["double"]),
        helper.make_node("ReduceSum", ["checked", "axis"], ["sum"], keepdims=0),
    ]
    return save(
        path,
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [
            helper.make_tensor_value_info("double", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["N"]),
        ],
        constants,
    )


@pytest.fixture(params=["numpy", "onnx"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "numpy":
        return DoublingBackend()
    path = tmp_path / "doubling.onnx"
    return OnnxBackend(OnnxOptions(str(path), doubling_model(path)))


def test_the_signature_names_inputs_and_outputs(backend: Backend) -> None:
    signature = backend.signature
    assert [(spec.name, spec.datatype, spec.shape) for spec in signature.inputs] == [("x", "FP32", (-1, 2))]
    assert [(spec.name, spec.shape) for spec in signature.outputs] == [("double", (-1, 2)), ("sum", (-1,))]
    assert signature.is_batchable


def test_outputs_come_in_the_order_asked_for(backend: Backend) -> None:
    total, double = backend.run({"x": rows_of(1, 2)}, ["sum", "double"])
    np.testing.assert_array_equal(total, [2, 4])
    np.testing.assert_array_equal(double, rows_of(2, 4))
    assert total.dtype == double.dtype == np.float32


def test_outputs_may_be_named_in_a_tuple_and_chosen(backend: Backend) -> None:
    (total,) = backend.run({"x": rows_of(3)}, ("sum",))
    np.testing.assert_array_equal(total, [6])


def test_answers_do_not_share_memory_with_the_inputs_or_with_later_answers(backend: Backend) -> None:
    x = rows_of(1)
    (first,) = backend.run({"x": x}, ["double"])
    (second,) = backend.run({"x": rows_of(5)}, ["double"])
    assert not np.shares_memory(first, x)
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, rows_of(2))


def test_read_only_inputs_are_taken(backend: Backend) -> None:
    x = np.frombuffer(rows_of(4).tobytes(), np.float32).reshape(1, 2)
    np.testing.assert_array_equal(backend.run({"x": x}, ["double"])[0], rows_of(8))


def test_a_failure_of_the_model_is_model_failed_and_the_next_run_works(backend: Backend) -> None:
    with pytest.raises(ModelFailed) as failure:
        backend.run({"x": rows_of(1, POISON)}, ["double"])
    assert str(failure.value)
    np.testing.assert_array_equal(backend.run({"x": rows_of(1)}, ["double"])[0], rows_of(2))


def test_as_many_runs_as_it_says_may_overlap(backend: Backend) -> None:
    assert backend.parallelism >= 1
    requests = [rows_of(*range(1, 2 + at % 5)) for at in range(40)]
    with ThreadPoolExecutor(backend.parallelism) as callers:
        answers = list(callers.map(lambda x: backend.run({"x": x}, ["double"])[0], requests))
    for x, answer in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(answer, 2 * x)
