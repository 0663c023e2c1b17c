"""When a request's answer stops being of use: the earliest of what the client, Envoy and the request itself say.

Envoy says how long it will wait: the deployment's `request_timeout_ms`, or less where the client set `grpc-timeout`.
The deployment's objective (`batching.latency_slo_ms`) is no deadline: who has been let in is answered, however late. It
orders the queue (serving/batching.py), and in overload it decides who is let in (serving/admission.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from serving.errors import BadRequest
from serving.grpc_framing import parsed_timeout_s
from serving.messages import InferRequest
from serving.parameters import timeout_s
from serving.text import quoted

_ENVOY_TIMEOUT = b"x-envoy-expected-rq-timeout-ms"
_GRPC_TIMEOUT = b"grpc-timeout"


def deadline_s(headers: Mapping[bytes, bytes], request: InferRequest, now_s: float) -> float:
    """On the clock of `now_s`; infinity when nobody set a limit. Raises `BadRequest` for a header it cannot read."""
    limit_s = inf
    envoy = headers.get(_ENVOY_TIMEOUT)
    if envoy is not None:
        limit_s = _envoy_timeout_s(envoy)
    grpc = headers.get(_GRPC_TIMEOUT)
    if grpc is not None:
        limit_s = min(limit_s, parsed_timeout_s(grpc))
    if request.parameters:
        own_s = timeout_s(request.parameters)
        if own_s is not None:
            limit_s = min(limit_s, own_s)
    return now_s + limit_s


def _envoy_timeout_s(value: bytes) -> float:
    if not value.isdigit() or len(value) > 12:
        raise BadRequest(f"{_ENVOY_TIMEOUT.decode()} must be milliseconds, got {quoted(value.decode('latin-1'))}")
    return int(value) / 1000 or inf  # Envoy's 0 is "no timeout"
