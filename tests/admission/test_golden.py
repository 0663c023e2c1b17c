"""Golden requests: what a model must answer before it may answer callers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from adapters.onnx.backend import OnnxBackend
from adapters.onnx.golden import GoldenRequest
from adapters.onnx.options import OnnxOptions
from router.models.ports import AdmissionRefused
from tests.admission import graphs
from tests.admission.folders import admitted, written

TWICE = graphs.scaled(numpy_helper.from_array(np.array([2, 2], np.float32), "w"))
X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -3]}
Y = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [3, -6]}


def golden(folder: Path, output: dict[str, Any] | None = None, **changed: Any) -> str:
    document = {"request": {"inputs": [X]}, "response": {"outputs": [output or Y]}} | changed
    path = folder / "golden.json"
    path.write_text(json.dumps(document))
    return str(path)


def backend(folder: Path, content: bytes = TWICE) -> OnnxBackend:
    path = folder / "m.onnx"
    path.write_bytes(content)
    return OnnxBackend(OnnxOptions(str(path), hashlib.sha256(content).hexdigest()))


def refusal(path: str, on: OnnxBackend) -> str:
    with pytest.raises(AdmissionRefused) as refused:
        GoldenRequest(path).check(on)
    return str(refused.value)


def test_the_expected_answer_is_good(tmp_path: Path) -> None:
    GoldenRequest(golden(tmp_path)).check(backend(tmp_path))


def test_floats_may_be_off_by_the_tolerance_and_no_more(tmp_path: Path) -> None:
    model = backend(tmp_path)
    near, far = {**Y, "data": [3.002, -6]}, {**Y, "data": [3.2, -6]}
    GoldenRequest(golden(tmp_path, near)).check(model)
    assert "expects output 'y' to be 3.2 at [0, 0], and got 3 (1 of 2 values differ)" in refusal(
        golden(tmp_path, far), model
    )
    GoldenRequest(golden(tmp_path, far, tolerance={"relative": 0.1})).check(model)
    GoldenRequest(golden(tmp_path, far, tolerance={"relative": 0, "absolute": 0.3})).check(model)
    assert "expects output 'y'" in refusal(golden(tmp_path, near, tolerance={"relative": 0, "absolute": 0}), model)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({**Y, "name": "z"}, "expects the output 'z', which the model does not have"),
        ({**Y, "datatype": "INT64"}, "expects the output 'y' as INT64, and it is FP32"),
        ({**Y, "shape": [2, 1]}, "expects output 'y' of shape [2, 1], and got [1, 2]"),
        ({**Y, "shape": [1, 3]}, "cannot be used: its response: input 'y' has 2 values"),
        ({**Y, "shape": "x"}, "cannot be used: the output 'y' has no shape"),
        ({**Y, "data": [None, -6]}, "expects output 'y' to be nan at [0, 0], and got 3"),
    ],
)
def test_another_answer_is_refused_with_what_was_expected(output: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal(golden(tmp_path, output), backend(tmp_path))


def test_a_request_that_does_not_fit_the_model_is_refused_in_the_protocol_s_words(tmp_path: Path) -> None:
    path = golden(tmp_path, request={"inputs": [{**X, "name": "pixels"}]})
    assert "was not answered: the model has no input 'pixels'" in refusal(path, backend(tmp_path))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"request": {}, "response": {}}', '{"request": {}, "response": {"outputs": []}}', "[" * 100_000],
)
def test_a_file_that_is_no_golden_request_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.write_text(content)
    assert "'golden.json' cannot be used: it " in refusal(str(path), backend(tmp_path))


@pytest.mark.parametrize("tolerance", [{"relative": -1}, {"percent": 1}, {"relative": "much"}, 1])
def test_a_tolerance_that_is_none_is_refused(tolerance: object, tmp_path: Path) -> None:
    assert "cannot be used" in refusal(golden(tmp_path, tolerance=tolerance), backend(tmp_path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "cannot be used: No such file" in refusal(str(tmp_path / "golden.json"), backend(tmp_path))


def test_text_and_half_precision_are_compared_too(tmp_path: Path) -> None:
    text = [helper.make_tensor_value_info(name, TensorProto.STRING, ["N"]) for name in "xy"]
    half = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "ab"]
    half[1].type.tensor_type.elem_type = TensorProto.FLOAT16
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT16),
    ]
    graph = helper.make_graph(nodes, "net", [text[0], half[0]], [text[1], half[1]])
    model = backend(tmp_path, graphs.proto_of(graph).SerializeToString())
    request = {
        "inputs": [
            {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["né"]},
            {"name": "a", "datatype": "FP32", "shape": [1], "data": [0.1]},
        ]
    }
    y = {"name": "y", "datatype": "BYTES", "shape": [1], "data": ["né"]}
    b = {"name": "b", "datatype": "FP16", "shape": [1], "data": [0.1]}
    GoldenRequest(golden(tmp_path, request=request, response={"outputs": [b, y]})).check(model)
    wrong = golden(tmp_path, request=request, response={"outputs": [{**y, "data": ["ne"]}]})
    assert "expects output 'y' to be b'ne' at [0], and got" in refusal(wrong, model)


async def test_the_gate_asks_golden_requests_before_the_warm_up(tmp_path: Path) -> None:
    candidate = written(tmp_path / "model", {"model.onnx": TWICE})
    good = await admitted(candidate, golden=(golden(tmp_path),))
    assert dict(good.checks)["golden requests"] == "1 answered as expected"
    with pytest.raises(
        AdmissionRefused, match=r"golden requests: 'golden.json' expects output 'y' to be 4 at \[0, 0\]"
    ):
        await admitted(candidate, golden=(golden(tmp_path, {**Y, "data": [4, -6]}),))
