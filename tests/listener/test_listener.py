"""The replica's listener over real sockets: framing, limits, order, refusals, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from serving.exchange import Cancel, HttpRequest, HttpResponse, Reply
from serving.listener import Listener

TOKEN = "secret"
LIMIT = 1000
AUTHORISED = f"x-crossfade-gateway: {TOKEN}\r\n"
DEADLINE_S = 30.0


@dataclass
class Echo:
    """Answers with what it got; requests to /held wait until the test answers them."""

    requests: list[HttpRequest] = field(default_factory=list)
    held: list[Reply] = field(default_factory=list)
    cancelled: int = 0

    def handle(self, request: HttpRequest, reply: Reply) -> Cancel | None:
        self.requests.append(request)
        if request.path == b"/held":
            self.held.append(reply)
            return self._cancel
        if request.path == b"/trailers":
            reply(HttpResponse(200, [(b"content-type", b"application/grpc")], [request.body], [(b"grpc-status", b"0")]))
            return None
        reply(HttpResponse(200, [(b"x-path", request.path)], [request.body]))
        return None

    def answer(self, number: int, text: bytes = b"late") -> None:
        self.held[number](HttpResponse(200, [], [text]))

    def _cancel(self) -> None:
        self.cancelled += 1


@dataclass
class Served:
    echo: Echo
    listener: Listener
    path: str

    async def connection(self) -> Connection:
        return Connection(*await asyncio.open_unix_connection(self.path))


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, text: str | bytes) -> None:
        self.writer.write(text.encode() if isinstance(text, str) else text)
        await self.writer.drain()

    async def reply(self) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of the next reply."""
        async with asyncio.timeout(DEADLINE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.split("\r\n")[:-2]
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), headers, body

    async def rest(self) -> bytes:
        """Everything until the listener ends the connection."""
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(ConnectionResetError):
                return await self.reader.read()
        return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    echo = Echo()
    listener = Listener(echo.handle, TOKEN.encode(), LIMIT)
    path = str(tmp_path / "s")
    await listener.open_unix(path)
    yield Served(echo, listener, path)
    await listener.close(grace_s=0)


@pytest.fixture
async def connection(served: Served) -> AsyncIterator[Connection]:
    connection = await served.connection()
    yield connection
    await connection.close()


def post(path: str, body: str = "", headers: str = AUTHORISED) -> str:
    return f"POST {path} HTTP/1.1\r\nhost: r\r\n{headers}content-length: {len(body)}\r\n\r\n{body}"


def chunked(path: str, *chunks: str, trailers: str = "") -> str:
    parts = "".join(f"{len(chunk):x}\r\n{chunk}\r\n" for chunk in chunks)
    head = f"POST {path} HTTP/1.1\r\nhost: r\r\n{AUTHORISED}transfer-encoding: chunked\r\n\r\n"
    return f"{head}{parts}0\r\n{trailers}\r\n"


async def until(is_so: Callable[[], bool]) -> None:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + DEADLINE_S
    while not is_so():
        assert loop.time() < give_up_at
        await asyncio.sleep(0.005)


async def test_a_connection_answers_many_requests(connection: Connection) -> None:
    for number in range(5):
        await connection.send(post(f"/{number}?query", f"body {number}"))
        status, headers, body = await connection.reply()
        assert (status, headers["x-path"], body) == (200, f"/{number}", b"body %d" % number)
        assert "connection" not in headers


async def test_a_request_may_arrive_byte_by_byte(connection: Connection) -> None:
    for byte in post("/slow", "hello").encode():
        await connection.send(bytes([byte]))
    assert (await connection.reply())[2] == b"hello"


async def test_a_chunked_body_arrives_whole_and_its_trailers_are_no_headers(
    served: Served, connection: Connection
) -> None:
    await connection.send(chunked("/c", "one ", "two ", "three", trailers="x-crossfade-gateway: other\r\nlate: 1\r\n"))
    assert (await connection.reply())[2] == b"one two three"
    assert b"late" not in served.echo.requests[0].headers


async def test_requests_sent_together_are_answered_in_order(served: Served, connection: Connection) -> None:
    await connection.send(post("/held") + post("/second") + post("/held") + post("/fourth"))
    await until(lambda: len(served.echo.held) == 1)
    assert len(served.echo.requests) == 1
    served.echo.answer(0, b"first")
    assert (await connection.reply())[2] == b"first"
    assert (await connection.reply())[1]["x-path"] == "/second"
    await until(lambda: len(served.echo.held) == 2)
    served.echo.answer(1, b"third")
    assert (await connection.reply())[2] == b"third"
    assert (await connection.reply())[1]["x-path"] == "/fourth"


async def test_a_request_that_comes_before_the_reply_to_the_last_one_waits(
    served: Served, connection: Connection
) -> None:
    await connection.send(post("/held"))
    await until(lambda: len(served.echo.held) == 1)
    await connection.send(post("/early", "x"))
    served.echo.answer(0)
    assert (await connection.reply())[2] == b"late"
    assert (await connection.reply())[1]["x-path"] == "/early"


async def test_thousands_of_requests_in_one_write_are_all_answered(connection: Connection) -> None:
    await connection.send(post("/many") * 3000)
    for _ in range(3000):
        assert (await connection.reply())[0] == 200


async def test_whoever_sends_without_end_and_reads_nothing_is_cut(served: Served, connection: Connection) -> None:
    await connection.send(post("/held"))
    await until(lambda: len(served.echo.held) == 1)
    await connection.send("x" * (LIMIT + 1))
    assert await connection.rest() == b""
    await until(lambda: served.echo.cancelled == 1)


async def test_a_body_of_exactly_the_limit_is_accepted(connection: Connection) -> None:
    await connection.send(post("/full", "x" * LIMIT))
    assert len((await connection.reply())[2]) == LIMIT


