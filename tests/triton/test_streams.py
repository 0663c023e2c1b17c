"""Streams to a Triton: every message is checked and renamed, wherever the chunks that carry it begin and end."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.callers import KeyHolders, KeySlot
from router.domain.routing import Shield, TritonAddress, UnixAddress, Upstream
from router.domain.triton import RunningTriton, TritonServer
from router.keys import hashed, new_key
from tests.envoy.data_plane import DataPlane
from tests.envoy.test_meter import counted
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.triton.asking import NO_LIMIT, answering, grpc_request, triton_upstream
from tests.triton.models import write_repository
from tests.triton.server import Triton, started_triton
from tests.triton.test_hostile import GRPC

pytestmark = pytest.mark.asyncio(loop_scope="module")

Stub = service_pb2_grpc.GRPCInferenceServiceStub
MAX_BYTES = 8 * 1024 * 1024


@pytest_asyncio.fixture(loop_scope="module")
async def stub(plane: DataPlane) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(plane.grpc_address, options=NO_LIMIT) as channel:
        yield Stub(channel)


@pytest_asyncio.fixture(loop_scope="module")
async def second(tmp_path: Path) -> AsyncIterator[Triton]:
    """Another one, for this test alone."""
    async with started_triton(write_repository(tmp_path / "repository", "identity_fp32", "slow_fp32")) as running:
        yield running


async def asked(*tritons: Triton) -> int:
    """How many requests their model `slow_fp32` has answered."""
    total = 0
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        for one in tritons:
            reply = await client.get(f"{one.http_url}/v2/models/slow_fp32/stats")
            total += reply.json()["model_stats"][0]["inference_count"]
    return total


async def endpoint(plane: DataPlane, name: str, *tritons: Triton, model: str = "identity_fp32", **how: Any) -> None:
    await plane.endpoint(name, triton_upstream("blue", *tritons, model=model, **how))
    await answering(plane, name, "blue")


def request(model: str, id: str, *values: float) -> Any:
    message = grpc_request(model, {"INPUT0": np.array([values], np.float32)})
    message.id = id
    return message


def answer(response: Any) -> tuple[str, str, list[float]]:
    """(id, error, values)."""
    inner = response.infer_response
    if response.error_message:
        return inner.id, response.error_message, []
    return inner.id, "", np.frombuffer(inner.raw_output_contents[0], np.float32).tolist()


async def answers(call: Any, requests: Iterable[Any]) -> list[tuple[str, str, list[float]]]:
    """Writes and reads at once, as whoever sends much must."""

    async def write() -> None:
        for message in requests:
            await call.write(message)
        await call.done_writing()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        return [answer(response) async for response in call]


async def test_messages_of_any_size_are_answered_under_the_names_in_front(
    plane: DataPlane, server: Triton, stub: Stub
) -> None:
    await endpoint(plane, "sizes", server)
    sizes = [1, 400_000, 3, 5, 60_000, 1, 1_000_000, *range(1, 300)]
    call = stub.ModelStreamInfer(timeout=4 * DEADLINE_S)

    async def write() -> None:
        for number, size in enumerate(sizes):
            await call.write(request("sizes", str(number), *[float(number)] * size))
        await call.done_writing()

    got = {}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        async for response in call:
            inner = response.infer_response
            assert (response.error_message, inner.model_name, inner.model_version) == ("", "sizes", "v1")
            got[int(inner.id)] = len(inner.raw_output_contents[0]) // 4

    assert got == dict(enumerate(sizes))
    assert dict(await call.initial_metadata())["x-crossfade-deployment"] == "blue"


async def test_what_would_harm_triton_is_an_error_in_its_place_and_the_stream_goes_on(
    plane: DataPlane, server: Triton, stub: Stub
) -> None:
    await endpoint(plane, "victim", server, model="add_sub")
    fine = grpc_request("victim", {name: np.array([[1, 2]], np.int32) for name in ("INPUT0", "INPUT1")})
    call = stub.ModelStreamInfer(timeout=4 * DEADLINE_S)

    for what, message in GRPC.items():
        for _ in range(100):
            await call.write(message)
            refused = await call.read()
            assert refused.error_message
            assert "model" not in refused.error_message, what
            assert refused.infer_response.id == (message.id if len(message.id) < 1024 else "")
        await call.write(fine)
        assert not (await call.read()).error_message
    await call.done_writing()

    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    assert server.is_alive


async def test_a_stream_is_for_the_model_that_it_began_with(plane: DataPlane, server: Triton, stub: Stub) -> None:
    await endpoint(plane, "one", server)
    other, pinned, wrong = (request(name, "7", 1) for name in ("failing", "one", "one"))
    pinned.model_version, wrong.model_version = "v1", "1"

    got = await answers(stub.ModelStreamInfer(timeout=DEADLINE_S), [request("one", "1", 1), other, pinned, wrong])

    assert sorted(got) == [
        ("1", "", [1.0]),
        ("7", "", [1.0]),
        ("7", "model 'one' has no version '1' here, it has 'v1'", []),
        ("7", "unknown model 'failing'", []),
    ]


async def test_a_message_beyond_the_limit_is_refused_without_being_kept(
    plane: DataPlane, server: Triton, stub: Stub
) -> None:
    await endpoint(plane, "limited", server, max_request_bytes=MAX_BYTES)
    large = request("limited", "large", *[1.0] * (MAX_BYTES // 4))

    got = await answers(
        stub.ModelStreamInfer(timeout=4 * DEADLINE_S),
        [request("limited", "1", 1), large, request("limited", "2", 2), large, large, request("limited", "3", 3)],
    )

    error = f"a message is larger than the {MAX_BYTES} bytes that the endpoint accepts"
    assert sorted(got) == [*[("", error, [])] * 3, *[(str(n), "", [float(n)]) for n in (1, 2, 3)]]


@pytest.mark.parametrize("first", [1, 1000])
async def test_messages_may_be_compressed_the_first_one_or_others(plane: DataPlane, server: Triton, first: int) -> None:
    """grpc's core compresses what gets smaller."""
    await endpoint(plane, "packed", server)
    sizes = [first, 100_000, *[1, 1000] * 10, 1_000_000]
    async with grpc.aio.insecure_channel(plane.grpc_address, options=NO_LIMIT) as channel:
        call = Stub(channel).ModelStreamInfer(timeout=4 * DEADLINE_S, compression=grpc.Compression.Gzip)
        got = await answers(call, [request("packed", str(number), *[0.5] * size) for number, size in enumerate(sizes)])

    assert {int(number): values for number, _, values in got} == {n: [0.5] * size for n, size in enumerate(sizes)}


