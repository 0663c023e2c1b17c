"""TLS before a program that has none: bytes both ways, ends that go, and who gets in. Sockets and TLS are real."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from router.domain.replica_tls import CertificateRequest, Certified
from router.domain.routing import TritonAddress
from serving.certified import CertifiedReplica
from serving.tls_relay import TlsRelay
from serving.triton_relay import RelayedHome, RelayedTriton
from tests.internal_ca import BLUE, certified, context_of, internal_ca, now
from tests.listener.test_triton_replica import FakeHome

WAIT_S = 30.0
LARGE = bytes(range(256)) * 32768  # 8 MiB, more than all buffers on the way hold

Program = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CA = internal_ca()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@contextlib.asynccontextmanager
async def relayed(program: Program) -> AsyncIterator[tuple[int, TlsRelay]]:
    """The port that speaks TLS."""
    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await program(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    relay = TlsRelay(server.sockets[0].getsockname()[1])
    try:
        yield await relay.open("127.0.0.1", certified(CA).context), relay
    finally:
        relay.close()
        server.close()
        await asyncio.wait_for(asyncio.gather(*served), WAIT_S)


@contextlib.asynccontextmanager
async def connected(
    port: int, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context or context_of(CA))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def heard(reader: asyncio.StreamReader) -> bytes:
    """The next of it; nothing when the connection has ended, however it did."""
    try:
        return await asyncio.wait_for(reader.read(100), WAIT_S)
    except (ConnectionError, ssl.SSLError):
        return b""


async def answer_to(port: int, words: bytes, context: ssl.SSLContext | None = None) -> bytes:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        async with connected(port, context) as (reader, writer):
            writer.write(words)
            return await heard(reader)
    return b""


async def test_what_goes_in_comes_out_whole_both_ways() -> None:
    async with relayed(echo) as (port, _), connected(port) as (reader, writer), asyncio.timeout(WAIT_S):
        writer.write(LARGE)
        assert await reader.readexactly(len(LARGE)) == LARGE


async def test_a_reader_that_stands_still_stops_the_writer_and_loses_nothing() -> None:
    written = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        for start in range(0, len(LARGE), 65536):
            writer.write(LARGE[start : start + 65536])
            await writer.drain()
            written += 65536

    async with relayed(pour) as (port, _), connected(port) as (reader, _), asyncio.timeout(WAIT_S):
        before = -1
        while before != written or not written:  # until nothing moves any more
            before = written
            await asyncio.sleep(0.3)
        assert await reader.readexactly(len(LARGE)) == LARGE
        assert await reader.read() == b""


async def test_a_client_that_goes_takes_the_programs_connection_with_it() -> None:
    heard_last: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(5) == b"hello"
        heard_last.set_result(await heard(reader))

    async with relayed(wait) as (port, _), connected(port) as (_, writer):
        writer.write(b"hello")
        await writer.drain()
        writer.close()
        assert await asyncio.wait_for(heard_last, WAIT_S) == b""


async def test_what_a_program_says_before_it_goes_arrives() -> None:
    async def answer_and_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"goodbye")

    async with relayed(answer_and_go) as (port, _), connected(port) as (reader, _):
        assert await heard(reader) == b"goodbye"
        assert await heard(reader) == b""


async def test_where_nobody_listens_connections_end() -> None:
    async with relayed(echo) as (dead, _):
        pass
    relay = TlsRelay(dead)
    port = await relay.open("127.0.0.1", certified(CA).context)
    assert await answer_to(port, b"hello") == b""
    relay.close()


async def test_closing_cuts_what_is_open() -> None:
    async with relayed(echo) as (port, relay), connected(port) as (reader, writer):
        writer.write(b"x")
        assert await heard(reader) == b"x"
        relay.close()
        assert await heard(reader) == b""


async def test_whoever_is_not_the_gateway_reaches_nothing() -> None:
    reached: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(await reader.read(10))
        writer.write(b"welcome")

    async with relayed(note) as (port, _):
        assert await answer_to(port, b"hello") == b"welcome"
        stranger = context_of(CA, internal_ca().for_envoy(now()))
        assert await answer_to(port, b"hello", stranger) == b""
    assert reached == [b"hello"]


class Desk:
    """Implements `Desk`: certifies everybody."""

    async def certified(self, request: CertificateRequest) -> Certified:
        return CA.for_replica(request, now())


async def test_a_triton_is_reached_at_the_replicas_address_and_keeps_its_life() -> None:
    home = FakeHome()
    both = RelayedHome(home, CertifiedReplica(BLUE, Desk(), certified(CA)))
    triton = await both.start()
    assert isinstance(triton, RelayedTriton)
    assert triton.address.ip == BLUE.ip
    assert triton.address != home.started[0].address
    assert isinstance(triton.address, TritonAddress)
    await triton.loaded()
    home.started[0].trouble = "out of memory"
    assert await triton.why_not_ready() == "out of memory"
    await triton.end()
    assert (await triton.ended()).words == "ended 0"
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(triton.address.ip, triton.address.http_port)
    await both.close()
    assert home.story[-1] == "closed"


async def is_reached(triton: RelayedTriton) -> bool:
    for port in (triton.address.http_port, triton.address.grpc_port):
        try:
            _, writer = await asyncio.open_connection(triton.address.ip, port)
        except ConnectionError:
            return False
        writer.close()
    return True


async def test_the_ways_to_a_triton_close_when_it_has_drained_is_replaced_or_its_home_closes() -> None:
    home = RelayedHome(FakeHome(), CertifiedReplica(BLUE, Desk(), certified(CA)))
    drained = await home.start()
    assert await is_reached(drained)
    await drained.drain()
    assert not await is_reached(drained)
    replaced = await home.start()
    latest = await home.start()
    assert [await is_reached(triton) for triton in (replaced, latest)] == [False, True]
    await home.close()
    assert not await is_reached(latest)
