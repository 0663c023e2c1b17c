"""What the serving core costs: `Model.infer` to reply on one event loop, without sockets and without decoding.

    python -m benchmarks.batcher

Closed loop: each of n clients sends its next request when it has its reply, from a callback that the loop runs in its
next turn, as a socket would. Prints wall-clock and CPU microseconds per request, and rows per batch. With the wide MLP,
the difference between 1 and 32 clients is what batching gains. Before that: what the queue and the recorder take of it.
"""

from __future__ import annotations

import asyncio
import math
import resource
import tempfile
import time
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import uvloop

from adapters.onnx.backend import OnnxBackend
from adapters.onnx.options import OnnxOptions
from benchmarks.models import tiny_mlp, wide_mlp
from serving.batcher import Batcher, Slot
from serving.batching import BatchQueue
from serving.errors import ScoringError
from serving.execution import Executed, Executor, Run
from serving.lanes import Lanes
from serving.latency import LatencyTable
from serving.messages import InferReply, InferRequest
from serving.model import Model, ModelSettings
from serving.queue_limits import BatchLimits
from serving.recorder import Recorder
from serving.warmup import warm_up
from serving.work import Work
from serving.worker import Worker


async def through_model(options: OnnxOptions, columns: int, clients: int, requests: int) -> str:
    """The whole core, as a replica has it: inline or in a thread, as the warm-up decides."""
    model = Model(ModelSettings("bench", "1", objective_s=0.05))
    await model.load(partial(OnnxBackend, options))
    row = np.random.default_rng(1).standard_normal((1, columns)).astype(np.float32)
    request = InferRequest("", {"x": row})
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = requests

    def send() -> None:
        model.infer(request, math.inf, received)

    def received(reply: InferReply | ScoringError) -> None:
        nonlocal left
        if isinstance(reply, ScoringError):
            raise reply
        left -= 1
        if left >= clients:
            loop.call_soon(send)
        elif left == 0:
            done.set_result(None)

    before = model.statistics()
    wall_s, cpu_s = time.perf_counter(), _cpu_s()
    for _ in range(clients):
        send()
    await done
    wall_s, cpu_s = time.perf_counter() - wall_s, _cpu_s() - cpu_s
    after = model.statistics()
    batches = after.execution_count - before.execution_count
    where = "inline" if model.warm_up.is_inline else "thread"
    await model.drain()
    await model.close()
    return _line(f"model ({where})", clients, requests, wall_s, cpu_s, batches)


async def through_batcher(options: OnnxOptions, columns: int, clients: int, requests: int, is_inline: bool) -> str:
    """The batcher alone, inline or in a thread whatever a warm-up would decide."""
    backend = OnnxBackend(options)
    worker = None if is_inline else Worker("bench")
    recorder = Recorder()
    table = LatencyTable(warm_up(backend, 64).latency_s, 64)
    queue = BatchQueue(BatchLimits(max_batch_rows=64, max_waiting=1000, objective_s=0.05), Lanes(table))
    batcher = Batcher([Slot(Executor(backend, backend.signature), worker)], queue, recorder)
    inputs = {"x": np.random.default_rng(1).standard_normal((1, columns)).astype(np.float32)}
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = requests

    def send() -> None:
        batcher.submit(Work(inputs, ("y",), 1, math.inf, time.monotonic(), received))

    def received(outcome: object) -> None:
        nonlocal left
        if isinstance(outcome, ScoringError):
            raise outcome
        left -= 1
        if left >= clients:
            loop.call_soon(send)
        elif left == 0:
            done.set_result(None)

    wall_s, cpu_s = time.perf_counter(), _cpu_s()
    for _ in range(clients):
        send()
    await done
    wall_s, cpu_s = time.perf_counter() - wall_s, _cpu_s() - cpu_s
    batches = recorder.snapshot(0.0, 0.0).execution_count
    await batcher.drain()
    if worker is not None:
        await worker.join()
    backend.close()
    return _line(f"batcher ({'inline' if is_inline else 'thread'})", clients, requests, wall_s, cpu_s, batches)


def through_queue(rows: int) -> float:
    """Microseconds per request for making, adding and taking it, in batches of `rows` requests."""
    latency_s = {size: 1e-5 + size * 1e-6 for size in (1, 2, 4, 8, 16, 32, 64)}
    queue = BatchQueue(BatchLimits(64, 1000, objective_s=0.05), Lanes(LatencyTable(latency_s, 64)))

    def turn() -> None:
        now_s = time.monotonic()
        for _ in range(rows):
            queue.add(Work({}, ("y",), 1, now_s + 5.0, now_s, _ignore))
        batch, _ = queue.take(now_s)
        if batch is not None:
            batch.lane.table.observe(batch.rows, 2e-5)
            queue.ended(batch, now_s)

    return _best_us(turn) / rows


def through_recorder(rows: int) -> float:
    """Microseconds per request for counting it, in batches of `rows` requests."""
    recorder = Recorder()
    works = [Work({}, ("y",), 1, math.inf, 100.0 + at * 1e-5, _ignore) for at in range(rows)]
    executed = Executed(works, [[] for _ in works], [Run(rows, rows, 1e-6, 1e-5, 1e-6)])
    return _best_us(lambda: recorder.executed(executed, 100.1, 100.2)) / rows


def _best_us(function: Callable[[], None]) -> float:
    return min(timeit.repeat(function, number=3000, repeat=7)) / 3000 * 1e6


def _ignore(_: object) -> None:
    """Nobody waits for the answer."""


def _line(what: str, clients: int, requests: int, wall_s: float, cpu_s: float, batches: int) -> str:
    wall_us, cpu_us = wall_s / requests * 1e6, cpu_s / requests * 1e6
    return (
        f"  {what:18} {clients:3} clients {wall_us:8.1f} µs {cpu_us:8.1f} µs CPU {requests / batches:6.1f} rows/batch"
    )


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    for rows in (1, 32):
        print(
            f"batches of {rows}: queue {through_queue(rows):.2f} µs, recorder {through_recorder(rows):.2f} µs a request"
        )
    with tempfile.TemporaryDirectory() as folder:
        for name, make, columns, requests in (("tiny MLP", tiny_mlp, 64, 40_000), ("wide MLP", wide_mlp, 2048, 1_000)):
            path = Path(folder) / "model.onnx"
            options = OnnxOptions(str(path), make(path))
            print(f"{name}, one row per request; per request:")
            for clients in (1, 32):
                share = requests if clients > 1 else requests // 4
                print(uvloop.run(through_model(options, columns, clients, share)))
                for is_inline in (True, False):
                    print(uvloop.run(through_batcher(options, columns, clients, share, is_inline)))


if __name__ == "__main__":
    main()
