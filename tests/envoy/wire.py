"""HTTP as bytes, because clients tidy up what a stranger would send: requests by hand, and HTTP/2 frames by hand."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.envoy.waiting import DEADLINE_S

_QUIET_S = 0.4


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_refusal(self) -> bool:
        """By HTTP; or, to who speaks gRPC, as an invalid argument, not found, denied, unimplemented or a stranger."""
        grpc_status = self.headers.get("grpc-status")
        if self.status == 200:
            return grpc_status in ("3", "5", "7", "12", "16") and not self.body
        return self.status in (400, 401, 403, 404, 405, 426, 501)


def request(
    method: str, target: str, headers: Mapping[str, str] | Iterable[tuple[str, str]] = (), body: bytes | None = None
) -> bytes:
    """`body` None: whatever the method usually has."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    fields = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    content = body if body is not None else b"" if method in ("GET", "HEAD", "OPTIONS", "TRACE") else b"{}"
    length = f"content-length: {len(content)}\r\n" if content else ""
    return f"{method} {target} HTTP/1.1\r\nhost: a\r\n{length}{fields}\r\n".encode("latin-1") + content


class Wire:
    """One client that keeps its connection for as long as it is kept. `shown`: TLS with what it is made of."""

    def __init__(self, port: int, shown: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._shown = shown
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, sent: bytes) -> Answer:
        """The first answer to these bytes. Raises `ConnectionError` when there is none."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await self._asked(sent)
        except TimeoutError:
            raise AssertionError(f"neither an answer nor an end within {DEADLINE_S:g} s to {sent!r}") from None

    async def _asked(self, sent: bytes) -> Answer:
        reader, writer = self._streams or await self._opened()
        self._streams = (reader, writer)
        writer.write(sent)
        try:
            answer = await _answer(reader, has_body=not sent.startswith(b"HEAD "))
        except asyncio.IncompleteReadError:
            await self.close()
            raise ConnectionResetError("no answer") from None
        if answer.headers.get("connection") == "close" or reader.at_eof():
            await self.close()
        return answer

    async def close(self) -> None:
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            await _end(writer)

    async def send_and_listen(self, sent: bytes) -> bytes:
        """All that comes back on a connection of its own, until it ends or has been quiet for a while."""
        reader, writer = await self._opened()
        received = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            writer.write(sent)
            while True:
                async with asyncio.timeout(_QUIET_S):
                    some = await reader.read(65536)
                if not some:
                    break
                received += some
        await _end(writer)
        return received

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        name = "localhost" if self._shown else None
        return await asyncio.open_connection("127.0.0.1", self._port, ssl=self._shown, server_hostname=name)


async def _end(writer: asyncio.StreamWriter) -> None:
    """At once: a farewell in TLS would be waited for, and who has been refused gets none."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _answer(reader: asyncio.StreamReader, *, has_body: bool) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = b""
    if has_body and headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            name, _, value = line.decode("latin-1").strip().partition(": ")
            headers[name.lower()] = value
    elif has_body:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(head[0].split()[1]), headers, body)


def statuses(received: bytes) -> list[int]:
    """Of all answers in what came back over HTTP/1."""
    lines = received.split(b"\r\n")
    return [int(line.split()[1]) for line in lines if line.startswith(b"HTTP/1.1 ")]


# -- HTTP/2 (RFC 9113), with headers as literals that no table remembers (RFC 7541 §6.2.2)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + (0).to_bytes(3, "big") + b"\x04\0" + bytes(4)
_DATA, _HEADERS = 0, 1
_END_STREAM, _END_HEADERS = 1, 4


def _frame(kind: int, flags: int, payload: bytes, stream: int = 1) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _text(text: str) -> bytes:
    """RFC 7541 §5.1 and §5.2."""
    content = text.encode("latin-1")
    if len(content) < 127:
        return bytes((len(content),)) + content
    length, rest = [127], len(content) - 127
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes((*length, rest)) + content


def _fields(fields: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)


def http2_request(
    fields: Iterable[tuple[str, str]], body: bytes = b"{}", trailers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """A whole connection with one request on it."""
    trailing = _fields(trailers)
    parts = [PREFACE, _frame(_HEADERS, _END_HEADERS, _fields(fields))]
    parts.append(_frame(_DATA, 0 if trailing else _END_STREAM, body))
    if trailing:
        parts.append(_frame(_HEADERS, _END_HEADERS | _END_STREAM, trailing))
    return b"".join(parts)
