"""What Envoy is to a Proxy-Wasm module, as far as places.wat goes: workers, with a machine each, and what they share.

After https://github.com/proxy-wasm/spec/tree/main/abi-versions/v0.2.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import count

import wasmtime

OK, NOT_FOUND, CAS_MISMATCH = 0, 1, 8
CONTINUE = 0
_VM_CONFIGURATION = 6

RULE = b"xds\0virtual_host_metadata\0filter_metadata\0crossfade.limits\0places"
CALLER = b"caller"

_ENGINE = wasmtime.Engine()


def text_of_module() -> str:
    return files("router.xds").joinpath("places.wat").read_text()


def module() -> bytes:
    return files("router.xds").joinpath("places.wasm").read_bytes()


_MODULE = wasmtime.Module(_ENGINE, module())


def rule(of_all: int, of_each: int, endpoint: str) -> bytes:
    return f"{of_all:07}{of_each:07}{endpoint}|".encode() + (CALLER if of_each else b"")


@dataclass(slots=True)
class SharedData:
    """Between workers. `before_set`: what another one does after a list was read and before it is replaced."""

    values: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    before_set: Callable[[], None] | None = None
    _states: count[int] = field(default_factory=lambda: count(1))

    def set(self, key: bytes, value: bytes, state: int) -> int:
        before_set, self.before_set = self.before_set, None
        if before_set:
            before_set()
        if key in self.values and state and self.values[key][1] != state:
            return CAS_MISMATCH
        self.values[key] = (value, next(self._states))
        return OK

    @property
    def counts(self) -> dict[int, int]:
        """What there is: the number of each count, and what it stands at."""
        entries = [value[at : at + 16] for value, _ in self.values.values() for at in range(0, len(value), 16)]
        found = {int.from_bytes(entry[:8], "little"): int.from_bytes(entry[8:12], "little") for entry in entries}
        assert len(found) == len(entries), "a count is there twice"
        return found


class Worker:
    """`refused`: the details of every answer that the module gave by itself."""

    def __init__(self, shared: SharedData, secret: bytes = bytes(range(16))) -> None:
        self.refused: list[str] = []
        self._shared = shared
        self._secret = secret
        self._properties: dict[bytes, bytes] = {}
        self._store = wasmtime.Store(_ENGINE)
        self._linker = wasmtime.Linker(_ENGINE)
        self._define("proxy_get_property", 4, self._get_property)
        self._define("proxy_get_shared_data", 5, self._get_shared_data)
        self._define("proxy_set_shared_data", 5, self._set_shared_data)
        self._define("proxy_get_buffer_bytes", 5, self._get_buffer_bytes)
        self._define("proxy_send_local_response", 8, self._send_local_response)
        self._exports = self._linker.instantiate(self._store, _MODULE).exports(self._store)
        self._memory = self._exports["memory"]
        self.is_started = bool(self._call("proxy_on_vm_start", 1, len(secret)))

    def begins(self, request: int, said: bytes | None, caller: bytes | None = None) -> bool:
        """Whether the request may go on; `said`: by its routes."""
        known = {RULE: said, CALLER: caller}
        self._properties = {path: value for path, value in known.items() if value is not None}
        return self._call("proxy_on_request_headers", request, 5, 1) == CONTINUE

    def ends(self, request: int) -> None:
        self._properties = {}  # its routes may be gone by then
        assert self._call("proxy_on_done", request) == 1

    def _call(self, name: str, *arguments: int) -> int:
        result: int = self._exports[name](self._store, *arguments)
        return result

    def _define(self, name: str, arity: int, call: Callable[..., int]) -> None:
        number = wasmtime.ValType.i32()
        self._linker.define_func("env", name, wasmtime.FuncType([number] * arity, [number]), call)

    def _get_property(self, path: int, length: int, to: int, to_length: int) -> int:
        value = self._properties.get(self._read(path, length))
        return NOT_FOUND if value is None else self._answer(value, to, to_length)

    def _get_shared_data(self, key: int, length: int, to: int, to_length: int, to_state: int) -> int:
        found = self._shared.values.get(self._read(key, length))
        if found is None:
            return NOT_FOUND
        self._write(to_state, found[1].to_bytes(4, "little"))
        return self._answer(found[0], to, to_length)

    def _set_shared_data(self, key: int, length: int, value: int, value_length: int, state: int) -> int:
        return self._shared.set(self._read(key, length), self._read(value, value_length), state)

    def _get_buffer_bytes(self, kind: int, start: int, most: int, to: int, to_length: int) -> int:
        return (
            self._answer(self._secret[start : start + most], to, to_length) if kind == _VM_CONFIGURATION else NOT_FOUND
        )

    def _send_local_response(self, status: int, details: int, length: int, *others: int) -> int:
        assert (status, others[-1]) == (429, 8)
        assert self._read(others[2], others[3]) == bytes(4)  # no headers
        self.refused.append(self._read(details, length).decode())
        return OK

    def _answer(self, value: bytes, to: int, to_length: int) -> int:
        at = self._call("proxy_on_memory_allocate", len(value)) if value else 0
        self._write(at, value)
        self._write(to, at.to_bytes(4, "little"))
        self._write(to_length, len(value).to_bytes(4, "little"))
        return OK

    def _read(self, at: int, length: int) -> bytes:
        return bytes(self._memory.read(self._store, at, at + length))

    def _write(self, at: int, value: bytes) -> None:
        self._memory.write(self._store, value, at)
