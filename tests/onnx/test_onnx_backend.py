"""ONNX Runtime itself: datatypes, signatures, and everything that must be refused with a reason."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from adapters.onnx.backend import OnnxBackend
from adapters.onnx.nvidia import tensorrt_version
from adapters.onnx.options import GpuSettings, OnnxOptions
from adapters.onnx.signature import has_batch_axis
from benchmarks.models import save, tiny_mlp
from router.domain.deployment_settings import Provider
from router.domain.errors import ModelUnavailable
from serving.errors import BadRequest, ModelFailed

Dims = Sequence[int | str | None]


HAS_GPU = os.path.exists("/dev/nvidiactl")
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="this machine has no NVIDIA GPU")


def opened(path: Path, sha256: str) -> OnnxBackend:
    return OnnxBackend(OnnxOptions(str(path), sha256))


def identity(folder: Path, element: int, shape: Dims = ("N", 2)) -> OnnxBackend:
    path = folder / "identity.onnx"
    x, y = (helper.make_tensor_value_info(name, element, shape) for name in "xy")
    return opened(path, save(path, [helper.make_node("Identity", ["x"], ["y"])], [x], [y]))


@pytest.mark.parametrize(
    ("element", "datatype", "dtype"),
    [
        (TensorProto.BOOL, "BOOL", np.bool_),
        (TensorProto.INT8, "INT8", np.int8),
        (TensorProto.INT16, "INT16", np.int16),
        (TensorProto.INT32, "INT32", np.int32),
        (TensorProto.INT64, "INT64", np.int64),
        (TensorProto.UINT8, "UINT8", np.uint8),
        (TensorProto.UINT16, "UINT16", np.uint16),
        (TensorProto.UINT32, "UINT32", np.uint32),
        (TensorProto.UINT64, "UINT64", np.uint64),
        (TensorProto.FLOAT16, "FP16", np.float16),
        (TensorProto.BFLOAT16, "BF16", ml_dtypes.bfloat16),
        (TensorProto.FLOAT, "FP32", np.float32),
        (TensorProto.DOUBLE, "FP64", np.float64),
    ],
)
@pytest.mark.parametrize("shape", [(3, 2), (0, 2)])
def test_every_number_type_goes_through_unchanged(
    tmp_path: Path, element: int, datatype: str, dtype: type, shape: tuple[int, ...]
) -> None:
    backend = identity(tmp_path, element)
    assert backend.signature.inputs[0].datatype == backend.signature.outputs[0].datatype == datatype
    x = np.arange(6)[: shape[0] * shape[1]].reshape(shape).astype(np.dtype(dtype))
    (y,) = backend.run({"x": x}, ["y"])
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)
    backend.close()


def test_text_goes_in_and_out_as_utf8_bytes(tmp_path: Path) -> None:
    backend = identity(tmp_path, TensorProto.STRING)
    assert backend.signature.inputs[0].datatype == "BYTES"
    x = np.array([["né".encode(), b"nul\0nul"], [b"", "火".encode()]], object)
    (y,) = backend.run({"x": x}, ["y"])
    assert y.dtype == object
    assert y.tolist() == x.tolist()


def test_bytes_that_are_not_utf8_are_the_client_s_fault(tmp_path: Path) -> None:
    backend = identity(tmp_path, TensorProto.STRING)
    with pytest.raises(BadRequest, match="'x' holds bytes that are not UTF-8"):
        backend.run({"x": np.array([[b"\xff\xfe", b"fine"]], object)}, ["y"])


def test_a_scalar_model_takes_and_gives_scalars(tmp_path: Path) -> None:
    backend = identity(tmp_path, TensorProto.FLOAT, ())
    assert not backend.signature.is_batchable
    assert backend.signature.inputs[0].shape == ()
    (y,) = backend.run({"x": np.array(2.5, np.float32)}, ["y"])
    assert y.shape == ()
    assert y == 2.5


def test_inputs_at_odd_addresses_are_scored_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "mlp.onnx"
    backend = opened(path, tiny_mlp(path))
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    odd = np.frombuffer(b"!" + x.tobytes(), np.float32, offset=1).reshape(2, 64)
    assert not odd.flags.aligned
    np.testing.assert_array_equal(backend.run({"x": odd}, ["y"])[0], backend.run({"x": x}, ["y"])[0])


def test_optional_tensors_are_asked_for_like_others(tmp_path: Path) -> None:
    path = tmp_path / "optional.onnx"
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 2])
    x = helper.make_value_info("x", helper.make_optional_type_proto(tensor))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    backend = opened(path, save(path, [helper.make_node("OptionalGetElement", ["x"], ["y"])], [x], [y]))
    assert backend.signature.inputs[0].datatype == "FP32"
    np.testing.assert_array_equal(backend.run({"x": np.ones((1, 2), np.float32)}, ["y"])[0], [[1, 1]])


def test_weights_that_are_declared_as_inputs_are_not_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "default.onnx"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    b = helper.make_tensor_value_info("b", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    weights = numpy_helper.from_array(np.ones(2, np.float32), "b")
    backend = opened(path, save(path, [helper.make_node("Add", ["x", "b"], ["y"])], [x, b], [y], [weights]))
    assert [spec.name for spec in backend.signature.inputs] == ["x"]
    assert backend.signature.is_batchable
    np.testing.assert_array_equal(backend.run({"x": np.ones((1, 2), np.float32)}, ["y"])[0], [[2, 2]])


def test_a_classifier_that_gives_maps_is_refused_with_advice() -> None:
    path = Path(onnxruntime.__file__).parent / "datasets" / "logreg_iris.onnx"
    with pytest.raises(ModelUnavailable, match=r"output 'probabilities' is a seq\(map.*zipmap"):
        opened(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_types_without_a_v2_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="input 'x' is a tensor\\(float8e4m3fn\\)"):
        identity(tmp_path, TensorProto.FLOAT8E4M3FN)


def test_another_file_than_the_one_deployed_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mlp.onnx"
    sha256 = tiny_mlp(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # a flipped bit in a weight: it would load
    path.write_bytes(content)
    with pytest.raises(ModelUnavailable, match=f"is not what was deployed.*expected {sha256}"):
        opened(path, sha256)


def test_a_missing_file_is_refused_without_naming_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="No such file") as refusal:
        opened(tmp_path / "none.onnx", "0" * 64)
    assert str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"not a model at all"])
def test_a_file_that_is_no_model_is_refused_without_naming_folders(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelUnavailable, match=r"'broken\.onnx' did not load") as refusal:
        opened(path, hashlib.sha256(content).hexdigest())
    assert str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize(
    "x",
    [
        np.ones((1, 63), np.float32),
        np.ones(64, np.float32),
        np.ones((1, 64), np.float64),
        np.ones((1, 1, 64), np.float32),
    ],
    ids=["columns", "rank", "datatype", "axes"],
)
def test_inputs_that_do_not_fit_are_the_client_s_fault(tmp_path: Path, x: np.ndarray) -> None:
    path = tmp_path / "mlp.onnx"
    with pytest.raises(BadRequest) as refusal:
        opened(path, tiny_mlp(path)).run({"x": x}, ["y"])
    assert "ONNXRuntimeError" not in str(refusal.value)


def test_a_failure_inside_the_model_has_its_words_and_no_paths(tmp_path: Path) -> None:
    path = tmp_path / "lookup.onnx"
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["N"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])
    table = numpy_helper.from_array(np.zeros(3, np.float32), "table")
    node = helper.make_node("Gather", ["table", "x"], ["y"], name="/encoder/embed/Gather")
    backend = opened(path, save(path, [node], [x], [y], [table]))
    with pytest.raises(ModelFailed, match=r"/encoder/embed/Gather.*idx=5 must be within") as failure:
        backend.run({"x": np.array([5])}, ["y"])
    assert ".cc" not in str(failure.value)


def test_a_shape_that_only_fails_inside_is_the_model_s_failure_without_source_paths(tmp_path: Path) -> None:
    path = tmp_path / "add.onnx"
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", name]) for name in "ab")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None])
    backend = opened(path, save(path, [helper.make_node("Add", ["a", "b"], ["y"])], [a, b], [y]))
    with pytest.raises(ModelFailed) as failure:
        backend.run({"a": np.ones((1, 2), np.float32), "b": np.ones((1, 3), np.float32)}, ["y"])
    assert "onnxruntime" not in str(failure.value)
    assert "broadcast" in str(failure.value)


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ([["N", 2]], [["N", 1]], True),
        ([[None, 2]], [[None]], True),
        ([["unk__1", 2]], [["unk__2", 3]], True),
        ([["N", 2]], [["out_dim_0", 3]], True),  # exporters make up names for outputs
        ([["N", "S"], ["N", "S"]], [["N", "S", 8]], True),
        ([["N", 2], ["M", 2]], [["N", 1]], False),  # two axes, two names
        ([["S", "N", 4]], [["S", "N", 4]], True),  # a batch on axis 1 is found in warm-up
        ([[1, 2]], [[1, 2]], False),
        ([["N", 2]], [[1, 2]], False),
        ([["N", 2]], [[]], False),
        ([["N", 2], []], [["N", 1]], False),
        ([["N", "N"]], [["N", "N"]], False),
        ([["N", 2]], [["N", "N"]], False),
        ([["N", 2], [2, "N", 128]], [["N", 1]], False),  # silero: state with the batch on axis 1
        ([], [["N"]], False),
    ],
)
def test_a_batch_axis_is_believed_only_when_nothing_contradicts_it(
    inputs: list[Dims], outputs: list[Dims], expected: bool
) -> None:
    class Node:
        def __init__(self, shape: Dims) -> None:
            self.name, self.type, self.shape = "t", "tensor(float)", shape

    assert has_batch_axis([Node(shape) for shape in inputs], [Node(shape) for shape in outputs]) is expected


def test_a_dynamically_quantised_model_is_not_batchable(tmp_path: Path) -> None:
    path = tmp_path / "quantised.onnx"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy")
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    assert not opened(path, save(path, nodes, [x], [y])).signature.is_batchable


def on_gpu(path: Path, sha256: str, cache: Path, provider: Provider = Provider.CUDA, **options: str) -> OnnxBackend:
    settings = GpuSettings(provider, options, max_batch_size=8)
    return OnnxBackend(OnnxOptions(str(path), sha256, gpu=settings, cache_dir=str(cache)))


@pytest.mark.parametrize("provider", [Provider.CUDA, Provider.TENSORRT])
@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_refuses_the_model(tmp_path: Path, provider: Provider) -> None:
    path = tmp_path / "mlp.onnx"
    with pytest.raises(ModelUnavailable, match="asks for a GPU"):
        on_gpu(path, tiny_mlp(path), tmp_path, provider)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("options", [{}, {"enable_cuda_graph": "0"}], ids=["graphs", "plain"])
def test_a_gpu_that_starts_answers_as_the_cpu_does(tmp_path: Path, options: dict[str, str]) -> None:
    path = tmp_path / "mlp.onnx"
    sha256 = tiny_mlp(path)
    there, here = on_gpu(path, sha256, tmp_path, **options), opened(path, sha256)
    assert there.parallelism == 2
    requests = [np.random.default_rng(rows).standard_normal((rows, 64)).astype(np.float32) for rows in range(1, 20)]
    with ThreadPoolExecutor(2) as callers:
        answers = list(callers.map(lambda x: there.run({"x": x}, ["y"])[0], requests * 10))
    for x, answer in zip(requests * 10, answers, strict=True):
        np.testing.assert_allclose(answer, here.run({"x": x}, ["y"])[0], rtol=1e-2, atol=1e-2)  # TF32
    there.close()


@pytest.mark.gpu
@needs_gpu
def test_text_on_a_gpu_replica_is_scored_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, ["N"]) for name in "xy")
    backend = on_gpu(path, save(path, [helper.make_node("Identity", ["x"], ["y"])], [x], [y]), tmp_path)
    assert backend.run({"x": np.array([b"one"], object)}, ["y"])[0].tolist() == [b"one"]


@pytest.mark.gpu
@needs_gpu
def test_tensorrt_answers_as_the_cpu_does_and_keeps_its_engine(tmp_path: Path) -> None:
    if not tensorrt_version():
        pytest.skip("the TensorRT libraries are not installed")
    path = tmp_path / "mlp.onnx"
    sha256 = tiny_mlp(path)
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    for _ in range(2):  # the second time from the engine cache
        (answer,) = on_gpu(path, sha256, tmp_path, Provider.TENSORRT).run({"x": x}, ["y"])
        np.testing.assert_allclose(answer, opened(path, sha256).run({"x": x}, ["y"])[0], rtol=1e-2, atol=1e-2)
    assert list((tmp_path / "tensorrt").rglob("*.engine"))