@pytest.mark.parametrize(
    "request_text",
    [
        # Refused on the promise alone: the body is not waited for.
        f"POST / HTTP/1.1\r\n{AUTHORISED}content-length: {LIMIT + 1}\r\n\r\n",
        f"POST / HTTP/1.1\r\n{AUTHORISED}content-length: {10**30}\r\n\r\n",
        chunked("/", "x" * (LIMIT // 2), "x" * (LIMIT // 2), "x"),
    ],
)
async def test_a_body_over_the_limit_is_refused(served: Served, connection: Connection, request_text: str) -> None:
    await connection.send(request_text)
    text = await connection.rest()
    assert text.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))
    assert not served.echo.requests


@pytest.mark.parametrize("headers", ["", "x-crossfade-gateway: \r\n", "x-crossfade-gateway: secreT\r\n"])
async def test_without_the_token_nothing_is_handled(served: Served, connection: Connection, headers: str) -> None:
    await connection.send(post("/", "x", headers=headers))
    status, answered, body = await connection.reply()
    assert status == 403
    assert answered["connection"] == "close"
    assert json.loads(body) == {"error": "requests must come through the gateway"}
    assert await connection.rest() == b""
    assert not served.echo.requests


async def test_without_a_token_set_everybody_is_served(tmp_path: Path) -> None:
    echo = Echo()
    listener = Listener(echo.handle, b"", LIMIT)
    port = await listener.open_tcp("127.0.0.1")
    async with httpx.AsyncClient() as client:
        reply = await client.post(f"http://127.0.0.1:{port}/x", content=b"hello")
    assert reply.content == b"hello"
    await listener.close(grace_s=1)


@pytest.mark.parametrize(
    "text",
    [
        "this is not HTTP\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: ten\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "GET / HTTP/1.1\r\nbad header\r\n\r\n",
        f"GET / HTTP/1.1\r\n{AUTHORISED}connection: upgrade\r\nupgrade: websocket\r\n\r\nframes",
        f"CONNECT x:1 HTTP/1.1\r\n{AUTHORISED}\r\n",
        "\0\1\2\3" * 50,
    ],
)
async def test_malformed_requests_are_refused_and_the_connection_ends(
    served: Served, connection: Connection, text: str
) -> None:
    await connection.send(text)
    connection.writer.write_eof()
    answer = await connection.rest()
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 ")), answer
    if answer:
        assert json.loads(answer.partition(b"\r\n\r\n")[2]).keys() == {"error"}
    assert not served.echo.requests


async def test_connection_close_is_obeyed(connection: Connection) -> None:
    await connection.send(post("/", headers=AUTHORISED + "connection: close\r\n"))
    _, headers, _ = await connection.reply()
    assert headers["connection"] == "close"
    assert await connection.rest() == b""


async def test_trailers_follow_a_chunked_body(connection: Connection) -> None:
    await connection.send(post("/trailers", "hello") + post("/next", headers=AUTHORISED + "connection: close\r\n"))
    text = await connection.rest()
    first, _, second = text.partition(b"grpc-status: 0\r\n\r\n")
    assert first.endswith(b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n")
    assert b"x-path: /next" in second


async def test_trailers_without_a_body(connection: Connection) -> None:
    await connection.send(post("/trailers", headers=AUTHORISED + "connection: close\r\n"))
    assert (await connection.rest()).endswith(b"transfer-encoding: chunked\r\n\r\n0\r\ngrpc-status: 0\r\n\r\n")


async def test_a_client_that_hangs_up_cancels_the_work(served: Served) -> None:
    connection = await served.connection()
    await connection.send(post("/held"))
    await until(lambda: served.listener.in_flight == 1)
    await connection.close()
    await until(lambda: served.echo.cancelled == 1)
    assert served.listener.in_flight == 0
    served.echo.answer(0)  # too late: nobody is there, and nothing breaks


async def test_large_bodies_go_both_ways(tmp_path: Path) -> None:
    size = 20_000_000
    listener = Listener(Echo().handle, TOKEN.encode(), size)
    path = str(tmp_path / "big")
    await listener.open_unix(path)
    body = os.urandom(size)
    transport = httpx.AsyncHTTPTransport(uds=path)
    async with httpx.AsyncClient(transport=transport, timeout=30) as client:
        reply = await client.post("http://r/", content=body, headers={"x-crossfade-gateway": TOKEN})
    assert reply.content == body
    await listener.close(grace_s=1)


async def test_closing_lets_requests_finish_and_idle_connections_go(served: Served) -> None:
    idle, busy = await served.connection(), await served.connection()
    await idle.send(post("/"))
    await idle.reply()
    await busy.send(post("/held"))
    await until(lambda: served.listener.in_flight == 1)
    closing = asyncio.create_task(served.listener.close(grace_s=DEADLINE_S))
    assert await idle.rest() == b""
    with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        await served.connection()
    assert not closing.done()
    served.echo.answer(0, b"finished")
    _, headers, body = await busy.reply()
    assert (headers["connection"], body) == ("close", b"finished")
    await closing
    for connection in (idle, busy):
        await connection.close()


async def test_closing_cuts_what_does_not_finish_in_time(served: Served, connection: Connection) -> None:
    await connection.send(post("/held"))
    await until(lambda: served.listener.in_flight == 1)
    await served.listener.close(grace_s=0.05)
    assert await connection.rest() == b""
    await until(lambda: served.echo.cancelled == 1)


async def test_the_socket_is_this_users_alone_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "stale"
    path.write_text("left by a crash")
    listener = Listener(Echo().handle, b"", LIMIT)
    await listener.open_unix(str(path))
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await listener.close(grace_s=0)
    assert not path.exists()
