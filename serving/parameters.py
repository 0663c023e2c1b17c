"""The protocol's parameters: which are understood, which are refused, which are ignored.

Unknown parameters are accepted and ignored, as the protocol says. A parameter that asks for something Crossfade does
not do (a sequence, a classification, shared memory) is refused: a client that sends it would misread the answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from serving.errors import BadRequest
from serving.messages import Parameter
from serving.text import quoted

_TIMEOUT = "timeout"
_PRIORITY = "priority"
_SHARED_MEMORY = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


def check_request_parameters(parameters: Mapping[str, Parameter]) -> None:
    """Raises `BadRequest` for parameters of a whole request that cannot be honoured."""
    for key, value in parameters.items():
        if key in (_TIMEOUT, _PRIORITY):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise BadRequest(f"parameter {key!r} must be a whole number, 0 or more, got {quoted(value)}")
        # Clients send sequence_id 0 or "" for "no sequence".
        elif key in ("sequence_id", "sequence_start", "sequence_end") and value:
            raise BadRequest(f"parameter {key!r} is not supported: models here keep no state between requests")


def check_input_parameters(name: str, parameters: Mapping[str, object]) -> None:
    for key in _SHARED_MEMORY:
        if key in parameters:
            raise BadRequest(f"input {quoted(name)}: shared memory is not offered, send the data in the request")


def check_output_parameters(name: str, parameters: Mapping[str, object]) -> None:
    for key in _SHARED_MEMORY:
        if key in parameters:
            raise BadRequest(f"output {quoted(name)}: shared memory is not offered, outputs travel in the reply")
    # 0 classes means "no classification", as in Triton.
    if parameters.get("classification"):
        raise BadRequest(f"output {quoted(name)}: 'classification' is not supported, ask for the output itself")


def timeout_s(parameters: Mapping[str, Parameter]) -> float | None:
    """The client's own limit, which the protocol counts in microseconds; None when there is none (0 means none)."""
    value = parameters.get(_TIMEOUT)
    return int(value) / 1e6 if value else None


def priority(parameters: Mapping[str, Parameter]) -> int:
    """0 is the default, 1 the highest, then falling: see serving/levels.py."""
    return int(parameters.get(_PRIORITY, 0))
