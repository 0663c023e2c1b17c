"""Streams of requests through the real Envoy, to whole replicas in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.callers import KeyHolders, KeySlot
from router.domain.routing import UnixAddress, Upstream
from router.domain.traffic import Mirror
from router.keys import hashed, new_key
from router.waiting_room import WaitingRoom
from router.xds.gateway import SERVICE
from router.xds.names import cluster_name
from tests.envoy.data_plane import DataPlane
from tests.envoy.replica import MAX_BODY_BYTES, TOKEN
from tests.envoy.test_meter import counted
from tests.envoy.test_waiting_room import sleeper
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.unit.serving.backends import POISON, rows_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


def request(model: str, id: str, *values: float, version: str = "") -> service_pb2.ModelInferRequest:
    rows = rows_of(*values)
    message = service_pb2.ModelInferRequest(model_name=model, model_version=version, id=id)
    message.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    message.raw_input_contents.append(rows.tobytes())
    return message


def answer(response: service_pb2.ModelStreamInferResponse) -> tuple[str, str, list[float]]:
    """(id, error, the first column of `double`)."""
    inner = response.infer_response
    if response.error_message:
        return inner.id, response.error_message, []
    assert inner.parameters["triton_final_response"].bool_param
    return inner.id, "", np.frombuffer(inner.raw_output_contents[0], np.float32)[::2].tolist()


@dataclass(slots=True)
class Streams:
    """Replicas of endpoints that have one deployment, and a client."""

    plane: DataPlane
    stub: service_pb2_grpc.GRPCInferenceServiceStub
    exits: contextlib.AsyncExitStack

    async def replica(self, endpoint: str, name: str) -> tuple[asyncio.subprocess.Process, UnixAddress]:
        return await replica_of(self.plane, endpoint, name, self.exits)

    async def served(self, endpoint: str) -> asyncio.subprocess.Process:
        process, address = await self.replica(endpoint, "blue")
        await self.plane.endpoint(endpoint, blue(address))
        return process

    def open(self) -> grpc.aio.StreamStreamCall:
        return self.stub.ModelStreamInfer(timeout=4 * DEADLINE_S)


def blue(*addresses: UnixAddress) -> Upstream:
    return Upstream("blue", "1", tuple(sorted(addresses, key=str)), 5000, 1000, MAX_BODY_BYTES)


async def replica_of(
    plane: DataPlane, endpoint: str, name: str, exits: contextlib.AsyncExitStack
) -> tuple[asyncio.subprocess.Process, UnixAddress]:
    """It ends with `exits`."""
    path = plane.folder / f"{endpoint}-{name}"
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.envoy.stream_replica", path, endpoint)
    exits.push_async_callback(_ended, process)
    await eventually(path.exists)
    return process, UnixAddress(str(path))


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


@pytest_asyncio.fixture(loop_scope="module")
async def streams(plane: DataPlane) -> AsyncIterator[Streams]:
    async with contextlib.AsyncExitStack() as exits:
        channel = await exits.enter_async_context(grpc.aio.insecure_channel(plane.grpc_address))
        yield Streams(plane, service_pb2_grpc.GRPCInferenceServiceStub(channel), exits)


async def answers(call: grpc.aio.StreamStreamCall, requests: Iterable[service_pb2.ModelInferRequest]) -> list[object]:
    """Writes and reads at once, as whoever sends much must."""

    async def write() -> None:
        for message in requests:
            await call.write(message)
        await call.done_writing()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        return [answer(response) async for response in call]


def frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


async def end(call: grpc.aio.StreamStreamCall) -> tuple[grpc.StatusCode, str]:
    """How it ends, when nothing more is answered."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        assert await call.read() is grpc.aio.EOF
    return await call.code(), await call.details()


async def test_answers_come_while_the_stream_goes_on_and_an_error_is_one_of_them(streams: Streams) -> None:
    await streams.served("talk")
    call = streams.open()
    for number in range(20):
        await call.write(request("talk", str(number), number))
        assert answer(await call.read()) == (str(number), "", [2.0 * number])
    await call.write(request("talk", "bad", POISON))
    assert answer(await call.read()) == ("bad", "poison", [])
    await call.write(request("talk", "other", 1, version="7"))
    which, error, _ = answer(await call.read())
    assert (which, error) == ("other", "model 'talk' has no version '7' here, it has '1'")
    await call.write(request("talk", "good", 1, 2))
    assert answer(await call.read()) == ("good", "", [2.0, 4.0])
    await call.done_writing()
    assert (await end(call))[0] is grpc.StatusCode.OK
    assert dict(await call.initial_metadata())["x-crossfade-deployment"] == "blue"


