"""What sampling answers costs a replica's request in CPU: off, on without the mark, on and not chosen, on and chosen.

Handlers are called directly, no sockets: `python -m benchmarks.sampling`. The model answers at once, so differences
between the lines are what sampling adds.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

import numpy as np
import orjson

from serving.errors import ScoringError
from serving.exchange import Cancel, Handler, HttpRequest, HttpResponse
from serving.messages import InferReply, InferRequest
from serving.protocol import model_handler
from serving.samples_api import PATH, written_order
from serving.sampling import Order
from serving.server_view import ServerView
from serving.signature import Signature, TensorSpec
from serving.statistics import ModelStatistics

ROUNDS, CALLS = 15, 4000


class Instant:
    """A model that has its answer ready."""

    name, version, max_batch_size, is_ready, pending = "m", "1", 64, True, 1

    def __init__(self, outputs: int) -> None:
        self.signature = Signature(
            (TensorSpec("x", "FP32", (-1, 64)),), (TensorSpec("y", "FP32", (-1, outputs)),), is_batchable=True
        )
        scores = np.linspace(0, 1, outputs, dtype=np.float32).reshape(1, outputs)
        self._reply = InferReply("m", "1", "", [("y", "FP32", scores)])

    def infer(
        self, request: InferRequest, deadline_s: float, reply: Callable[[InferReply | ScoringError], None]
    ) -> Cancel:
        reply(self._reply)
        return lambda: None

    def statistics(self) -> ModelStatistics:
        return ModelStatistics()


def _ignored(_: HttpResponse) -> None:
    """The reply is of no interest."""


def cpu_us(handler: Handler, request: HttpRequest) -> float:
    began_s = time.process_time()
    for _ in range(CALLS):
        handler(request, _ignored)
    return (time.process_time() - began_s) / CALLS * 1e6


async def measured(outputs: int) -> None:
    def order(share: float) -> HttpRequest:
        return HttpRequest(b"POST", PATH.encode(), {}, written_order(Order(share, 600, 10**9, has_repeats=False)))

    handler = model_handler(Instant(outputs), lambda: ServerView("1", True, ()))
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.125] * 64}
    body = orjson.dumps({"inputs": [tensor]})
    plain = HttpRequest(
        b"POST", b"/v2/models/m/infer", {b"x-request-id": b"b1fb2a8a-51b7-4595-81a3-b9656d7a89c9"}, body
    )
    marked = HttpRequest(b"POST", plain.path, {**plain.headers, b"x-crossfade-mirrored": b"1"}, body)
    cases = {"off": (None, marked), "not mirrored": (1.0, plain), "not chosen": (0.0, marked), "chosen": (1.0, marked)}
    times: dict[str, list[float]] = {name: [] for name in cases}
    off = model_handler(Instant(outputs), lambda: ServerView("1", True, ()))
    for _ in range(ROUNDS):
        for name, (share, request) in cases.items():
            if share is not None:
                handler(order(share), _ignored)
            times[name].append(cpu_us(off if share is None else handler, request))
    base = statistics.median(times["off"])
    print(f"{outputs} scores: off {base:.2f} µs; " + ", ".join(
        f"{name} {statistics.median(values) - base:+.2f} µs" for name, values in times.items() if name != "off"
    ))  # fmt: skip


async def main() -> None:
    for outputs in (10, 1000):
        await measured(outputs)


if __name__ == "__main__":
    asyncio.run(main())
