"""Scripts: the Lua that Envoy runs, joined of files that lean on each other.

Envoy's LuaJIT gives them `ffi`, `bit` and `string.buffer`, and gives each filter of each worker a machine of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from envoy.config.core.v3 import base_pb2

# What reads requests, compressed or not. In this order: each leans on those before it.
READING = ("triton_reading", "inflate", "decompression", "messages")


def script(*names: str, marks: Mapping[str, str], more: str = "") -> str:
    """These files, and `more`, with what each mark stands for in its place."""
    text = "\n".join([*(files("router.xds").joinpath(f"{name}.lua").read_text() for name in names), more])
    for mark, meant in marks.items():
        text = text.replace(mark, meant)
    return text


def inline(text: str) -> Any:
    return base_pb2.DataSource(inline_string=text)
