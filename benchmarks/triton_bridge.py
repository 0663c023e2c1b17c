"""A Triton behind a replica of ours (`mode: bridge`) beside the same Triton behind Envoy alone (`mode: direct`).

    python -m benchmarks.triton_bridge [--seconds 3]

One Envoy worker, one Triton. A small network, 64 → 10, by 32 connections in a closed loop and by one; and a model that
adds 1 to a row of 128 KiB, one client in turns: there the bridge uses shared memory. CPU: of Envoy, the replica and
Triton together, for each request.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import psutil
from tritonclient.grpc import service_pb2_grpc

from benchmarks.asking import latency_ms
from benchmarks.load import Load, grpc_load, http_load, missing_programs
from benchmarks.models import tiny_mlp
from benchmarks.payloads import Payload, payload_for
from benchmarks.peers.triton import write_repository
from router.domain.deployment import Backend, DeployedModel, Deployment
from router.domain.deployment_settings import RequestSettings
from router.domain.routing import Replica, ReplicaState, UnixAddress, Upstream
from router.domain.triton import RunningTriton, TritonMode, TritonServer
from serving.loading import load_model
from serving.replica import ReplicaConfig, ReplicaService
from tests.envoy.data_plane import DataPlane, data_plane
from tests.envoy.replica import TOKEN
from tests.triton.asking import answering, grpc_request, triton_upstream
from tests.triton.bridge_models import WIDTH, write_bridged
from tests.triton.server import Triton, started_triton

CONNECTIONS = 32
TURNS = 3
LARGE = "wide"


class Announcements:
    """Implements `Announcer`: tells on stdout that the replica is ready."""

    async def announce(self, replica: Replica) -> bool:
        if replica.state is ReplicaState.READY:
            print(replica.address, flush=True)
        return True

    async def withdraw(self, replica_id: str) -> None:
        """Nobody listens."""


async def serve(folder: Path, model: str, grpc_port: int) -> None:
    """A replica, until its stdin ends."""
    triton = RunningTriton((TritonServer("127.0.0.1", 1, grpc_port),), model, mode=TritonMode.BRIDGE)
    settings = RequestSettings(request_timeout_ms=20_000)
    spec = Deployment("bridge", f"{model}-bridge", triton, "1", Backend.TRITON, request_settings=settings)
    config = ReplicaConfig("benchmark", DeployedModel(spec, triton), TOKEN, "0", str(folder))

    service = ReplicaService(model, config, Announcements(), lambda *how: load_model("", *how))
    await service.start()
    await asyncio.to_thread(sys.stdin.read)
    await service.stop()


@asynccontextmanager
async def replica(folder: Path, model: str, triton: Triton) -> AsyncIterator[None]:
    """A replica in a process of its own, listening at `folder`/`model`.sock."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.triton_bridge", "--replica", str(folder), model, str(triton.ports.grpc)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline(), "the replica did not start"
        yield
    finally:
        process.stdin.close()
        await process.communicate()


def cpu_s(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


async def endpoints(plane: DataPlane, triton: Triton, model: str, folder: Path) -> None:
    """`MODEL-direct` and `MODEL-bridge`."""
    await plane.endpoint(f"{model}-direct", triton_upstream("direct", triton, model=model))
    address = UnixAddress(str(folder / f"{model}.sock"))
    await plane.endpoint(f"{model}-bridge", Upstream("bridge", "1", (address,), 20_000, 1000, 32 << 20))
    await answering(plane, f"{model}-direct", "direct")
    await answering(plane, f"{model}-bridge", "bridge")


async def small(plane: DataPlane, processes: list[psutil.Process], payload: dict[str, Payload], seconds: int) -> None:
    for protocol in ("JSON", "gRPC"):
        loads: dict[str, list[tuple[Load, float, Load]]] = {"direct": [], "bridge": []}
        for _ in range(TURNS):
            for mode, measured in loads.items():
                with tempfile.TemporaryDirectory() as folder:
                    before = cpu_s(processes)
                    many = await asyncio.to_thread(
                        load, plane, Path(folder), protocol, mode, payload[mode], 32, seconds
                    )
                    used = cpu_s(processes) - before
                    one = await asyncio.to_thread(load, plane, Path(folder), protocol, mode, payload[mode], 1, 1)
                    measured.append((many, 1e6 * used / many.requests, one))
        for mode, measured in loads.items():
            per_second = statistics.median(many.per_second for many, _, _ in measured)
            cpu_us = statistics.median(cpu for _, cpu, _ in measured)
            alone = statistics.median(one.p50_us for _, _, one in measured)
            print(
                f"{protocol:5} {mode}: {per_second:,.0f}/s, {cpu_us:.0f} µs CPU, alone {alone / 1000:.2f} ms",
                flush=True,
            )


def load(
    plane: DataPlane, folder: Path, protocol: str, mode: str, payload: Payload, connections: int, seconds: int
) -> Load:
    if protocol == "JSON":
        (body := folder / "body").write_bytes(payload.body)
        return http_load(f"{plane.url}/v2/models/mlp-{mode}/infer", [body], {}, connections, seconds)
    (frame := folder / "frame").write_bytes(payload.frame)
    streams = min(8, connections)
    return grpc_load(plane.grpc_address, frame, 1, connections // streams, streams, seconds)


async def large(plane: DataPlane, seconds: float) -> None:
    times: dict[str, list[float]] = {"direct": [], "bridge": []}
    inputs = {"x": np.zeros((1, WIDTH), np.float32)}
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        for _ in range(TURNS):
            for mode, measured in times.items():
                message = grpc_request(f"{LARGE}-{mode}", inputs)

                async def ask(message: object = message) -> None:
                    await infer(message)

                measured.append(await latency_ms(ask, seconds))
    for mode, measured in times.items():
        print(f"128 KiB there and back, gRPC, {mode}: alone {statistics.median(measured):.2f} ms", flush=True)


async def compare(seconds: int) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        tiny_mlp(folder / "mlp.onnx")
        repository = write_bridged(write_repository(folder / "mlp.onnx", folder), LARGE)
        async with (
            started_triton(repository) as triton,
            data_plane() as plane,
            replica(folder, "mlp", triton),
            replica(folder, LARGE, triton),
        ):
            for model in ("mlp", LARGE):
                await endpoints(plane, triton, model, folder)
            payload = {mode: payload_for(folder / "mlp.onnx", f"mlp-{mode}") for mode in ("direct", "bridge")}
            await small(plane, psutil.Process().children(recursive=True), payload, seconds)
            await large(plane, seconds / TURNS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3, help="for each number, in each of three turns")
    parser.add_argument("--replica", nargs=3, metavar=("FOLDER", "MODEL", "PORT"), help="used by itself")
    arguments = parser.parse_args()
    if arguments.replica:
        folder, model, port = arguments.replica
        asyncio.run(serve(Path(folder), model, int(port)))
    elif missing := missing_programs():
        sys.exit(f"install {' '.join(missing)} first")
    else:
        asyncio.run(compare(arguments.seconds))


if __name__ == "__main__":
    main()
