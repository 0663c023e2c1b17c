"""NVIDIA's libraries, as far as ONNX Runtime does not offer them to Python: page-locked memory, device memory, copies
on a stream of one's own. The only file that calls the CUDA runtime. https://docs.nvidia.com/cuda/cuda-runtime-api/

Through ctypes: these dozen functions have not changed since CUDA 11, and ctypes lets other threads run while it copies,
which ONNX Runtime's own copies from Python do not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from adapters.onnx.providers import Gpu
from router.domain.errors import ModelUnavailable

_TO_DEVICE, _TO_HOST = 1, 2
_NON_BLOCKING = 1  # a stream that does not wait for the default one, as ONNX Runtime's own do not
_PORTABLE = 1  # page-locked for every context
_MAJOR, _MINOR, _MULTIPROCESSORS = 75, 76, 16  # cudaDeviceAttr

_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_ARGUMENTS = {
    "cudaSetDevice": (_INT,),
    "cudaMalloc": (_POINTER, _SIZE),
    "cudaFree": (_POINTER,),
    "cudaHostAlloc": (_POINTER, _SIZE, ctypes.c_uint),
    "cudaFreeHost": (_POINTER,),
    "cudaMemcpyAsync": (_POINTER, _POINTER, _SIZE, _INT, _POINTER),
    "cudaStreamCreateWithFlags": (_POINTER, ctypes.c_uint),
    "cudaStreamSynchronize": (_POINTER,),
    "cudaStreamDestroy": (_POINTER,),
    "cudaMemGetInfo": (_POINTER, _POINTER),
    "cudaDeviceGetAttribute": (_POINTER, _INT, _INT),
}


class DeviceFailed(RuntimeError):
    """CUDA's own words."""


def load_cudart(cuda_version: str) -> Any:
    """The CUDA runtime of the version (`13.0`) that ONNX Runtime was built for. Raises `ModelUnavailable`."""
    name = f"libcudart.so.{cuda_version.partition('.')[0]}"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise ModelUnavailable(
            f"the deployment asks for a GPU, but {name} cannot be loaded: install Crossfade's extra `gpu`"
        ) from error
    for function, arguments in _ARGUMENTS.items():
        getattr(library, function).argtypes = arguments
    library.cudaGetErrorString.restype = ctypes.c_char_p
    return library


def missing_libraries(cuda_version: str) -> list[str]:
    """Those of the libraries that ONNX Runtime's CUDA needs which this process cannot load, the driver's among them."""
    major = cuda_version.partition(".")[0]
    needed = ("libcuda.so.1", f"libcudart.so.{major}", f"libcublas.so.{major}", "libcudnn.so.9")
    return [name for name in needed if not _can_be_loaded(name)]


def _can_be_loaded(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def tensorrt_version() -> str:
    """Of the TensorRT library that this process would use; empty when there is none."""
    for name in ("libnvinfer.so.11", "libnvinfer.so.10"):
        try:
            return str(ctypes.CDLL(name).getInferLibVersion())
        except (OSError, AttributeError):
            continue
    return ""


class CudaMemory:
    """Memory of one device, and page-locked memory of this machine. Raises `DeviceFailed`. Thread-safe.

    `cudart`: the library, as `load_cudart` returns it.
    """

    device = "cuda"

    def __init__(self, cudart: Any, device_id: int = 0) -> None:
        self._cudart = cudart
        self.device_id = device_id

    def gpu(self) -> Gpu:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        facts = [self._attribute(number) for number in (_MAJOR, _MINOR, _MULTIPROCESSORS)]
        identity = f"sm_{facts[0]}{facts[1]}, {facts[2]} multiprocessors, {total.value} bytes"
        return Gpu(total.value, identity, self.device_id)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the device."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), size)
        return address.value or 0

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def pinned(self, size: int) -> np.ndarray:
        """`size` bytes (UINT8) of page-locked memory, which the device copies at full speed. It ends with `unpin`."""
        address = ctypes.c_void_p()
        self._call("cudaHostAlloc", ctypes.byref(address), size, _PORTABLE)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address.value or 0))

    def unpin(self, array: np.ndarray) -> None:
        self._call("cudaFreeHost", array.ctypes.data)

    def stream(self) -> CudaStream:
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(stream), _NON_BLOCKING)
        return CudaStream(self._call_now, stream.value or 0)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), number, self.device_id)
        return value.value

    def _call(self, function: str, *arguments: object) -> None:
        if self.device_id:  # every thread has a current device, at first the device 0
            self._call_now("cudaSetDevice", self.device_id)
        self._call_now(function, *arguments)

    def _call_now(self, function: str, *arguments: object) -> None:
        code = getattr(self._cudart, function)(*arguments)
        if code:
            words = self._cudart.cudaGetErrorString(code)
            raise DeviceFailed(f"{function}: {words.decode() if words else code}")


class CudaStream:
    """Copies in order, beside whatever else the device does. Copies return at once; `wait` until they are done."""

    def __init__(self, call: Callable[..., None], stream: int) -> None:
        self._call = call
        self._stream = stream

    def copy_in(self, address: int, array: np.ndarray) -> None:
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, _TO_DEVICE, self._stream)

    def copy_out(self, array: np.ndarray, address: int) -> None:
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, _TO_HOST, self._stream)

    def wait(self) -> None:
        self._call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        self._call("cudaStreamDestroy", self._stream)
