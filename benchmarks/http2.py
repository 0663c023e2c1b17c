"""HTTP/2 frames by hand (RFC 9113), for what no client library sends."""

from __future__ import annotations

import struct
from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
CANCEL = 8


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def opening(window: int = 65_535) -> bytes:
    """What a client begins with. `window`: what it takes of each reply before it says more."""
    return PREFACE + frame(SETTINGS, struct.pack(">HI", 4, window))


def headers(stream: int, fields: Iterable[tuple[str, str]], *, ends: bool = False) -> bytes:
    flags = END_HEADERS | (END_STREAM if ends else 0)
    return frame(HEADERS, b"".join(literal(name, value) for name, value in fields), flags=flags, stream=stream)


def literal(name: str, value: str) -> bytes:
    """A field without compression and without indexing (RFC 7541 §6.2.2)."""
    return b"\0" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    data = text.encode("latin-1")
    if len(data) < 127:
        return bytes((len(data),)) + data
    rest, length = len(data) - 127, bytearray((127,))
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    length.append(rest)
    return bytes(length) + data


def post(path: str, **more: str) -> list[tuple[str, str]]:
    """The fields of a request; a name's underscores stand for hyphens."""
    pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path)]
    return [*pseudo, *((name.replace("_", "-"), value) for name, value in more.items())]


def cancel(stream: int) -> bytes:
    return frame(RST_STREAM, struct.pack(">I", CANCEL), stream=stream)
