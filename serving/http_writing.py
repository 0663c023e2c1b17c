"""HTTP/1.1 replies as bytes on a connection (RFC 9112)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

from serving.exchange import Header, HttpResponse

# Parts below this size are joined into one write; above it a copy costs more than another entry in writev's list.
_JOIN_BELOW_BYTES = 64 * 1024

_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


def write_response(transport: asyncio.Transport, response: HttpResponse, keep_alive: bool) -> None:
    parts: list[bytes | memoryview] = [_STATUS_LINES[response.status]]
    for name, value in response.headers:
        parts += (name, b": ", value, b"\r\n")
    if not keep_alive:
        parts.append(b"connection: close\r\n")
    size = sum(map(len, response.body))
    if response.trailers is None:
        parts.append(b"content-length: %d\r\n\r\n" % size)
        parts += response.body
    else:
        parts.append(b"transfer-encoding: chunked\r\n\r\n")
        if size:
            parts.append(b"%x\r\n" % size)
            parts += response.body
            parts.append(b"\r\n")
        parts.append(b"0\r\n")
        parts += _header_lines(response.trailers)
        parts.append(b"\r\n")
    if size < _JOIN_BELOW_BYTES:
        transport.write(b"".join(parts))
    else:
        transport.writelines(parts)


def write_stream_head(transport: asyncio.Transport, headers: Sequence[Header]) -> None:
    """Of a chunked reply with status 200, after which the connection closes."""
    end = b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    transport.write(b"".join([_STATUS_LINES[200], *_header_lines(headers), end]))


def write_chunk(transport: asyncio.Transport, parts: Sequence[bytes | memoryview]) -> None:
    """`parts` are not empty: an empty chunk would be the last."""
    size = sum(map(len, parts))
    whole = [b"%x\r\n" % size, *parts, b"\r\n"]
    if size < _JOIN_BELOW_BYTES:
        transport.write(b"".join(whole))
    else:
        transport.writelines(whole)


def write_stream_end(transport: asyncio.Transport, trailers: Sequence[Header]) -> None:
    transport.write(b"".join([b"0\r\n", *_header_lines(trailers), b"\r\n"]))


def _header_lines(headers: Sequence[Header]) -> list[bytes]:
    return [b"%s: %s\r\n" % header for header in headers]
