"""The CUDA runtime, up to the calls themselves."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.onnx.nvidia import CudaMemory, DeviceFailed, load_cudart
from router.domain.errors import ModelUnavailable
from tests.unit.onnx.cudart import HostCudart


def test_bytes_go_to_the_device_and_back_when_waited_for() -> None:
    cudart = HostCudart()
    memory = CudaMemory(cudart)
    stream = memory.stream()
    there, back = memory.pinned(16), memory.pinned(16)
    address = memory.allocate(16)
    there[:] = np.arange(16)
    stream.copy_in(address, there)
    stream.copy_out(back, address)
    assert back.tolist() != there.tolist()
    stream.wait()
    assert back.tolist() == there.tolist()
    stream.close()
    memory.free(address)
    memory.unpin(there)
    memory.unpin(back)
    assert cudart.is_clean


def test_the_device_is_described_by_what_engines_depend_on() -> None:
    gpu = CudaMemory(HostCudart()).gpu()
    assert gpu.memory_bytes == HostCudart.TOTAL
    assert gpu.identity == f"sm_90, 132 multiprocessors, {HostCudart.TOTAL} bytes"
    assert gpu.id == 0


def test_a_failure_has_the_function_s_name_and_cuda_s_words() -> None:
    cudart = HostCudart()
    cudart.failing["cudaMalloc"] = 2
    with pytest.raises(DeviceFailed, match="cudaMalloc: out of memory"):
        CudaMemory(cudart).allocate(1)


def test_another_device_than_the_first_is_chosen_in_the_thread_that_calls() -> None:
    first, second = HostCudart(), HostCudart()
    CudaMemory(first).stream()
    CudaMemory(second, 1).stream()
    assert first.devices == []
    assert [device for _, device in second.devices] == [1]


def test_a_runtime_that_is_not_installed_is_refused_with_what_to_install() -> None:
    with pytest.raises(ModelUnavailable, match=r"libcudart\.so\.99 cannot be loaded: install Crossfade's extra `gpu`"):
        load_cudart("99.1")
