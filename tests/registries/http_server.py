"""A real HTTP server on a free loopback port that does what the test wants: it may lie, break off, drip."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

_THREAD_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Asked:
    """Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def offset(self) -> int:
        """Where the wanted range begins, 0 without one."""
        return int(self.headers["range"].removeprefix("bytes=").partition("-")[0]) if "range" in self.headers else 0


Behaviour = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """A whole, honest answer that ends the connection. Underscores in header names are hyphens."""
    given = {"content_length": str(len(body)), "connection": "close", **headers}
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def always(*answers: bytes) -> Behaviour:
    """The answers in turn, the last one for ever."""
    left = list(answers)

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        content = left.pop(0) if len(left) > 1 else left[0]
        writer.write(b"".join(content.partition(b"\r\n\r\n")[:2]) if asked.method == "HEAD" else content)

    return behave


def file_server(content: bytes, etag: str = '"1"') -> Behaviour:
    """Serves one file, ranges and If-Range as RFC 9110 has them."""

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        offset = asked.offset if asked.headers.get("if-range", etag) == etag else 0
        part = content[offset:]
        headers = {"etag": etag, "content_length": str(len(part))}
        if offset:
            headers["content_range"] = f"bytes {offset}-{len(content) - 1}/{len(content)}"
        writer.write(reply(206 if offset else 200, b"" if asked.method == "HEAD" else part, **headers))

    return behave


@dataclass
class HttpServer:
    """`host`: as settings name it. `asked`: what came, in order."""

    behave: Behaviour
    host: str = ""
    scheme: str = "http"
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            begin = await reader.readexactly(1)
            if begin == b"\x16":  # a TLS handshake: answered as servers do that speak none
                writer.write(reply(400, b"this is a plain HTTP port"))
                return
            head = (begin + await reader.readuntil(b"\r\n\r\n")).decode()
            request, *lines = head.rstrip().split("\r\n")
            method, target, _ = request.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            asked = Asked(method, target, headers, body)
            self.asked.append(asked)
            await self.behave(asked, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def http_server(
    behave: Behaviour, tls: ssl.SSLContext | None = None, name: str = "127.0.0.1"
) -> AsyncIterator[HttpServer]:
    made = HttpServer(behave, scheme="https" if tls else "http")
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.host = f"{name}:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()


@contextmanager
def http_server_in_thread(behave: Behaviour, tls: ssl.SSLContext | None = None) -> Iterator[HttpServer]:
    """The same, with an event loop of its own: for tests that block theirs, or have none."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(_THREAD_TIMEOUT_S)

    try:
        server = http_server(behave, tls)
        made: HttpServer = run(server.__aenter__())
        try:
            yield made
        finally:
            run(server.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
