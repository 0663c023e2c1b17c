"""The Lua that Envoy runs, run by the same LuaJIT outside of it. Texts are bytes on both sides."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

from lupa.luajit21 import LuaRuntime


class Refused(Exception):
    """What a script says to a client instead of an answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status
        self.text = text


class Script:
    """Files of `router.xds`, joined as they are for Envoy."""

    def __init__(self, *names: str) -> None:
        self._runtime = LuaRuntime(encoding=None)
        self._source = "\n".join(files("router.xds").joinpath(f"{name}.lua").read_text() for name in names)

    def functions(self, *names: str) -> list[Callable[..., Any]]:
        """These local functions of the script. They raise `Refused`; a mistake in Lua is a `RuntimeError`."""
        guards = [
            f"function(...) local done, found = pcall({name}, ...) if done then return found end "
            f"if type(found) == 'table' then return false, found.status, found.text end error(found, 0) end"
            for name in names
        ]
        made = self._runtime.execute(f"{self._source}\nreturn {{ {', '.join(guards)} }}".encode())
        return [_raising(made[index + 1]) for index in range(len(names))]

    def kilobytes(self) -> float:
        """What is held after what nobody needs is collected."""
        return float(self._runtime.execute(b'collectgarbage() collectgarbage() return collectgarbage("count")'))


def _raising(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        found = function(*given)
        if isinstance(found, tuple) and found[0] is False:
            raise Refused(int(found[1]), found[2].decode())
        return found

    return call
