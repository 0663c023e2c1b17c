"""A made-up but valid V2 request for a model, from the metadata that the model gives about itself. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from router.domain.errors import Invalid

# A free axis other than the batch axis: sequences take any length, image models need at least this many pixels.
FREE_AXIS = 32
_MAX_ELEMENTS = 4_000_000

_VALUES: dict[str, Callable[[Random], Any]] = {
    "BOOL": lambda random: random.random() < 0.5,
    "BYTES": lambda random: random.choice(("blue", "green", "crossfade", "a line of text")),
    **{name: lambda random: round(random.random(), 4) for name in ("FP32", "FP64")},
    # 0 and 1 are the integers that token ids, masks and class indexes all accept.
    **{f"{sign}INT{bits}": lambda random: random.randint(0, 1) for sign in ("", "U") for bits in (8, 16, 32, 64)},
}


def sample_request(metadata: Mapping[str, Any], random: Random, rows: int = 1) -> dict[str, Any]:
    """A request with `rows` in every free first axis. Raises `Invalid` for a model that JSON cannot ask."""
    inputs = metadata.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise Invalid("", "the model names no inputs, so no request can be made up", "write one: --request-file r.json")
    return {"inputs": [_input(tensor, random, rows) for tensor in inputs]}


def _input(tensor: Mapping[str, Any], random: Random, rows: int) -> dict[str, Any]:
    name, datatype = tensor["name"], tensor["datatype"]
    if datatype not in _VALUES:
        raise Invalid(
            "", f"input {name!r} is {datatype}, which JSON cannot carry", "use a client that sends binary data"
        )
    shape = [_axis(size, rows if at == 0 else FREE_AXIS) for at, size in enumerate(tensor["shape"])]
    count = math.prod(shape)
    if count > _MAX_ELEMENTS:
        raise Invalid("", f"input {name!r} would have {count} elements", "write a request: --request-file r.json")
    value = _VALUES[datatype]
    return {"name": name, "shape": shape, "datatype": datatype, "data": [value(random) for _ in range(count)]}


def _axis(size: int, free: int) -> int:
    return free if size < 0 else size
