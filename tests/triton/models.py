"""Small models for Triton's Python backend, after those of Triton's own client examples."""

from __future__ import annotations

from pathlib import Path

_CONFIG = """\
backend: "python"
max_batch_size: {max_batch_size}
{inputs}
{outputs}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""

_CODE = """\
import time

import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def initialize(self, args):
        self.state = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = lambda name: utils.get_input_tensor_by_name(request, name).as_numpy()
        try:
            outputs = self.outputs(request, given)
        except ValueError as error:
            return utils.InferenceResponse([], utils.TritonError(str(error)))
        return utils.InferenceResponse([utils.Tensor(name, value) for name, value in outputs.items()])

    def outputs(self, request, given):
"""

_ADD_SUB = """\
        return {"OUTPUT0": given("INPUT0") + given("INPUT1"), "OUTPUT1": given("INPUT0") - given("INPUT1")}
"""
_ADD_SUB_OF_STRINGS = """\
        left, right = (given(name).astype(np.int64) for name in ("INPUT0", "INPUT1"))
        as_text = lambda numbers: np.array([str(n).encode() for n in numbers.flat], dtype=object).reshape(numbers.shape)
        return {"OUTPUT0": as_text(left + right), "OUTPUT1": as_text(left - right)}
"""
_IDENTITY = """\
        return {"OUTPUT0": given("INPUT0")}
"""
_SLOW = """\
        time.sleep(0.3)
        return {"OUTPUT0": given("INPUT0")}
"""
_SEQUENCE = """\
        key = request.correlation_id()
        self.state[key] = self.state.get(key, 0) + given("INPUT0")
        return {"OUTPUT0": self.state[key]}
"""
_FAILING = """\
        if given("INPUT0").sum() < 0:
            raise ValueError("this model takes no negative numbers")
        return {"OUTPUT0": given("INPUT0")}
"""


def _two(data_type: str, code: str) -> tuple[str, str]:
    return _model(("INPUT0", "INPUT1"), ("OUTPUT0", "OUTPUT1"), data_type, code)


def _one(data_type: str, code: str) -> tuple[str, str]:
    return _model(("INPUT0",), ("OUTPUT0",), data_type, code)


def _model(inputs: tuple[str, ...], outputs: tuple[str, ...], data_type: str, code: str) -> tuple[str, str]:
    def tensors(kind: str, names: tuple[str, ...]) -> str:
        return "\n".join(f'{kind} {{ name: "{name}" data_type: {data_type} dims: [ -1 ] }}' for name in names)

    config = _CONFIG.format(max_batch_size=8, inputs=tensors("input", inputs), outputs=tensors("output", outputs))
    return config, _CODE + code


MODELS = {
    "add_sub": _two("TYPE_INT32", _ADD_SUB),
    "add_sub_int8": _two("TYPE_INT8", _ADD_SUB),
    "add_sub_fp32": _two("TYPE_FP32", _ADD_SUB),
    "add_sub_strings": _two("TYPE_STRING", _ADD_SUB_OF_STRINGS),
    "identity_bytes": _one("TYPE_STRING", _IDENTITY),
    "identity_fp32": _one("TYPE_FP32", _IDENTITY),
    "slow_fp32": _one("TYPE_FP32", _SLOW),
    "sequence": _one("TYPE_INT32", _SEQUENCE),
    "failing": _one("TYPE_INT32", _FAILING),
}


def write_repository(folder: Path, *names: str) -> Path:
    """A repository with these models, each at version 1."""
    for name in names:
        config, code = MODELS[name]
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(f'name: "{name}"\n{config}')
        (folder / name / "1" / "model.py").write_text(code)
    return folder