async def test_messages_that_come_in_pieces_that_know_nothing_of_them_all_arrive(streams: Streams) -> None:
    """As from a client that writes faster than it may send. Over HTTP/1.1, which Envoy takes as well, chunks are what
    the test makes them."""
    await streams.served("pieces")
    messages = [frame(request("pieces", str(number), number).SerializeToString()) for number in range(3)]
    half = len(messages[1]) // 2

    async def chunks() -> AsyncIterator[bytes]:
        yield messages[0] + messages[1][:half]
        await asyncio.sleep(0.2)  # nothing tells when Envoy has seen it; too short a pause would only join the chunks
        yield messages[1][half:] + messages[2]

    headers = {"content-type": "application/grpc", "te": "trailers"}
    reply = await streams.plane.http.post(f"/{SERVICE}/ModelStreamInfer", content=chunks(), headers=headers)

    bodies, at = [], 0
    while at < len(reply.content):
        length = int.from_bytes(reply.content[at + 1 : at + 5], "big")
        bodies.append(reply.content[at + 5 : at + 5 + length])
        at += 5 + length
    answers = [answer(service_pb2.ModelStreamInferResponse.FromString(body)) for body in bodies]
    assert answers == [(str(number), "", [2.0 * number]) for number in range(3)]


async def test_many_requests_of_any_size_are_answered_in_order(streams: Streams) -> None:
    await streams.served("many")
    for sizes in ([1, 60_000, 3, 40_000, 1, 2, 100_000, *range(1, 400)], [100_000, 1, 100_000]):
        requests = [request("many", str(number), *[float(number)] * rows) for number, rows in enumerate(sizes)]
        assert await answers(streams.open(), requests) == [
            (str(number), "", [2.0 * number] * rows) for number, rows in enumerate(sizes)
        ]


async def test_messages_may_be_compressed(streams: Streams) -> None:
    await streams.served("packed")
    requests = [request("packed", str(number), *[float(number)] * rows) for number, rows in enumerate([500, 1, 60_000])]
    call = streams.stub.ModelStreamInfer(timeout=4 * DEADLINE_S, compression=grpc.Compression.Gzip)
    assert await answers(call, requests) == [
        (str(number), "", [2.0 * number] * rows) for number, rows in enumerate([500, 1, 60_000])
    ]


async def test_a_replica_that_stops_answers_what_it_has_and_says_so(streams: Streams) -> None:
    replica = await streams.served("stopping")
    call = streams.open()
    await call.write(request("stopping", "1", 1))
    assert answer(await call.read()) == ("1", "", [2.0])
    replica.send_signal(signal.SIGTERM)
    assert await end(call) == (
        grpc.StatusCode.UNAVAILABLE,
        "this replica is stopping: open another stream, and send again what was not answered",
    )
    assert await replica.wait() == 0


async def test_a_replica_that_is_killed_ends_its_streams_with_a_status_and_others_take_the_next(
    streams: Streams,
) -> None:
    first, second = await streams.replica("killed", "1"), await streams.replica("killed", "2")
    await streams.plane.endpoint("killed", blue(first[1], second[1]))
    call = streams.open()
    await call.write(request("killed", "1", 1))
    assert answer(await call.read()) == ("1", "", [2.0])
    os.kill(first[0].pid, signal.SIGKILL)
    await first[0].wait()
    again = await answers(streams.open(), [request("killed", "2", 2)])
    assert again == [("2", "", [4.0])]
    os.kill(second[0].pid, signal.SIGKILL)
    await second[0].wait()
    # Envoy has begun its reply, and can only reset the stream: HTTP/2 knows no better word than INTERNAL_ERROR.
    assert (await end(call))[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)


async def _dies_of_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A replica that looks well, and hangs up on whoever streams."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while b"ModelStreamInfer" not in await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    writer.close()


async def test_a_replica_that_dies_before_the_first_answer_is_not_noticed(streams: Streams) -> None:
    _, good = await streams.replica("moved", "good")
    dying = UnixAddress(str(streams.plane.folder / "dying"))
    async with await asyncio.start_unix_server(_dies_of_streams, dying.path):
        await streams.plane.endpoint("moved", blue(good, dying))
        for number in range(30):  # half of them, about, come to the one that dies first
            assert await answers(streams.open(), [request("moved", str(number), 1)]) == [(str(number), "", [2.0])]
        assert await streams.plane.stat(f"cluster.{cluster_name('moved', 'blue')}.upstream_rq_retry") > 0


