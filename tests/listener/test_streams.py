"""Streams over the listener's real sockets: both ways at once, waiting for slow readers, and how connections end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from serving.exchange import Cancel, HttpRequest, HttpResponse, Reply, RequestStream, StreamReply
from serving.listener import Listener
from serving.stream_connection import answered_unread
from tests.listener.test_listener import AUTHORISED, DEADLINE_S, TOKEN, Connection, post, until

HEAD = f"POST /stream HTTP/1.1\r\nhost: r\r\n{AUTHORISED}transfer-encoding: chunked\r\n\r\n"
REPLY_HEAD = b"HTTP/1.1 200 OK\r\nx-a: b\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"


class Echo:
    """Implements `RequestStream`: sends back what comes, and remembers everything it is told."""

    def __init__(self, request: HttpRequest, reply: StreamReply) -> None:
        self.request, self.reply = request, reply
        self.told: list[str] = []
        self.got = b""
        reply.begin([(b"x-a", b"b")])

    def received(self, data: bytes) -> None:
        self.got += data
        self.reply.write([data])

    def ended(self) -> None:
        self.told.append("ended")
        self.reply.end([(b"grpc-status", b"0")])

    def drained(self) -> None:
        self.told.append("drained")

    def cancelled(self) -> None:
        self.told.append("cancelled")

    def close_soon(self) -> None:
        self.told.append("close soon")
        self.reply.end([(b"grpc-status", b"14")])


class House:
    """A listener with streams at /stream, and whole requests everywhere else."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "s")
        self.streams: list[Echo] = []
        self.listener = Listener(self._answer, TOKEN.encode(), 1000, {b"/stream": self._open})

    def _answer(self, request: HttpRequest, reply: Reply) -> Cancel | None:
        reply(HttpResponse(200, [], [request.path]))
        return None

    def _open(self, request: HttpRequest, reply: StreamReply) -> RequestStream:
        self.streams.append(Echo(request, reply))
        return self.streams[-1]

    async def connection(self, *sent: str | bytes) -> Connection:
        connection = Connection(*await asyncio.open_unix_connection(self.path))
        for text in sent:
            await connection.send(text)
        return connection


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.listener.open_unix(house.path)
    yield house
    await house.listener.close(grace_s=0)


def chunk(text: str) -> str:
    return f"{len(text):x}\r\n{text}\r\n"


async def read(connection: Connection, expected: bytes) -> None:
    async with asyncio.timeout(DEADLINE_S):
        assert await connection.reader.readexactly(len(expected)) == expected


async def test_what_comes_is_answered_before_all_has_come(house: House) -> None:
    connection = await house.connection(HEAD)
    await read(connection, REPLY_HEAD)
    for text in ("one", "two", "three"):
        await connection.send(chunk(text))
        await read(connection, chunk(text).encode())
    assert house.listener.in_flight == 1
    await connection.send("0\r\n\r\n")
    assert await connection.rest() == b"0\r\ngrpc-status: 0\r\n\r\n"
    await until(lambda: house.listener.in_flight == 0)
    assert house.streams[0].told == ["ended"]
    assert house.streams[0].request.headers[b"host"] == b"r"
    await connection.close()


async def test_a_stream_may_come_byte_by_byte_or_all_at_once_after_other_requests(house: House) -> None:
    text = HEAD + chunk("one") + chunk("two") + "0\r\n\r\n"
    connection = await house.connection(post("/first"))
    assert (await connection.reply())[2] == b"/first"
    for byte in text.encode():
        await connection.send(bytes([byte]))
    assert (await connection.rest()).endswith(b"0\r\ngrpc-status: 0\r\n\r\n")
    at_once = await house.connection(text)
    assert await at_once.rest() == REPLY_HEAD + (chunk("one") + chunk("two")).encode() + b"0\r\ngrpc-status: 0\r\n\r\n"
    assert [stream.got for stream in house.streams] == [b"onetwo", b"onetwo"]
    for one in (connection, at_once):
        await one.close()


async def test_a_stream_is_longer_than_a_body_may_be_and_large_parts_pass(house: House) -> None:
    connection = await house.connection(HEAD)
    await read(connection, REPLY_HEAD)
    large = "x" * 300_000
    sending = asyncio.create_task(connection.send(chunk(large) + "0\r\n\r\n"))
    assert (await connection.rest()).count(b"x") == len(large)
    await sending
    await connection.close()


