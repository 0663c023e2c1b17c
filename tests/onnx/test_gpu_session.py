"""What is asked of ONNX Runtime to bring a model onto a GPU, and what happens when it says no. Sessions are real ones
of the CPU, opened instead of those that are asked for; the device is this machine's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from adapters.onnx.cpu_run import CpuRun
from adapters.onnx.device_run import DeviceRun
from adapters.onnx.gpu_session import run_on
from adapters.onnx.nvidia import CudaMemory
from adapters.onnx.options import CpuSettings, GpuSettings, OnnxOptions
from adapters.onnx.providers import CPU, CUDA, TENSORRT, ProviderRequest
from adapters.onnx.session import open_session, session_settings
from benchmarks.models import save, tiny_mlp
from router.domain.deployment_settings import Provider
from router.domain.errors import ModelUnavailable
from serving.signature import Signature
from tests.unit.onnx.cudart import HostCudart


class HostMemory(CudaMemory):
    device = "cpu"


@dataclass
class Machine:
    """Opens whatever is asked for, unless `refuses` says no. `asked`: the options of the first provider, each time."""

    path: Path
    refuses: Callable[[dict[str, str]], str] = lambda options: ""
    asked: list[dict[str, str]] = field(default_factory=list)
    requests: list[list[ProviderRequest]] = field(default_factory=list)
    cudart: HostCudart = field(default_factory=HostCudart)

    def open_with(self, providers: list[ProviderRequest]) -> onnxruntime.InferenceSession:
        self.requests.append(providers)
        self.asked.append(providers[0][1])
        if reason := self.refuses(providers[0][1]):
            raise ModelUnavailable(reason)
        return open_session(self.path, session_settings(CpuSettings(), is_capped=False), [CPU])

    def run(self, settings: GpuSettings, cache_dir: str = "") -> tuple[Signature, DeviceRun | CpuRun]:
        memory = HostMemory(self.cudart)
        options = OnnxOptions(str(self.path), "a" * 64, gpu=settings, cache_dir=cache_dir)
        return run_on(memory.gpu(), memory, options, settings, self.open_with)

    @property
    def graphs_asked_for(self) -> list[str]:
        return [options["enable_cuda_graph"] for options in self.asked]


def identity(path: Path, element: int, shape: list[int | str]) -> Path:
    x, y = (helper.make_tensor_value_info(name, element, shape) for name in "xy")
    save(path, [helper.make_node("Identity", ["x"], ["y"])], [x], [y])
    return path


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    path = tmp_path / "mlp.onnx"
    tiny_mlp(path)
    return Machine(path)


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((count, 64), np.float32)}


def test_graphs_are_asked_for_first(machine: Machine) -> None:
    signature, run = machine.run(GpuSettings(max_batch_size=4))
    assert machine.graphs_asked_for == ["1"]
    assert signature.is_batchable
    assert isinstance(run, DeviceRun)
    assert [run.has_graph(rows(count)) for count in (1, 3, 4, 8)] == [True, False, True, False]
    assert run.run(rows(4), ["y"])[0].shape == (4, 10)


def test_a_model_that_cannot_have_graphs_is_opened_again_without(machine: Machine) -> None:
    machine.refuses = lambda options: "not all nodes are on CUDA" if options["enable_cuda_graph"] == "1" else ""
    _, run = machine.run(GpuSettings())
    assert machine.graphs_asked_for == ["1", "0"]
    assert isinstance(run, DeviceRun)
    assert not run.has_graph(rows(1))
    assert run.run(rows(1), ["y"])[0].shape == (1, 10)


def test_a_model_with_free_axes_is_opened_again_without_graphs(tmp_path: Path) -> None:
    machine = Machine(identity(tmp_path / "m.onnx", TensorProto.FLOAT, ["N", "S"]))
    _, run = machine.run(GpuSettings())
    assert machine.graphs_asked_for == ["1", "0"]
    assert run.run({"x": np.ones((3, 7), np.float32)}, ["y"])[0].shape == (3, 7)


def test_graphs_that_do_not_fit_into_the_device_are_done_without_and_their_memory_is_free(machine: Machine) -> None:
    machine.cudart.failing["cudaHostAlloc"] = 2
    _, run = machine.run(GpuSettings())
    assert machine.graphs_asked_for == ["1", "0"]
    assert not machine.cudart.device_memory
    machine.cudart.failing.clear()
    assert run.run(rows(1), ["y"])[0].shape == (1, 10)


def test_graphs_that_the_spec_forbids_are_never_asked_for(machine: Machine) -> None:
    machine.run(GpuSettings(options={"enable_cuda_graph": "0"}))
    assert machine.graphs_asked_for == ["0"]


def test_a_provider_that_refuses_either_way_refuses_the_model(machine: Machine) -> None:
    machine.refuses = lambda options: "the GPU is on fire"
    with pytest.raises(ModelUnavailable, match="on fire"):
        machine.run(GpuSettings())
    assert machine.graphs_asked_for == ["1", "0"]


def test_a_device_that_fails_while_loading_refuses_the_model_with_cuda_s_words(machine: Machine) -> None:
    machine.cudart.failing["cudaStreamCreateWithFlags"] = 2
    with pytest.raises(ModelUnavailable, match=r"'mlp\.onnx' did not load on the GPU.*out of memory"):
        machine.run(GpuSettings())


def test_text_runs_without_device_buffers(tmp_path: Path) -> None:
    machine = Machine(identity(tmp_path / "text.onnx", TensorProto.STRING, ["N"]))
    _, run = machine.run(GpuSettings())
    assert isinstance(run, CpuRun)
    assert run.parallelism == 1
    assert run.run({"x": np.array([b"one"], object)}, ["y"])[0].tolist() == [b"one"]
    assert machine.cudart.is_clean


def test_tensorrt_gets_the_shapes_of_the_model_and_a_folder_for_its_engines(machine: Machine, tmp_path: Path) -> None:
    machine.run(GpuSettings(Provider.TENSORRT, max_batch_size=16), str(tmp_path / "cache"))
    assert [name for name, _ in machine.requests[0]] == [TENSORRT, CUDA, CPU]
    (options,) = machine.asked
    assert options["trt_profile_min_shapes"] == "x:1x64"
    assert options["trt_profile_max_shapes"] == "x:16x64"
    folder = Path(options["trt_engine_cache_path"])
    assert folder.parent == tmp_path / "cache" / "tensorrt"
    assert folder.stat().st_mode & 0o077 == 0


def test_another_setting_gets_another_folder_for_its_engines(machine: Machine, tmp_path: Path) -> None:
    for options in ({}, {"trt_fp16_enable": "1"}, {}):
        machine.run(GpuSettings(Provider.TENSORRT, options), str(tmp_path))
    first, second, third = (options["trt_engine_cache_path"] for options in machine.asked)
    assert first == third != second


def test_engines_that_cannot_be_kept_are_built_each_time(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    machine.run(GpuSettings(Provider.TENSORRT), str(tmp_path / "file"))
    assert "trt_engine_cache_enable" not in machine.asked[0]


def test_engines_that_do_not_load_are_built_again_once(machine: Machine, tmp_path: Path) -> None:
    settings = GpuSettings(Provider.TENSORRT)
    machine.run(settings, str(tmp_path))
    engine = Path(machine.asked[0]["trt_engine_cache_path"], "model.engine")
    engine.write_bytes(b"damaged")
    machine.refuses = lambda options: "cannot deserialize" if engine.exists() else ""
    machine.run(settings, str(tmp_path))
    assert not engine.exists()
    assert len(machine.asked) == 3


def test_a_model_that_tensorrt_refuses_is_not_tried_again(machine: Machine, tmp_path: Path) -> None:
    machine.refuses = lambda options: "no"
    with pytest.raises(ModelUnavailable, match="no"):
        machine.run(GpuSettings(Provider.TENSORRT), str(tmp_path))
    assert len(machine.asked) == 1
