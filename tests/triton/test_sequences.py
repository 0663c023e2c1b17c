"""Sequences over several Tritons: each stays with the one that has its state."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2_grpc

from router.domain.routing import Shield
from tests.envoy.data_plane import DataPlane
from tests.envoy.waiting import DEADLINE_S
from tests.triton.asking import all_healthy, answering, binary_request, grpc_request, json_request, triton_upstream
from tests.triton.kinds import write_kinds
from tests.triton.server import Triton, started_triton

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEPS = 5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Triton, ...]]:
    repository = write_kinds(tmp_path_factory.mktemp("sequences") / "repository", "simple_dyna_sequence")
    async with AsyncExitStack() as stack:
        yield tuple([await stack.enter_async_context(started_triton(repository)) for _ in range(2)])


async def sequences(plane: DataPlane, name: str, tritons: tuple[Triton, ...]) -> None:
    upstream = triton_upstream("blue", *tritons, model="simple_dyna_sequence")
    await plane.endpoint(name, replace(upstream, keeps_sequences=True))
    await all_healthy(plane, name, len(tritons), "blue")


def step(key: Any, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    flags = {"sequence_start": number == 0, "sequence_end": number == STEPS - 1}
    return {"INPUT": np.array([[number + 1]], np.int32)}, {"sequence_id": key, **flags}


async def counts(tritons: tuple[Triton, ...]) -> list[int]:
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        replies = [await client.get(f"{one.http_url}/v2/models/simple_dyna_sequence/stats") for one in tritons]
    return [reply.json()["model_stats"][0]["inference_count"] for reply in replies]


@pytest.mark.parametrize("way", ["json", "binary", "gzip", "grpc", "grpc-gzip"])
async def test_each_keeps_its_state_while_they_are_spread(plane: DataPlane, pair: tuple[Triton, ...], way: str) -> None:
    await sequences(plane, f"by-{way}", pair)
    before = await counts(pair)
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

        async def ask(key: Any, number: int) -> int:
            inputs, parameters = step(key, number)
            if way.startswith("grpc"):
                how = grpc.Compression.Gzip if way == "grpc-gzip" else grpc.Compression.NoCompression
                padding = {"padding": "-" * 1000}  # what gets no smaller is not compressed
                request = grpc_request(f"by-{way}", inputs, {**padding, **parameters})
                message = await infer(request, timeout=DEADLINE_S, compression=how)
                return int(np.frombuffer(message.raw_output_contents[0], np.int32)[0])
            if way == "json":
                body = json_request(inputs, parameters=parameters)
                reply = await plane.http.post(f"/v2/models/by-{way}/infer", json=body)
            else:
                content, headers = binary_request(inputs, parameters)
                headers["x-crossfade-sequence"] = "the-same-for-all"  # from a client, it means nothing
                if way == "gzip":
                    content, headers["content-encoding"] = gzip.compress(content), "gzip"
                reply = await plane.http.post(f"/v2/models/by-{way}/infer", content=content, headers=headers)
                length = int(reply.headers["inference-header-content-length"])
                return int(np.frombuffer(reply.content[length:], np.int32)[0])
            assert reply.status_code == 200, reply.text
            return int(reply.json()["outputs"][0]["data"][0])

        async def sequence(key: Any) -> list[int]:
            return [await ask(key, number) for number in range(STEPS)]

        keys = [*range(1, 17), *(f"text {number}/ü" for number in range(16))]
        sums = await asyncio.gather(*(sequence(key) for key in keys))

    assert sums == [[1, 3, 6, 10, 15]] * len(keys)
    spread = [after - earlier for after, earlier in zip(await counts(pair), before, strict=True)]
    assert sum(spread) == STEPS * len(keys)
    assert all(count % STEPS == 0 for count in spread)
    assert min(spread) > 0  # all 32 on one of two: once in two billion


async def test_a_request_of_a_sequence_is_not_given_to_another_deployment(
    plane: DataPlane, pair: tuple[Triton, ...]
) -> None:
    """Stable could not know the state: the failure is shown."""
    blue = replace(triton_upstream("blue", pair[0], model="simple_dyna_sequence"), keeps_sequences=True)
    green = replace(triton_upstream("green", pair[1], model="simple_dyna_sequence"), keeps_sequences=True)
    await plane.endpoint("moved", blue, green, traffic={"green": 100}, shield=Shield("green", "blue"))
    await answering(plane, "moved", "green")
    before = await counts(pair[:1])
    inputs, parameters = step(77, 1)  # which never began

    reply = await plane.http.post("/v2/models/moved/infer", json=json_request(inputs, parameters=parameters))

    assert reply.status_code >= 400
    assert "START" in reply.json()["error"]
    assert await counts(pair[:1]) == before
