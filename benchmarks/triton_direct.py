"""What Envoy adds before a Triton (`mode: direct`): its CPU, and how much later a reply comes.

    python -m benchmarks.triton_direct [--seconds 5]

One Envoy worker, one Triton with a Python model that adds two INT32 tensors [1, 16]. Latency: one client, in turns with
and without Envoy. CPU: eight clients in a closed loop, what the process of Envoy used for each request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import numpy as np
import psutil
from tritonclient.grpc import service_pb2_grpc

from tests.envoy.data_plane import DataPlane, data_plane, upstream
from tests.envoy.replica import usual_answer
from tests.triton.asking import answering, binary_request, grpc_request, json_request, triton_upstream
from tests.triton.models import write_repository
from tests.triton.server import Triton, started_triton

MODEL = "add_sub"
INPUTS = {name: np.arange(16, dtype=np.int32).reshape(1, 16) for name in ("INPUT0", "INPUT1")}
CLIENTS = 8
TURNS = 5

Ask = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Way:
    """A kind of request: asked of Triton itself, through Envoy, and through Envoy of a replica of ours."""

    name: str
    directly: Ask
    through: Ask
    of_replica: Ask


async def latency_ms(ask: Ask, seconds: float) -> float:
    """The median of one client."""
    times, end_s = [], time.perf_counter() + seconds
    while (began_s := time.perf_counter()) < end_s:
        await ask()
        times.append(time.perf_counter() - began_s)
    return 1000 * statistics.median(times)


async def cpu_us(process: psutil.Process, ask: Ask, seconds: float) -> float:
    """Microseconds of the process for each request."""
    count, end_s = 0, time.perf_counter() + seconds

    async def client() -> None:
        nonlocal count
        while time.perf_counter() < end_s:
            await ask()
            count += 1

    before = process.cpu_times()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    after = process.cpu_times()
    return 1e6 * (after.user + after.system - before.user - before.system) / count


async def measure(way: Way, envoy: psutil.Process, seconds: float) -> None:
    plain, through, cpu, usual = [], [], [], []
    for ask in (way.directly, way.through, way.of_replica):
        await latency_ms(ask, 0.3)
    for _ in range(TURNS):
        plain.append(await latency_ms(way.directly, seconds / TURNS))
        through.append(await latency_ms(way.through, seconds / TURNS))
        cpu.append(await cpu_us(envoy, way.through, seconds / TURNS))
        usual.append(await cpu_us(envoy, way.of_replica, seconds / TURNS))
    added = statistics.median(through) - statistics.median(plain)
    print(
        f"{way.name:7} p50 {statistics.median(plain):.2f} → {statistics.median(through):.2f} ms (+{added:.2f}); "
        f"Envoy {statistics.median(cpu):.0f} µs a request ({min(cpu):.0f} to {max(cpu):.0f}), "
        f"before a replica {statistics.median(usual):.0f}",
        flush=True,
    )


def posting(session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]) -> Ask:
    async def ask() -> None:
        async with session.post(url, data=body, headers=headers) as reply:
            await reply.read()
            assert reply.status == 200

    return ask


def calling(channel: grpc.aio.Channel, model: str) -> Ask:
    infer, message = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer, grpc_request(model, INPUTS)

    async def ask() -> None:
        await infer(message)

    return ask


async def compare(plane: DataPlane, server: Triton, seconds: float) -> None:
    replica = await plane.replica("blue")
    replica.answer = lambda request: usual_answer("ours", request)
    await plane.endpoint("sums", triton_upstream("blue", server, model=MODEL))
    await plane.endpoint(MODEL, triton_upstream("blue", server, model=MODEL, number=1, version="1"))
    await plane.endpoint("ours", upstream("blue", replica))
    for name in ("sums", MODEL):
        await answering(plane, name, "blue")
    envoy = psutil.Process(plane.envoy.pid)
    for name in ("sums", MODEL):
        print("its own names" if name == MODEL else "other names")
        await compare_to(name, plane, server, envoy, seconds)


async def compare_to(endpoint: str, plane: DataPlane, server: Triton, envoy: psutil.Process, seconds: float) -> None:
    bodies = {"JSON": (json.dumps(json_request(INPUTS)).encode(), {}), "binary": binary_request(INPUTS)}
    async with aiohttp.ClientSession() as session:
        for name, (body, headers) in bodies.items():
            places = (
                f"{server.http_url}/v2/models/{MODEL}",
                f"{plane.url}/v2/models/{endpoint}",
                f"{plane.url}/v2/models/ours",
            )
            asks = (posting(session, f"{place}/infer", body, headers) for place in places)
            await measure(Way(name, *asks), envoy, seconds)
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as behind,
        grpc.aio.insecure_channel(plane.grpc_address) as front,
    ):
        way = Way("gRPC", calling(behind, MODEL), calling(front, endpoint), calling(front, "ours"))
        await measure(way, envoy, seconds)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each number")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        repository = write_repository(Path(folder) / "repository", MODEL)
        async with started_triton(repository) as server, data_plane() as plane:
            await compare(plane, server, seconds)


if __name__ == "__main__":
    asyncio.run(main())