async def test_a_stream_takes_longer_than_a_request_may_and_is_asked_of_one_triton_alone(
    plane: DataPlane, server: Triton, stub: Stub, second: Triton
) -> None:
    """A single request that takes so long would be sent to the other one as well."""
    await endpoint(plane, "long", server, second, model="slow_fp32", timeout_ms=200)
    before = await asked(server, second)

    requests = [request("long", str(number), 1) for number in range(3)]
    got = await answers(stub.ModelStreamInfer(timeout=4 * DEADLINE_S), requests)

    assert got == [(str(number), "", [1.0]) for number in range(3)]
    assert await asked(server, second) - before == 3
    totals = (await counted(plane.meter, "long", 1))["blue"]
    assert (totals.requests, totals.errors) == (1, 0)


async def test_a_triton_that_is_killed_ends_its_streams_and_the_next_one_goes_to_another(
    plane: DataPlane, server: Triton, stub: Stub, second: Triton
) -> None:
    await endpoint(plane, "dying", second)
    call = stub.ModelStreamInfer(timeout=4 * DEADLINE_S)
    await call.write(request("dying", "1", 1))
    assert answer(await call.read()) == ("1", "", [1.0])
    await plane.endpoint("dying", triton_upstream("blue", second, server, model="identity_fp32"))
    await second.kill()
    for number in range(20):
        again = stub.ModelStreamInfer(timeout=4 * DEADLINE_S)
        assert await answers(again, [request("dying", str(number), 1)]) == [(str(number), "", [1.0])]
    with contextlib.suppress(grpc.aio.AioRpcError):
        assert await call.read() is grpc.aio.EOF
    assert await call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)


