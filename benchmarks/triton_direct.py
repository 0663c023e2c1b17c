"""What Envoy adds before a Triton (`mode: direct`): its CPU, and how much later a reply comes.

    python -m benchmarks.triton_direct [--seconds 2]

One Envoy worker, one Triton with a Python model that adds two INT32 tensors [1, 16], and the load that the other
benchmarks use. Latency: one connection (`wrk`, `h2load`), in turns with and without Envoy. CPU: what the process of
Envoy used for each request of 32 connections, or of 4 with 8 streams each over gRPC; beside it what it uses before a
stand-in of a replica on a unix socket.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from benchmarks.load import Load, grpc_load, http_load, missing_programs
from benchmarks.payloads import framed
from tests.envoy.data_plane import DataPlane, data_plane, upstream
from tests.envoy.replica import usual_answer
from tests.triton.asking import answering, binary_request, grpc_request, json_request, triton_upstream
from tests.triton.models import write_repository
from tests.triton.server import Triton, started_triton

MODEL = "add_sub"
INPUTS = {name: np.arange(16, dtype=np.int32).reshape(1, 16) for name in ("INPUT0", "INPUT1")}
TURNS = 5
CPU_BAR_US = 80
LATENCY_BAR_MS = 0.3
_SMALLEST_REPLY = 1  # bytes: a refused call has trailers alone, which h2load does not read

Run = Callable[[bool, int], Load]  # with one connection, or with many; seconds


@dataclass(frozen=True, slots=True)
class Way:
    """A kind of request: asked of Triton itself, through Envoy, and through Envoy of a replica of ours."""

    name: str
    directly: Run
    through: Run
    of_replica: Run


def cpu_us(process: psutil.Process, run: Run, seconds: int) -> float:
    """Microseconds of the process for each request."""
    before = process.cpu_times()
    load = run(False, seconds)
    after = process.cpu_times()
    return 1e6 * (after.user + after.system - before.user - before.system) / load.requests


def measure(way: Way, envoy: psutil.Process, seconds: int) -> bool:
    """Whether both bars are met."""
    plain, through, cpu, usual = [], [], [], []
    for run in (way.directly, way.through, way.of_replica):
        run(False, 1)
    for _ in range(TURNS):
        plain.append(way.directly(True, seconds).p50_us / 1000)
        through.append(way.through(True, seconds).p50_us / 1000)
        cpu.append(cpu_us(envoy, way.through, seconds))
        usual.append(cpu_us(envoy, way.of_replica, seconds))
    added, used = statistics.median(through) - statistics.median(plain), statistics.median(cpu)
    print(
        f"{way.name:7} p50 {statistics.median(plain):.2f} → {statistics.median(through):.2f} ms (+{added:.2f}); "
        f"Envoy {used:.0f} µs a request ({min(cpu):.0f} to {max(cpu):.0f}), "
        f"before a replica {statistics.median(usual):.0f}",
        flush=True,
    )
    return added <= LATENCY_BAR_MS and used <= CPU_BAR_US


def _over_http(url: str, body: Path, headers: dict[str, str]) -> Run:
    return lambda is_alone, seconds: http_load(url, [body], headers, 1 if is_alone else 32, seconds)


def _over_grpc(address: str, frame: Path) -> Run:
    load = partial(grpc_load, address, frame, _SMALLEST_REPLY)
    return lambda is_alone, seconds: load(1, 1, seconds) if is_alone else load(4, 8, seconds)


def ways(endpoint: str, plane: DataPlane, server: Triton, folder: Path) -> Iterator[Way]:
    binary, binary_headers = binary_request(INPUTS)
    as_json = json.dumps(json_request(INPUTS)).encode()
    for name, body, headers in (
        ("JSON", as_json, {"content-type": "application/json"}),
        ("binary", binary, binary_headers),
    ):
        file = folder / name
        file.write_bytes(body)
        places = (
            f"{server.http_url}/v2/models/{MODEL}",
            f"{plane.url}/v2/models/{endpoint}",
            f"{plane.url}/v2/models/ours",
        )
        yield Way(name, *(_over_http(f"{place}/infer", file, headers) for place in places))
    frames = {}
    for name in (MODEL, endpoint, "ours"):
        frames[name] = folder / f"{name}.frame"
        frames[name].write_bytes(framed(grpc_request(name, INPUTS).SerializeToString()))
    yield Way(
        "gRPC",
        _over_grpc(f"127.0.0.1:{server.ports.grpc}", frames[MODEL]),
        _over_grpc(plane.grpc_address, frames[endpoint]),
        _over_grpc(plane.grpc_address, frames["ours"]),
    )


async def compare(plane: DataPlane, server: Triton, folder: Path, seconds: int) -> bool:
    """Whether every bar is met."""
    replica = await plane.replica("blue")
    replica.answer = lambda request: usual_answer("ours", request)
    await plane.endpoint("sums", triton_upstream("blue", server, model=MODEL))
    await plane.endpoint(MODEL, triton_upstream("blue", server, model=MODEL, number=1, version="1"))
    await plane.endpoint("ours", upstream("blue", replica))
    for name in ("sums", MODEL):
        await answering(plane, name, "blue")
    envoy = psutil.Process(plane.envoy.pid)
    are_met = True
    for name in ("sums", MODEL):
        print("its own names" if name == MODEL else "other names")
        for way in ways(name, plane, server, folder):
            # In a thread: the stand-in of a replica runs on this loop.
            are_met &= await asyncio.to_thread(measure, way, envoy, seconds)
    return are_met


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=2, help="for each of the five turns of a number")
    seconds = parser.parse_args().seconds
    if missing := missing_programs():
        print(f"please install: {' '.join(missing)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = write_repository(folder / "repository", MODEL)
        async with started_triton(repository) as server, data_plane() as plane:
            return 0 if await compare(plane, server, folder, seconds) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