@pytest.mark.parametrize("headers", ["", "x-crossfade-gateway: wrong\r\n"])
async def test_without_the_token_no_stream_is_opened(house: House, headers: str) -> None:
    connection = await house.connection(f"POST /stream HTTP/1.1\r\n{headers}transfer-encoding: chunked\r\n\r\n")
    assert (await connection.rest()).startswith(b"HTTP/1.1 403 ")
    assert not house.streams
    await connection.close()


async def test_who_does_not_read_is_noticed_and_told_of_room(house: House) -> None:
    connection = await house.connection(HEAD)
    await until(lambda: len(house.streams) == 1)
    stream = house.streams[0]
    while not stream.reply.is_full:
        stream.reply.write([b"x" * 65536])
    assert stream.told == []
    await read(connection, REPLY_HEAD)
    reading = asyncio.create_task(connection.reader.read())
    await until(lambda: stream.told == ["drained"])
    assert not stream.reply.is_full
    stream.reply.end([])
    await connection.send("0\r\n\r\n")
    await reading
    await connection.close()


async def test_a_client_can_be_made_to_wait(house: House) -> None:
    connection = await house.connection(HEAD)
    await until(lambda: len(house.streams) == 1)
    stream = house.streams[0]
    stream.reply.pause_reading()
    stream.reply.pause_reading()
    await connection.send(chunk("waits"))
    other = await house.connection(post("/other"))
    assert (await other.reply())[2] == b"/other"
    assert stream.got == b""
    stream.reply.resume_reading()
    await until(lambda: stream.got == b"waits")
    for one in (connection, other):
        await one.close()


async def test_who_hangs_up_is_reported_and_what_is_said_then_goes_nowhere(house: House) -> None:
    connection = await house.connection(HEAD + chunk("x"))
    await until(lambda: len(house.streams) == 1)
    await connection.close()
    await until(lambda: house.streams[0].told == ["cancelled"])
    house.streams[0].reply.write([b"late"])
    house.streams[0].reply.end([])
    assert house.listener.in_flight == 0


@pytest.mark.parametrize("rest", ["zz\r\n", "0\r\n\r\n" + HEAD])
async def test_what_is_no_chunk_ends_the_connection(house: House, rest: str) -> None:
    connection = await house.connection(HEAD + chunk("x"), rest)
    await connection.rest()
    await until(lambda: house.listener.in_flight == 0)
    assert len(house.streams) == 1
    await connection.close()


async def test_a_stream_waits_for_no_other_request(house: House) -> None:
    held: list[Reply] = []

    def hold(request: HttpRequest, reply: Reply) -> Cancel:
        held.append(reply)
        return held.clear

    house.listener.handler = hold
    connection = await house.connection(post("/held") + HEAD)
    assert await connection.rest() == b""
    assert not house.streams
    await connection.close()


async def test_a_reply_that_ends_before_its_request_is_not_lost(house: House) -> None:
    connection = await house.connection(HEAD)
    await until(lambda: len(house.streams) == 1)
    house.streams[0].reply.end([(b"grpc-status", b"3")])
    await connection.send(chunk("nobody wants this"))
    await read(connection, REPLY_HEAD + b"0\r\ngrpc-status: 3\r\n\r\n")
    assert house.streams[0].got == b""
    await connection.close()


async def test_closing_tells_the_streams_and_waits_for_their_end(house: House) -> None:
    connection = await house.connection(HEAD)
    await read(connection, REPLY_HEAD)
    closing = asyncio.create_task(house.listener.close(grace_s=DEADLINE_S))
    await read(connection, b"0\r\ngrpc-status: 14\r\n\r\n")
    await connection.close()
    await closing
    assert house.streams[0].told == ["close soon"]


async def test_a_stream_can_be_answered_as_a_whole_request_is(tmp_path: Path) -> None:
    replies: list[Reply] = []
    cancelled: list[bool] = []

    def handle(request: HttpRequest, reply: Reply) -> Cancel:
        replies.append(reply)
        return lambda: cancelled.append(True)

    listener = Listener(handle, TOKEN.encode(), 1000, {b"/stream": answered_unread(handle)})
    path = str(tmp_path / "s")
    await listener.open_unix(path)
    sent: Sequence[str] = (HEAD, chunk("x" * 2000))
    first, second = [Connection(*await asyncio.open_unix_connection(path)) for _ in range(2)]
    for connection in (first, second):
        for text in sent:
            await connection.send(text)
    await until(lambda: len(replies) == 2)
    replies[0](HttpResponse(200, [(b"grpc-status", b"14")]))
    status, headers, _ = await first.reply()
    assert (status, headers["grpc-status"], headers["connection"]) == (200, "14", "close")
    await second.close()
    await until(lambda: cancelled == [True])
    await first.close()
    await listener.close(grace_s=0)