async def _is_well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    writer.close()


async def _hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """When it has got a message."""
    with contextlib.suppress(ConnectionError):
        received = b""
        while b"rescued" not in received and (content := await reader.read(65536)):
            received += content
    writer.close()


async def test_a_stream_that_a_triton_lost_is_answered_by_a_replica_in_its_own_words(
    plane: DataPlane, stub: Stub
) -> None:
    path = plane.folder / "rescuer"
    replica = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.envoy.stream_replica", str(path), "rescued"
    )
    try:
        await eventually(path.exists)
        async with (
            await asyncio.start_server(_is_well, "127.0.0.1") as well,
            await asyncio.start_server(_hangs_up, "127.0.0.1") as lost,
        ):
            http, grpc_port = (one.sockets[0].getsockname()[1] for one in (well, lost))
            server = TritonServer("127.0.0.1", http, grpc_port)
            blue = Upstream("blue", "1", (UnixAddress(str(path)),), 5000, 1000, MAX_BYTES)
            green = Upstream(
                "green",
                "1",
                (TritonAddress("127.0.0.1", http, grpc_port),),
                5000,
                1000,
                MAX_BYTES,
                triton=RunningTriton((server,), "rescued"),
            )
            shield = Shield("green", "blue")
            await plane.endpoint("rescued", blue, green, traffic={"green": 100}, shield=shield)
            message = service_pb2.ModelInferRequest(model_name="rescued", id="1")
            message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
            message.raw_input_contents.append(np.array([[1.5, 2.5]], np.float32).tobytes())
            for _ in range(3):
                call = stub.ModelStreamInfer(timeout=DEADLINE_S)
                for _ in range(2):
                    await call.write(message)
                    response = await call.read()
                    assert (response.error_message, response.infer_response.id) == ("", "1")
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF
                assert dict(await call.initial_metadata())["x-crossfade-deployment"] == "blue"
    finally:
        replica.kill()
        await replica.wait()


async def test_a_client_that_goes_away_leaves_nothing_under_way(plane: DataPlane, server: Triton, stub: Stub) -> None:
    await endpoint(plane, "left", server)
    call = stub.ModelStreamInfer(timeout=DEADLINE_S)
    await call.write(request("left", "1", 1))
    assert answer(await call.read()) == ("1", "", [1.0])

    async def under_way() -> list[str]:
        lines = (await plane.admin("/stats?filter=cluster.left/blue.*upstream_rq_active")).splitlines()
        return [line.rpartition(" ")[2] for line in lines]

    assert sorted(await under_way()) == ["0", "1"]  # over HTTP, and over gRPC
    call.cancel()
    await eventually(under_way, ["0", "0"])


async def test_a_revoked_key_ends_its_stream_though_nothing_of_ours_is_on_the_way(
    plane: DataPlane, server: Triton, stub: Stub
) -> None:
    await endpoint(plane, "watched", server)
    keys, blue = [new_key(), new_key()], triton_upstream("blue", server, model="identity_fp32")
    both = tuple((slot, hashed(key)) for slot, key in zip(KeySlot, keys, strict=True))
    await plane.endpoint("watched", blue, access=KeyHolders(both))
    revoked, kept = [stub.ModelStreamInfer(timeout=DEADLINE_S, metadata=(("x-api-key", key),)) for key in keys]
    for call in (revoked, kept):
        await call.write(request("watched", "1", 1))
        assert answer(await call.read()) == ("1", "", [1.0])
    await plane.endpoint("watched", blue, access=KeyHolders(both[1:]))
    with pytest.raises(grpc.aio.AioRpcError, match="RST_STREAM"):
        await revoked.read()
    await kept.write(request("watched", "2", 2))
    assert answer(await kept.read()) == ("2", "", [2.0])
    await kept.done_writing()
    assert await kept.read() is grpc.aio.EOF
