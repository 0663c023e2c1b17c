"""A replica before a real Triton and Envoy before the replica: what clients see of both protocols."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton_grpc
from tritonclient.grpc import service_pb2_grpc

from router.domain.deployment import Backend, DeployedModel, Deployment
from router.domain.deployment_settings import RequestSettings
from router.domain.routing import Replica, ReplicaState, UnixAddress, Upstream
from router.domain.triton import RunningTriton, TritonMode, TritonServer
from serving.loading import load_model
from serving.replica import ReplicaConfig, ReplicaService
from tests.envoy.data_plane import DataPlane
from tests.envoy.replica import TOKEN
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.triton.asking import answering, grpc_request, json_request
from tests.triton.models import write_repository
from tests.triton.server import Triton, started_triton

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMEOUT_MS, SOON_MS = 20_000, 2000
GOOD = {"INPUT0": np.array([[3, 4]], np.int32)}
BAD = {"INPUT0": np.array([[-3, -4]], np.int32)}


class Town:
    """Implements `Announcer`: remembers the last word of the replica."""

    def __init__(self) -> None:
        self.last: Replica | None = None

    async def announce(self, replica: Replica) -> bool:
        self.last = replica
        return True

    async def withdraw(self, replica_id: str) -> None:
        """It is remembered all the same."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def triton(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Triton]:
    repository = write_repository(tmp_path_factory.mktemp("triton") / "repository", "failing", "identity_bytes")
    async with started_triton(repository) as running:
        yield running


@asynccontextmanager
async def replica_of(
    model: str, triton: Triton, plane: DataPlane, timeout_ms: int = TIMEOUT_MS
) -> AsyncIterator[tuple[str, Town]]:
    """The name of an endpoint that the replica answers for."""
    name = f"the-{model.replace('_', '-')}"
    running = RunningTriton((TritonServer("127.0.0.1", 1, triton.ports.grpc),), model, mode=TritonMode.BRIDGE)
    settings = RequestSettings(request_timeout_ms=timeout_ms)
    spec = Deployment("green", name, running, "1", Backend.TRITON, request_settings=settings)
    config = ReplicaConfig("g", DeployedModel(spec, running), TOKEN, "0", str(plane.folder))
    town = Town()
    service = ReplicaService(model, config, town, partial(load_model, ""))
    await service.start()
    try:
        address = UnixAddress(str(Path(plane.folder, f"{model}.sock")))
        await plane.endpoint(name, Upstream("green", "1", (address,), timeout_ms, 1000, 1 << 20))
        await answering(plane, name, "green")
        yield name, town
    finally:
        await service.stop()


async def test_answers_and_the_models_failures_reach_clients_of_both_protocols_in_the_models_words(
    plane: DataPlane, triton: Triton
) -> None:
    words = "this model takes no negative numbers"
    async with (
        replica_of("failing", triton, plane) as (name, _),
        grpc.aio.insecure_channel(plane.grpc_address) as channel,
    ):
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        reply = await plane.http.post(f"/v2/models/{name}/infer", json=json_request(GOOD))
        assert (reply.json()["model_name"], reply.json()["outputs"][0]["data"]) == (name, [3, 4])
        assert (await infer(grpc_request(name, GOOD))).raw_output_contents[0] == GOOD["INPUT0"].tobytes()

        reply = await plane.http.post(f"/v2/models/{name}/infer", json=json_request(BAD))
        assert (reply.status_code, reply.json()) == (424, {"error": words})
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await infer(grpc_request(name, BAD))
        assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.INTERNAL, words)


async def test_requests_on_a_stream_are_answered_in_order(plane: DataPlane, triton: Triton) -> None:
    texts = [b"a\0b", b"", b"\xff"]

    async def requests() -> AsyncIterator[dict[str, object]]:
        for text in texts:
            tensor = triton_grpc.InferInput("INPUT0", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[text]], np.object_))
            yield {"model_name": name, "inputs": [tensor]}

    async with (
        replica_of("identity_bytes", triton, plane) as (name, _),
        triton_grpc.InferenceServerClient(plane.grpc_address) as client,
        asyncio.timeout(DEADLINE_S),
    ):
        replies = client.stream_infer(requests())
        assert [(result.as_numpy("OUTPUT0").item(), error) async for result, error in replies] == [
            (text, None) for text in texts
        ]


async def test_a_triton_that_hangs_costs_clients_their_deadline_and_the_replica_says_why_it_is_not_ready(
    plane: DataPlane, triton: Triton
) -> None:
    async with (
        replica_of("failing", triton, plane, SOON_MS) as (name, town),
        grpc.aio.insecure_channel(plane.grpc_address) as channel,
    ):
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        triton.pause()
        try:
            ask = plane.http.post(f"/v2/models/{name}/infer", json=json_request(GOOD))
            reply, failed = await asyncio.gather(
                ask, infer(grpc_request(name, GOOD), timeout=1), return_exceptions=True
            )
            assert not isinstance(reply, BaseException)
            assert reply.status_code == 504
            assert isinstance(failed, grpc.aio.AioRpcError)
            assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await eventually(state_of(town), ReplicaState.TROUBLED)
            assert town.last is not None
            assert "no answer within" in town.last.reason
            reply = await plane.http.get(f"/v2/models/{name}/ready")
            assert reply.status_code != 200
        finally:
            triton.resume()
        await eventually(state_of(town), ReplicaState.READY)

        async def status() -> int:
            return (await plane.http.post(f"/v2/models/{name}/infer", json=json_request(GOOD))).status_code

        await eventually(status, 200)


def state_of(town: Town) -> Callable[[], object]:
    async def state() -> ReplicaState | None:
        return town.last and town.last.state

    return state
