"""Clients that take their time, and clients that come in floods, before a real Envoy: they end, others do not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import httpx
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks import http2
from router.xds.client_limits import ClientLimits
from serving.exchange import HttpResponse
from tests.envoy.data_plane import DataPlane, data_plane, upstream
from tests.envoy.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Short, so that a test need not wait for minutes.
HASTY = ClientLimits(headers_s=3, request_s=4, stream_idle_s=8, stalled_s=2, idle_s=4)
ACTIVE = "http.scoring.downstream_cx_active"
INFER = "/v2/models/scored/infer"
LARGE_REPLY_BYTES = 4 * 1024 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane() -> AsyncIterator[DataPlane]:
    async with data_plane(clients=HASTY) as running:
        await running.endpoint("scored", upstream("blue", await running.replica("blue")))
        large = await running.replica("blue")
        large.answer = lambda _: HttpResponse(200, [], [bytes(LARGE_REPLY_BYTES)])
        await running.endpoint("large", upstream("blue", large))
        yield running


@contextlib.asynccontextmanager
async def others_are_answered(plane: DataPlane) -> AsyncIterator[None]:
    """Every request of well-behaved clients, HTTP and gRPC, while the block runs and once after it."""
    is_over = asyncio.Event()

    async def http() -> None:
        async with httpx.AsyncClient(base_url=plane.url, timeout=DEADLINE_S) as client:
            while True:
                assert (await client.post(INFER, content=b"{}")).status_code == 200
                if is_over.is_set():
                    return
                await asyncio.sleep(0.01)

    async def over_grpc() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(plane.grpc_address, options=options) as channel:
            infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            while True:
                assert (await infer(service_pb2.ModelInferRequest(model_name="scored"))).model_name == "blue"
                if is_over.is_set():
                    return
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for client in (http, http, over_grpc, over_grpc):
            group.create_task(client())
        try:
            yield
        finally:
            is_over.set()


async def connected(plane: DataPlane, receive_buffer: int = 0) -> socket.socket:
    """A socket that does not block."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", plane.gateway.http_port))
    return sock


@dataclass(frozen=True, slots=True)
class Slow:
    """A client that says `begins`, then `goes_on` twice a second, or nothing."""

    begins: bytes
    goes_on: bytes = b""


