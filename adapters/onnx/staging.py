"""Buffers through which a batch travels to a device and back. Knows the device by its memory only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Protocol

import numpy as np

from adapters.onnx.device_plan import capacity_for, shape_for
from adapters.onnx.elements import OrtValue
from serving.errors import BadRequest
from serving.signature import TensorSpec
from serving.tensors import DATATYPES


class Stream(Protocol):
    """Copies in order; `wait` returns when all are done."""

    def copy_in(self, address: int, array: np.ndarray) -> None: ...
    def copy_out(self, array: np.ndarray, address: int) -> None: ...
    def wait(self) -> None: ...
    def close(self) -> None: ...


class DeviceMemory(Protocol):
    """`device`: ONNX Runtime's word for where it is."""

    device: str
    device_id: int

    def allocate(self, size: int) -> int: ...
    def free(self, address: int) -> None: ...
    def pinned(self, size: int) -> np.ndarray: ...
    def unpin(self, array: np.ndarray) -> None: ...
    def stream(self) -> Stream: ...


class PinnedBuffer:
    """Page-locked memory of this machine. It grows, and moves when it does; it never shrinks."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._bytes: np.ndarray = np.empty(0, np.uint8)

    def view(self, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
        """An array at the buffer's beginning, overwritten by the next batch."""
        size = prod(shape) * dtype.itemsize
        if size > self._bytes.nbytes:
            capacity = capacity_for(size, self._bytes.nbytes)
            self.close()
            self._bytes = self._memory.pinned(capacity)
        array: np.ndarray = self._bytes[:size].view(dtype).reshape(shape)
        return array

    def close(self) -> None:
        if self._bytes.nbytes:
            self._memory.unpin(self._bytes)
            self._bytes = np.empty(0, np.uint8)


class DeviceBuffer:
    """Memory of the device. It grows, and moves when it does; it never shrinks."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._capacity = 0
        self.address = 0

    def reserve(self, size: int) -> None:
        """Hold `size` bytes at least, one even where a tensor is empty: a binding needs an address."""
        capacity = capacity_for(max(1, size), self._capacity)
        if capacity > self._capacity:
            self.close()
            self.address, self._capacity = self._memory.allocate(capacity), capacity

    def close(self) -> None:
        if self._capacity:
            self._memory.free(self.address)
            self.address, self._capacity = 0, 0


class Slot:
    """What one batch on its way needs: buffers for every tensor, and a stream. One thread at a time."""

    def __init__(self, memory: DeviceMemory, specs: Iterable[TensorSpec]) -> None:
        self._stream = memory.stream()
        self._dtypes = {spec.name: DATATYPES[spec.datatype].dtype for spec in specs}
        self._pinned = {name: PinnedBuffer(memory) for name in self._dtypes}
        self._device = {name: DeviceBuffer(memory) for name in self._dtypes}

    def reserve(self, name: str, size: int) -> int:
        """The device's address for a tensor of `size` bytes. It stays while none is asked for that is larger."""
        self._device[name].reserve(size)
        return self._device[name].address

    def copy_in(self, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
        """To the device. Returns where they are when they are there.

        Raises `BadRequest` for another datatype than declared: by address, it would be taken for something else.
        """
        addresses = {}
        for name, array in inputs.items():
            dtype = self._dtypes[name]
            if array.dtype != dtype:
                raise BadRequest(f"input {name!r} is {dtype}, got {array.dtype}")
            addresses[name] = self.reserve(name, array.nbytes)
            staged = self._pinned[name].view(dtype, array.shape)
            np.copyto(staged, array)
            if staged.nbytes:
                self._stream.copy_in(addresses[name], staged)
        self._stream.wait()
        return addresses

    def zero(self, specs: Iterable[TensorSpec], rows: int) -> None:
        """Fill the device's buffers with zeros: what lies there by chance could be an index out of range."""
        self.copy_in({spec.name: np.zeros(shape_for(spec, rows), self._dtypes[spec.name]) for spec in specs})

    def copy_out(self, names: Iterable[str], values: Iterable[OrtValue]) -> list[np.ndarray]:
        """From the device, into arrays of their own."""
        staged = []
        for name, value in zip(names, values, strict=True):
            array = self._pinned[name].view(self._dtypes[name], value.shape())
            if array.nbytes:
                self._stream.copy_out(array, value.data_ptr())
            staged.append(array)
        self._stream.wait()
        return [array.copy() for array in staged]

    def close(self) -> None:
        self._stream.close()
        for name in self._dtypes:
            self._pinned[name].close()
            self._device[name].close()