async def test_a_stream_stays_where_it_is_while_traffic_moves_and_until_its_deployment_has_gone(
    streams: Streams,
) -> None:
    old, address = await streams.replica("rolled", "blue")
    _, newer = await streams.replica("rolled", "green")
    green = Upstream("green", "1", (newer,), 5000, 1000, MAX_BODY_BYTES)
    await streams.plane.endpoint("rolled", blue(address), green, traffic={"blue": 100})
    call = streams.open()
    await call.write(request("rolled", "1", 1))
    assert answer(await call.read()) == ("1", "", [2.0])
    await streams.plane.endpoint("rolled", blue(address), green, traffic={"green": 100})
    later = streams.open()
    assert await answers(later, [request("rolled", "a", 1)]) == [("a", "", [2.0])]
    assert dict(await later.initial_metadata())["x-crossfade-deployment"] == "green"
    await streams.plane.endpoint("rolled", green, traffic={"green": 100})
    await call.write(request("rolled", "2", 2))
    assert answer(await call.read()) == ("2", "", [4.0])
    old.send_signal(signal.SIGTERM)
    assert (await end(call))[0] is grpc.StatusCode.UNAVAILABLE
    assert dict(await call.initial_metadata())["x-crossfade-deployment"] == "blue"


async def test_a_stream_takes_longer_than_a_request_may(streams: Streams) -> None:
    _, address = await streams.replica("long", "blue")
    await streams.plane.endpoint("long", Upstream("blue", "1", (address,), 1, 1000, MAX_BODY_BYTES))
    call = streams.open()
    for number in range(5):
        await call.write(request("long", str(number), 1))
        assert answer(await call.read()) == (str(number), "", [2.0])
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK


async def test_streams_are_not_mirrored_and_count_as_one_attempt(streams: Streams) -> None:
    plane = streams.plane
    _, address = await streams.replica("copied", "blue")
    green = await plane.replica("green")
    shadow = Upstream("green", "2", (green.address,), 5000, 1000, MAX_BODY_BYTES)
    await plane.endpoint("copied", blue(address), shadow, traffic={"blue": 100}, mirror=Mirror("green", 100))
    assert len(await answers(streams.open(), [request("copied", str(n), n) for n in range(10)])) == 10
    totals = (await counted(plane.meter, "copied", 1))["blue"]
    assert totals.errors == 0
    assert sum(totals.latencies.counts) == 0  # how long a stream takes is its client's affair
    assert not green.requests


async def test_a_client_that_goes_away_leaves_nothing_under_way(streams: Streams) -> None:
    await streams.served("left")
    call = streams.open()
    await call.write(request("left", "1", 1))
    assert answer(await call.read()) == ("1", "", [2.0])
    active = f"cluster.{cluster_name('left', 'blue')}.upstream_rq_active"
    assert await streams.plane.stat(active) == 1
    call.cancel()
    await eventually(lambda: streams.plane.stat(active), 0)


async def test_a_stream_is_let_in_by_the_key_that_it_began_with(streams: Streams) -> None:
    key = new_key()
    _, address = await streams.replica("locked", "blue")
    await streams.plane.endpoint("locked", blue(address), access=KeyHolders(((KeySlot.PRIMARY, hashed(key)),)))
    for metadata in ((), (("x-api-key", new_key()),)):
        call = streams.stub.ModelStreamInfer(timeout=DEADLINE_S, metadata=metadata)
        await call.write(request("locked", "1", 1))
        assert (await end(call))[0] is grpc.StatusCode.UNAUTHENTICATED
    call = streams.stub.ModelStreamInfer(timeout=DEADLINE_S, metadata=(("x-api-key", key),))
    assert await answers(call, [request("locked", "1", 1)]) == [("1", "", [2.0])]


async def test_an_unknown_model_is_said_to_be_unknown(streams: Streams) -> None:
    call = streams.open()
    await call.write(request("nobody", "1", 1))
    assert await end(call) == (grpc.StatusCode.NOT_FOUND, "unknown model 'nobody'")


async def test_a_stream_wakes_a_deployment_that_sleeps(streams: Streams) -> None:
    plane, arrived = streams.plane, asyncio.Event()
    room = WaitingRoom(plane.folder, TOKEN)
    try:
        door = await room.open(sleeper("asleep", 10, 60), lambda _: arrived.set())
        await plane.endpoint("asleep", Upstream("blue", "1", (door,), 20_000, 1000, MAX_BODY_BYTES, is_held=True))
        call = streams.open()
        await call.write(request("asleep", "1", 1))
        async with asyncio.timeout(DEADLINE_S):
            await arrived.wait()
        await streams.served("asleep")
        room.let_go(("asleep", "blue"), "")
        assert answer(await call.read()) == ("1", "", [2.0])
        await call.write(request("asleep", "2", 2))
        assert answer(await call.read()) == ("2", "", [4.0])
        call.cancel()
    finally:
        await room.close()