GRPC = {"content_type": "application/grpc", "te": "trailers"}
HEAD = f"POST {INFER} HTTP/1.1\r\nhost: x\r\n".encode()
SLOW = (
    Slow(b""),
    Slow(HEAD, b"x-a: b\r\n"),
    Slow(HEAD + b"content-length: 1000\r\n\r\n", b"{"),
    Slow(HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n{\r\n"),
    Slow(http2.opening() + http2.frame(http2.HEADERS, http2.literal(":method", "POST"), stream=1)),
    Slow(http2.opening() + http2.headers(1, http2.post(INFER)), http2.frame(http2.DATA, b"{", stream=1)),
    Slow(
        http2.opening() + http2.headers(1, http2.post("/inference.GRPCInferenceService/ModelInfer", **GRPC)),
        http2.frame(http2.DATA, b"\0", stream=1),
    ),
)
TAKES_NOTHING = (
    b"POST /v2/models/large/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
    http2.opening(window=0) + http2.headers(1, http2.post("/v2/models/large/infer"), ends=True),
)


async def be_slow(plane: DataPlane, client: Slow) -> None:
    """Until the connection is ended."""
    loop = asyncio.get_running_loop()
    with contextlib.closing(await connected(plane)) as sock, contextlib.suppress(ConnectionError):
        await loop.sock_sendall(sock, client.begins)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    if not await loop.sock_recv(sock, 4096):
                        return
            await loop.sock_sendall(sock, client.goes_on)


async def test_a_thousand_slow_clients_are_ended_while_others_are_answered(plane: DataPlane) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as exits:
        for index in range(50):  # they need not notice that they are dropped
            sock = exits.enter_context(contextlib.closing(await connected(plane, receive_buffer=4096)))
            await loop.sock_sendall(sock, TAKES_NOTHING[index % len(TAKES_NOTHING)])
        async with asyncio.timeout(3 * DEADLINE_S), others_are_answered(plane), asyncio.TaskGroup() as group:
            for index in range(1000):
                group.create_task(be_slow(plane, SLOW[index % len(SLOW)]))
        assert await plane.stat("cluster.large/blue.upstream_rq_total") > 25  # a busy machine may be late for some
        await eventually(lambda: plane.stat(ACTIVE), 0)


@dataclass(frozen=True, slots=True)
class Flood:
    """Of one frame, after `begins`."""

    frame: bytes
    begins: bytes = b""


FLOODS = {
    "pings": Flood(http2.frame(http2.PING, bytes(8))),
    "settings": Flood(http2.frame(http2.SETTINGS)),
    "window updates": Flood(http2.frame(http2.WINDOW_UPDATE, struct.pack(">I", 1))),
    "priorities": Flood(http2.frame(http2.PRIORITY, struct.pack(">IB", 0, 1), stream=1)),
    "frames without content": Flood(http2.frame(http2.DATA, stream=1), http2.headers(1, http2.post(INFER))),
    "continuations": Flood(
        http2.frame(http2.CONTINUATION, http2.literal("x-a", "b" * 100), stream=1),
        http2.frame(http2.HEADERS, http2.literal(":method", "POST"), stream=1),
    ),
}


async def flooded(plane: DataPlane, flood: Flood) -> None:
    """Until the connection is ended. Answers are not read, so that they pile up."""
    loop = asyncio.get_running_loop()
    with contextlib.closing(await connected(plane, receive_buffer=4096)) as sock, contextlib.suppress(ConnectionError):
        await loop.sock_sendall(sock, http2.opening() + flood.begins)
        while True:
            await loop.sock_sendall(sock, 500 * flood.frame)


@pytest.mark.parametrize("what", FLOODS)
async def test_a_flood_of_frames_ends_its_connection_and_no_other(plane: DataPlane, what: str) -> None:
    async with asyncio.timeout(DEADLINE_S), others_are_answered(plane), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(flooded(plane, FLOODS[what]))


async def test_streams_that_are_reset_at_once_keep_nobody_from_being_answered(plane: DataPlane) -> None:
    loop, streams = asyncio.get_running_loop(), 20_000

    async def flood() -> None:
        sock = await connected(plane)
        with contextlib.closing(sock):
            reading = asyncio.create_task(_read_all(sock))
            await loop.sock_sendall(sock, http2.opening())
            for first in range(1, 2 * streams, 200):
                numbers = range(first, first + 200, 2)
                await loop.sock_sendall(
                    sock, b"".join(http2.headers(n, http2.post(INFER)) + http2.cancel(n) for n in numbers)
                )
            await loop.sock_sendall(sock, http2.headers(2 * streams + 1, http2.post("/nowhere"), ends=True))
            await reading

    async def _read_all(sock: socket.socket) -> None:
        """Until the last request is answered: there is nothing else to come."""
        seen = b""
        while struct.pack(">I", 2 * streams + 1) not in seen:
            more = await loop.sock_recv(sock, 65_536)
            assert more, "the connection was closed"
            seen = seen[-4:] + more

    async with asyncio.timeout(2 * DEADLINE_S), others_are_answered(plane):
        await flood()


async def test_a_client_that_gives_up_early_and_often_keeps_its_connection(plane: DataPlane) -> None:
    """By default, Envoy ends it after 500 requests, and its codec after 1,000."""
    mute = await plane.replica("blue")
    mute.answer = lambda _: None
    await plane.endpoint("mute", upstream("blue", mute, timeout_ms=60_000))
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(plane.grpc_address, options=options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert (await stub.ModelInfer(service_pb2.ModelInferRequest(model_name="scored"))).model_name == "blue"
        before = await plane.stat("http.scoring.downstream_cx_total")

        async def give_up() -> None:
            code = await stub.ModelInfer(service_pb2.ModelInferRequest(model_name="mute"), timeout=0.2).code()
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED

        for _ in range(13):
            await asyncio.gather(*(give_up() for _ in range(100)))
        assert (await stub.ModelInfer(service_pb2.ModelInferRequest(model_name="scored"))).model_name == "blue"
        assert await plane.stat("http.scoring.downstream_cx_total") == before


async def test_what_grpc_clients_send_stays_below_what_is_a_flood(plane: DataPlane) -> None:
    """Calls that are refused before any data came, one way or another: window updates are counted against data."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", 10),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    before = await plane.stat("http.scoring.downstream_cx_total")
    async with grpc.aio.insecure_channel(plane.grpc_address, options=options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for size in (1, 300_000):
            message = service_pb2.ModelInferRequest(model_name="nobody", raw_input_contents=[bytes(size)])
            for _ in range(10):
                codes = await asyncio.gather(*(stub.ModelInfer(message).code() for _ in range(20)))
                assert set(codes) == {grpc.StatusCode.NOT_FOUND}
    assert await plane.stat("http.scoring.downstream_cx_total") == before + 1


def _is_closed(sock: socket.socket) -> bool:
    """By the other side."""
    try:
        return not sock.recv(1)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_more_connections_than_there_may_be_are_refused_and_leave_those_that_are() -> None:
    async with data_plane(max_connections=100) as plane:
        await plane.endpoint("scored", upstream("blue", await plane.replica("blue")))
        assert (await plane.infer("scored")).status_code == 200  # over a connection that stays
        flood = [await connected(plane) for _ in range(300)]
        try:
            await eventually(lambda: sum(map(_is_closed, flood)) >= 200)
            assert (await plane.infer("scored")).status_code == 200
            assert await plane.stat(ACTIVE) <= 100
        finally:
            for sock in flood:
                sock.close()
        await eventually(lambda: plane.stat(ACTIVE), 1)
        async with httpx.AsyncClient(base_url=plane.url, timeout=DEADLINE_S) as other:
            assert (await other.post(INFER, content=b"{}")).status_code == 200


async def test_uploads_that_would_fill_the_memory_are_ended_and_others_are_answered_again() -> None:
    loop, mib = asyncio.get_running_loop(), 1024 * 1024
    async with data_plane(max_heap_bytes=192 * mib) as plane:
        large = upstream("blue", await plane.replica("blue"), max_request_bytes=64 * mib)
        await plane.endpoint("scored", large)

        async def upload() -> None:
            """All but the end of it. Nothing else would end it within a test."""
            with contextlib.closing(await connected(plane)) as sock, contextlib.suppress(ConnectionError):
                await loop.sock_sendall(sock, HEAD + f"content-length: {64 * mib}\r\n\r\n".encode())
                while True:
                    await loop.sock_sendall(sock, bytes(mib // 4))
                    await asyncio.sleep(0.01)
                    if _is_closed(sock):
                        return

        async def is_answered() -> bool:
            try:
                async with httpx.AsyncClient(base_url=plane.url, timeout=DEADLINE_S) as client:
                    return (await client.post(INFER, content=b"{}")).status_code == 200
            except httpx.TransportError:
                return False

        async with asyncio.timeout(2 * DEADLINE_S):
            await asyncio.gather(*(upload() for _ in range(16)))
        await eventually(is_answered)
        assert await plane.stat("overload.envoy.load_shed_points.http1_server_abort_dispatch.shed_load_count") >= 1
