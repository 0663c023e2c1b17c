"""Repositories of several ONNX models and an ensemble of them, as they would be published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models import save, tiny_mlp

SCALE = 0.5
ENSEMBLE = """\
name: "theirs"
platform: "ensemble"
max_batch_size: 8
input {{ name: "row" data_type: TYPE_FP32 dims: {width} }}
output {{ name: "scores" data_type: TYPE_FP32 dims: 10 }}
ensemble_scheduling {{
  step [
    {{
      model_name: "scale" model_version: -1
      input_map {{ key: "x" value: "row" }} output_map {{ key: "y" value: "scaled" }}
    }},
    {{
      model_name: "mlp" model_version: 3
      input_map {{ key: "x" value: "scaled" }} output_map {{ key: "y" value: "scores" }}
    }}
  ]
}}
"""
# Widths that are free here are not checked by Triton, but by the graph.
MLP = """\
name: "mlp"
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: -1 }
output { name: "y" data_type: TYPE_FP32 dims: 10 }
"""


def scale(path: Path) -> None:
    """`y` = `x` * `SCALE`, FP32 [N, any width]."""
    save(
        path,
        [helper.make_node("Mul", ["x", "half"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "width"])],
        [numpy_helper.from_array(np.array(SCALE, np.float32), "half")],
    )


def scoring(folder: Path, width: int = 64) -> Path:
    """`theirs` scores a `row` FP32 [N, width] with the small network `mlp` (in version 3 of 3 and 4), after `scale`,
    which came without a configuration. The network runs with 64 columns only."""
    for name in ("theirs", "scale/1", "mlp/3", "mlp/4"):
        (folder / name).mkdir(parents=True)
    (folder / "theirs" / "config.pbtxt").write_text(ENSEMBLE.format(width=width))
    (folder / "README.md").write_text("how to use it")
    scale(folder / "scale" / "1" / "model.onnx")
    scale(folder / "mlp" / "4" / "model.onnx")  # newer, and not the one that is asked for
    tiny_mlp(folder / "mlp" / "3" / "model.onnx")
    (folder / "mlp" / "config.pbtxt").write_text(MLP)
    return folder
