"""A Triton that a replica runs (`mode: managed`) beside one that runs anyway (`mode: direct`), both behind Envoy.

    python -m benchmarks.triton_managed [--seconds 5]

The same program, the same small ONNX network, one instance, dynamic batching; one is configured by hand, the other by
the deployment, and watched. Eight clients in a closed loop, in turns; the bar is the same throughput within 10%.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import numpy as np
from tritonclient.grpc import service_pb2_grpc

from benchmarks.asking import Ask, posting
from benchmarks.models import tiny_mlp
from benchmarks.triton_home import triton_home
from router.domain.routing import Replica, TritonAddress, Upstream
from router.domain.triton_managed import ManagedModel
from serving.certified import Tell
from serving.replica import ReplicaConfig
from serving.triton_ports import TritonHome
from serving.triton_replica import TritonReplica
from tests.envoy.data_plane import DataPlane, data_plane
from tests.triton.asking import answering, binary_request, grpc_request, json_request, triton_upstream
from tests.triton.managed import deployed_model, home_of
from tests.triton.server import started_triton

ENDPOINTS = ("direct", "managed")
CLIENTS = 8
TURNS = 5
ROW = {"x": np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)}
BY_HAND = """\
name: "mlp"
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 64 }
output { name: "y" data_type: TYPE_FP32 dims: 10 }
dynamic_batching { }
instance_group { count: 1 kind: KIND_CPU }
"""


@dataclass(slots=True)
class Listener:
    """Implements `Announcer`: who was heard last."""

    latest: Replica | None = None

    async def announce(self, replica: Replica) -> bool:
        self.latest = replica
        return True

    async def withdraw(self, replica_id: str) -> None:
        self.latest = None


@asynccontextmanager
async def managed(program: Path, folder: Path, model: Path) -> AsyncIterator[TritonAddress]:
    """A replica, with everything that it does beside its Triton."""
    deployed, listener = deployed_model(model), Listener()

    async def make_home(_: Tell) -> TritonHome:
        return await asyncio.to_thread(home_of, program, folder, deployed)

    replica = TritonReplica("managed", ReplicaConfig("bench", deployed, "", "0"), listener, make_home)
    await replica.start()
    try:
        assert listener.latest is not None
        assert isinstance(listener.latest.address, TritonAddress)
        yield listener.latest.address
    finally:
        await replica.stop()


def write_by_hand(folder: Path) -> tuple[Path, Path]:
    """The repository, and the model in it."""
    version = folder / "repository" / "mlp" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(BY_HAND)
    tiny_mlp(version / "model.onnx")
    return folder / "repository", version / "model.onnx"


async def rate(ask: Ask, seconds: float) -> float:
    """Requests a second of `CLIENTS` clients, each of which waits for its answer."""
    count, began_s = 0, time.perf_counter()

    async def client() -> None:
        nonlocal count
        while time.perf_counter() < began_s + seconds:
            await ask()
            count += 1

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return count / (time.perf_counter() - began_s)


async def measure(name: str, asks: dict[str, Ask], seconds: float) -> None:
    for ask in asks.values():
        await rate(ask, 0.5)
    rates: dict[str, list[float]] = {endpoint: [] for endpoint in asks}
    for _ in range(TURNS):
        for endpoint, ask in asks.items():
            rates[endpoint].append(await rate(ask, seconds / TURNS))
    direct, ours = (statistics.median(rates[endpoint]) for endpoint in ENDPOINTS)
    print(f"{name:7} direct {direct:.0f}/s, managed {ours:.0f}/s ({100 * ours / direct - 100:+.1f}%)", flush=True)


def calling(channel: grpc.aio.Channel, model: str) -> Ask:
    infer, message = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer, grpc_request(model, ROW)

    async def ask() -> None:
        await infer(message)

    return ask


async def compare(plane: DataPlane, seconds: float) -> None:
    bodies = {"JSON": (json.dumps(json_request(ROW)).encode(), {}), "binary": binary_request(ROW)}
    async with aiohttp.ClientSession() as session:
        for name, (body, headers) in bodies.items():
            urls = {endpoint: f"{plane.url}/v2/models/{endpoint}/infer" for endpoint in ENDPOINTS}
            await measure(name, {e: posting(session, url, body, headers) for e, url in urls.items()}, seconds)
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        await measure("gRPC", {endpoint: calling(channel, endpoint) for endpoint in ENDPOINTS}, seconds)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each number")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = triton_home(folder / "triton")
        repository, model = write_by_hand(folder)
        async with (
            started_triton(repository, f"--backend-directory={folder / 'triton' / 'backends'}") as server,
            managed(program, folder, model) as address,
            data_plane() as plane,
        ):
            await plane.endpoint("direct", triton_upstream("blue", server, model="mlp"))
            asked = ManagedModel("mlp")
            await plane.endpoint("managed", Upstream("blue", "v1", (address,), 20_000, 1000, 2**25, triton=asked))
            for endpoint in ENDPOINTS:
                await answering(plane, endpoint, "blue")
            await compare(plane, seconds)


if __name__ == "__main__":
    asyncio.run(main())
