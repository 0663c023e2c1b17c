"""A CUDA runtime whose device is this machine's memory. Speaks ctypes like the real library."""

from __future__ import annotations

import ctypes
import threading

_TO_HOST = 2


class HostCudart:
    """`calls` remembers what was called, in order; `failing` maps a function to the error that it returns."""

    TOTAL = 80 * 1024**3

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: dict[str, int] = {}
        self.devices: list[tuple[int, int]] = []  # (thread, device)
        self.device_memory: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.pinned_memory: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.streams: set[int] = set()
        self.pending: dict[int, list[tuple[int, int, int]]] = {}

    def cudaSetDevice(self, device: int) -> int:  # noqa: N802  # the library's names
        self.devices.append((threading.get_ident(), device))
        return self._done("cudaSetDevice")

    def cudaMalloc(self, pointer: object, size: int) -> int:  # noqa: N802
        return self._allocate("cudaMalloc", self.device_memory, pointer, size)

    def cudaHostAlloc(self, pointer: object, size: int, flags: int) -> int:  # noqa: N802
        return self._allocate("cudaHostAlloc", self.pinned_memory, pointer, size)

    def cudaFree(self, address: int) -> int:  # noqa: N802
        del self.device_memory[address]
        return self._done("cudaFree")

    def cudaFreeHost(self, address: int) -> int:  # noqa: N802
        del self.pinned_memory[address]
        return self._done("cudaFreeHost")

    def cudaStreamCreateWithFlags(self, pointer: object, flags: int) -> int:  # noqa: N802
        stream = len(self.streams) + 1
        self.streams.add(stream)
        self.pending[stream] = []
        _set(pointer, stream)
        return self._done("cudaStreamCreateWithFlags")

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> int:  # noqa: N802
        """Copies when somebody waits, so that whoever forgets to wait reads what was there before."""
        host, device = (target, source) if kind == _TO_HOST else (source, target)
        assert _holds(self.pinned_memory, host, size)
        # What ONNX Runtime allocates on the device, outputs, is not in our books.
        assert kind == _TO_HOST or _holds(self.device_memory, device, size)
        self.pending[stream].append((target, source, size))
        return self._done("cudaMemcpyAsync")

    def cudaStreamSynchronize(self, stream: int) -> int:  # noqa: N802
        for target, source, size in self.pending[stream]:
            ctypes.memmove(target, source, size)
        self.pending[stream].clear()
        return self._done("cudaStreamSynchronize")

    def cudaStreamDestroy(self, stream: int) -> int:  # noqa: N802
        self.streams.remove(stream)
        return self._done("cudaStreamDestroy")

    def cudaMemGetInfo(self, free: object, total: object) -> int:  # noqa: N802
        _set(free, self.TOTAL // 2)
        _set(total, self.TOTAL)
        return self._done("cudaMemGetInfo")

    def cudaDeviceGetAttribute(self, value: object, attribute: int, device: int) -> int:  # noqa: N802
        _set(value, {75: 9, 76: 0, 16: 132}[attribute])
        return self._done("cudaDeviceGetAttribute")

    def cudaGetErrorString(self, code: int) -> bytes:  # noqa: N802
        return {2: b"out of memory"}.get(code, b"unknown error")

    @property
    def is_clean(self) -> bool:
        return not (self.device_memory or self.pinned_memory or self.streams)

    def _allocate(self, name: str, where: dict[int, ctypes.Array[ctypes.c_char]], pointer: object, size: int) -> int:
        if name not in self.failing:
            block = ctypes.create_string_buffer(b"\xff" * size, size)
            where[ctypes.addressof(block)] = block
            _set(pointer, ctypes.addressof(block))
        return self._done(name)

    def _done(self, name: str) -> int:
        self.calls.append(name)
        return self.failing.get(name, 0)


def _set(pointer: object, value: int) -> None:
    pointer._obj.value = value  # type: ignore[attr-defined]  # what ctypes.byref refers to


def _holds(blocks: dict[int, ctypes.Array[ctypes.c_char]], address: int, size: int) -> bool:
    return any(start <= address and address + size <= start + len(block) for start, block in blocks.items())
