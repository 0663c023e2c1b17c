"""Models that a bridge is tried with: every datatype, large tensors, slow ones, and those that it must refuse."""

from __future__ import annotations

from pathlib import Path

from serving.tensors import DATATYPES

# Triton's name for what V2 calls BYTES.
_TYPES = {name: "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}" for name in DATATYPES}

WIDTH = 32 * 1024  # floats in a row of `wide`

_HEAD = """\
import time

import triton_python_backend_utils as utils


class TritonPythonModel:
"""
_EVERYTHING = """\
    def execute(self, requests):
        return [utils.InferenceResponse([self.same(tensor) for tensor in request.inputs()]) for request in requests]

    def same(self, tensor):
        name = tensor.name() + "_out"
        if tensor.name() == "BF16":  # numpy knows it not
            return utils.Tensor.from_dlpack(name, tensor.to_dlpack())
        return utils.Tensor(name, tensor.as_numpy())
"""
_WIDE = """\
    def execute(self, requests):
        return [self.answer(utils.get_input_tensor_by_name(request, "x").as_numpy()) for request in requests]

    def answer(self, x):
        time.sleep(max(0.0, float(x[0, 0])))
        return utils.InferenceResponse([utils.Tensor("y", x + 1)])
"""
_NEVER = """\
    def execute(self, requests):
        raise NotImplementedError
"""


def _config(inputs: dict[str, str], outputs: dict[str, str], more: str = "", max_batch_size: int = 8) -> str:
    def tensors(kind: str, named: dict[str, str]) -> str:
        return "\n".join(f'{kind} {{ name: "{name}" {what} }}' for name, what in named.items())

    return f"""\
backend: "python"
max_batch_size: {max_batch_size}
{tensors("input", inputs)}
{tensors("output", outputs)}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
{more}
"""


_ROW = {"x": f"data_type: TYPE_FP32 dims: [ {WIDTH} ]"}, {"y": f"data_type: TYPE_FP32 dims: [ {WIDTH} ]"}
_ONE = {"x": "data_type: TYPE_FP32 dims: [ 1 ]"}, {"y": "data_type: TYPE_FP32 dims: [ 1 ]"}

MODELS = {
    "everything": (
        _config(
            {name: f"data_type: {type_} dims: [ -1 ]" for name, type_ in _TYPES.items()},
            {f"{name}_out": f"data_type: {type_} dims: [ -1 ]" for name, type_ in _TYPES.items()},
        ),
        _EVERYTHING,
    ),
    "wide": (_config(*_ROW), _WIDE),
    "decoupled": (_config(*_ONE, "model_transaction_policy { decoupled: true }"), _NEVER),
    "stateful": (_config(*_ONE, "sequence_batching { }"), _NEVER),
}


def write_bridged(folder: Path, *names: str) -> Path:
    """A repository with these models, each at version 1."""
    for name in names:
        config, code = MODELS[name]
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(f'name: "{name}"\n{config}')
        (folder / name / "1" / "model.py").write_text(_HEAD + code)
    return folder
