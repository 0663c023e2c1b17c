"""The kinds of model that Triton's own client examples use, beyond those of models.py, with requests for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.triton.asking import Inputs
from tests.triton.models import MODELS

Parameters = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and how many answers there are to it. `classes`: as image clients ask, so many of each output."""

    inputs: Inputs
    parameters: Parameters = field(default_factory=dict)
    answers: int = 1
    classes: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """A model of this file or of models.py, and requests for it, which are asked in this order.

    `is_decoupled`: only a stream can bring its answers. `is_sequence`: the requests belong together, and
    `parameters` gets a correlation id of its own for each way to ask.
    """

    model: str
    requests: Sequence[Asked]
    is_decoupled: bool = False
    is_sequence: bool = False
    is_named_by_text: bool = False  # correlation ids may be text
    is_binary: bool = False  # JSON cannot hold its inputs


_HEAD = """\
import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def given(self, request, name):
        return utils.get_input_tensor_by_name(request, name).as_numpy()

"""
_REPEAT = (
    _HEAD
    + """\
    def answer(self, request):
        sender = request.get_response_sender()
        for index, value in enumerate(self.given(request, "IN")):
            found = utils.Tensor("OUT", np.array([value], np.int32))
            place = utils.Tensor("IDX", np.array([index], np.uint32))
            sender.send(utils.InferenceResponse([found, place]))
        sender.send(flags=utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def execute(self, requests):
        for request in requests:
            self.answer(request)
"""
)
_SQUARE = (
    _HEAD
    + """\
    def execute(self, requests):
        for request in requests:
            sender, value = request.get_response_sender(), self.given(request, "IN")
            for _ in range(int(value[0])):
                sender.send(utils.InferenceResponse([utils.Tensor("OUT", value)]))
            sender.send(flags=utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
)
_ACCUMULATE = (
    _HEAD
    + """\
    def initialize(self, args):
        self.sums = {}

    def answer(self, request):
        key = request.correlation_id()
        if self.given(request, "START").flat[0]:
            self.sums[key] = 0
        self.sums[key] += self.given(request, "INPUT").flat[0]
        return utils.InferenceResponse([utils.Tensor("OUTPUT", np.full((1, 1), self.sums[key], np.int32))])
"""
)
_SCALE = (
    _HEAD
    + """\
    def answer(self, request):
        return utils.InferenceResponse([utils.Tensor("OUTPUT0", self.given(request, "INPUT0") * 0.5)])
"""
)


def _tensor(kind: str, name: str, data_type: str, dims: str = "-1") -> str:
    return f'{kind} {{ name: "{name}" data_type: {data_type} dims: [ {dims} ] }}\n'


def _python(*lines: str) -> str:
    return 'backend: "python"\ninstance_group [ { count: 1 kind: KIND_CPU } ]\n' + "".join(lines)


def _sequence(strategy: str) -> str:
    start = 'control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } }'
    batching = f"sequence_batching {{ max_sequence_idle_microseconds: 60000000 {strategy}\n{start} }}\n"
    tensors = _tensor("input", "INPUT", "TYPE_INT32", "1"), _tensor("output", "OUTPUT", "TYPE_INT32", "1")
    return _python("max_batch_size: 4\n", *tensors, batching)


def _repeating(*tensors: str) -> str:
    return _python("max_batch_size: 0\n", *tensors, "model_transaction_policy { decoupled: True }\n")


_STEP = 'input_map {{ key: "INPUT0" value: "{given}" }} output_map {{ key: "OUTPUT0" value: "{taken}" }}'
_ENSEMBLE = (
    'platform: "ensemble"\nmax_batch_size: 8\n'
    + _tensor("input", "RAW", "TYPE_FP32")
    + _tensor("output", "SCALED", "TYPE_FP32")
    + f'ensemble_scheduling {{ step [ {{ model_name: "scale" model_version: -1 '
    f"{_STEP.format(given='RAW', taken='once')} }},\n"
    f'{{ model_name: "scale" model_version: -1 {_STEP.format(given="once", taken="SCALED")} }} ] }}\n'
)

_OWN: dict[str, tuple[str, str]] = {
    "repeat_int32": (
        _repeating(
            _tensor("input", "IN", "TYPE_INT32"),
            _tensor("output", "OUT", "TYPE_INT32", "1"),
            _tensor("output", "IDX", "TYPE_UINT32", "1"),
        ),
        _REPEAT,
    ),
    "square_int32": (
        _repeating(_tensor("input", "IN", "TYPE_INT32", "1"), _tensor("output", "OUT", "TYPE_INT32", "1")),
        _SQUARE,
    ),
    "simple_sequence": (_sequence("direct { }"), _ACCUMULATE),
    "simple_dyna_sequence": (_sequence("oldest { max_candidate_sequences: 4 }"), _ACCUMULATE),
    "simple_string_sequence": (_sequence("oldest { max_candidate_sequences: 4 }"), _ACCUMULATE),
    "scale": (
        _python(
            "max_batch_size: 8\n",
            _tensor("input", "INPUT0", "TYPE_FP32"),
            _tensor("output", "OUTPUT0", "TYPE_FP32"),
        ),
        _SCALE,
    ),
    "ensemble": (_ENSEMBLE, ""),
}


def write_kinds(folder: Path, *names: str) -> Path:
    """A repository with these models, or with those of all kinds, each at version 1."""
    every = {**MODELS, **_OWN}
    for name in names or every:
        config, code = every[name]
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(f'name: "{name}"\n{config}')
        if code:
            (folder / name / "1" / "model.py").write_text(code)
    return folder


def _pair(dtype: Any) -> Inputs:
    return {"INPUT0": np.arange(16).reshape(1, 16).astype(dtype), "INPUT1": np.ones((1, 16), dtype)}


def _texts(*texts: bytes) -> np.ndarray:
    return np.array([texts], dtype=np.object_)


def _sum(*values: int) -> list[Asked]:
    last = len(values) - 1
    return [
        Asked(
            {"INPUT": np.array([[value]], np.int32)},
            {"sequence_start": index == 0, "sequence_end": index == last},
        )
        for index, value in enumerate(values)
    ]


_ROW = np.array([[0.5, -1.25, 3e38, 7.0]], np.float32)

KINDS = (
    Kind("add_sub", [Asked(_pair(np.int32))]),
    Kind("add_sub_int8", [Asked(_pair(np.int8))]),
    Kind("add_sub_fp32", [Asked(_pair(np.float32))]),
    Kind("add_sub_strings", [Asked({"INPUT0": _texts(b"1", b"20"), "INPUT1": _texts(b"3", b"-4")})]),
    Kind(
        "identity_bytes", [Asked({"INPUT0": _texts(b"", "grüße \"'\\{[".encode(), b'"model_name":"identity_bytes"')})]
    ),
    Kind("identity_bytes", [Asked({"INPUT0": _texts(b"\0", b"a\0b\0", b"\xff\xfe\0")})], is_binary=True),
    Kind("identity_fp32", [Asked({"INPUT0": _ROW}), Asked({"INPUT0": _ROW}, classes=2)]),
    Kind("ensemble", [Asked({"RAW": _ROW})]),
    Kind("failing", [Asked({"INPUT0": np.array([[1]], np.int32)}), Asked({"INPUT0": np.array([[-1]], np.int32)})]),
    Kind("simple_sequence", _sum(11, 7, 5, 3, 2, 0, 1), is_sequence=True),
    Kind("simple_dyna_sequence", _sum(100, 0, 2), is_sequence=True),
    Kind("simple_string_sequence", _sum(1, 2, 3), is_sequence=True, is_named_by_text=True),
    Kind("repeat_int32", [Asked({"IN": np.array([4, 2, 0, 1], np.int32)}, answers=4)], is_decoupled=True),
    Kind("square_int32", [Asked({"IN": np.array([n], np.int32)}, answers=n) for n in (2, 4)], is_decoupled=True),
)
