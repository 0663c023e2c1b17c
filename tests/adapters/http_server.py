"""A real HTTP server on a free loopback port that answers what the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: dict[str, list[str]]
    body: Any


@dataclass
class HttpServer:
    """`answers` are given in turn, the last one for ever: a status with a body, or None for no answer at all."""

    answers: list[tuple[int, bytes] | None]
    url: str = ""
    asked: asyncio.Queue[Asked] = field(default_factory=asyncio.Queue)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            request, *headers = head.split("\r\n")
            method, target, _ = request.split(" ")
            sizes = [int(line.split(":")[1]) for line in headers if line.lower().startswith("content-length:")]
            body = await reader.readexactly(sizes[0]) if sizes else b""
            parts = urlsplit(target)
            self.asked.put_nowait(Asked(method, parts.path, parse_qs(parts.query), json.loads(body) if body else None))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if answer is None:
                await reader.read()  # until the caller gives up
                return
            status, content = answer
            where = "location: /elsewhere\r\n" if status == 302 else ""
            writer.write(
                f"HTTP/1.1 {status} X\r\n{where}content-length: {len(content)}\r\nconnection: close\r\n\r\n".encode()
            )
            writer.write(content)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def http_server(*answers: tuple[int, bytes] | None) -> AsyncIterator[HttpServer]:
    made = HttpServer(list(answers))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()


def plain(value: Any) -> bytes:
    return json.dumps(value).encode()
