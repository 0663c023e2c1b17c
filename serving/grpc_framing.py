"""gRPC's own layer, without its messages: length-prefixed frames, status, timeouts. HTTP/2 is Envoy's part.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. A successful reply ends in trailers. A failed one is
*trailers-only*: status and message stand in the headers and there is no body, so that Envoy can still retry it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote_from_bytes

from serving.compression import decompress
from serving.errors import BadRequest, ScoringError, TooLarge
from serving.exchange import Header, HttpResponse
from serving.replies import error_headers, error_message, status_of
from serving.text import quoted

_CONTENT_TYPE: Header = (b"content-type", b"application/grpc")
HEADERS = (_CONTENT_TYPE,)
OK = ((b"grpc-status", b"0"),)
_ACCEPTS: Header = (b"grpc-accept-encoding", b"identity, deflate, gzip")
_UNIMPLEMENTED = 12

_PREFIX = struct.Struct(">BI")
_TIMEOUT_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

# "Percent-Encoded": space to tilde stand for themselves, except the percent sign.
_UNESCAPED = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def is_grpc(headers: Mapping[bytes, bytes]) -> bool:
    content_type = headers.get(b"content-type", b"")
    return content_type == b"application/grpc" or content_type.startswith((b"application/grpc+", b"application/grpc;"))


def unframed(headers: Mapping[bytes, bytes], body: bytes, max_bytes: int) -> bytes:
    """The message of a unary request.

    Raises `BadRequest` unless the body is exactly one frame, `UnsupportedEncoding`, or `TooLarge`.
    """
    if len(body) < _PREFIX.size:
        raise BadRequest(f"a gRPC request begins with 5 bytes of prefix, got {len(body)} bytes")
    flag, length = _PREFIX.unpack_from(body)
    if length > max_bytes:
        raise TooLarge(f"the message has {length} bytes, the limit is {max_bytes}")
    if len(body) != _PREFIX.size + length:
        raise BadRequest(
            f"a unary request is one gRPC frame: its prefix says {length} bytes, {len(body) - _PREFIX.size} came"
        )
    if flag == 0:
        return body[_PREFIX.size :]
    return _inflated(flag, memoryview(body)[_PREFIX.size :], headers.get(b"grpc-encoding", b"identity"), max_bytes)


def _inflated(flag: int, message: memoryview, encoding: bytes, max_bytes: int) -> bytes:
    if flag != 1:
        raise BadRequest(f"the gRPC frame has the unknown flag {flag}")
    if encoding == b"identity":
        # grpc's servers say INTERNAL here, which would count as the model's failure; the mistake is the client's.
        raise BadRequest("the gRPC frame is marked as compressed, but grpc-encoding names no compression")
    return bytes(decompress(message, encoding, max_bytes))


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of a stream, as it came."""

    flag: int
    data: bytes

    def message(self, encoding: bytes, max_bytes: int) -> bytes:
        """`encoding`: the stream's grpc-encoding. Raises `BadRequest`, `UnsupportedEncoding` or `TooLarge`."""
        if self.flag == 0:
            return self.data
        return _inflated(self.flag, memoryview(self.data), encoding, max_bytes)


class FrameReader:
    """Frames out of a stream of bytes, however it is cut. Holds what was fed and not yet taken."""

    __slots__ = ("_buffer", "_max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes

    @property
    def is_empty(self) -> bool:
        return not self._buffer

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self) -> Frame | None:
        """The next frame; None until all of it has come. Raises `TooLarge` on its promise: nothing after it is read."""
        if len(self._buffer) < _PREFIX.size:
            return None
        flag, length = _PREFIX.unpack_from(self._buffer)
        if length > self._max_bytes:
            raise TooLarge(f"the message has {length} bytes, the limit is {self._max_bytes}")
        end = _PREFIX.size + length
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            data = bytes(view[_PREFIX.size : end])
        del self._buffer[:end]
        return Frame(flag, data)


def message_response(parts: Sequence[bytes | memoryview], size: int) -> HttpResponse:
    """A successful reply with one message of `size` bytes, given in parts."""
    first = _PREFIX.pack(0, size) + parts[0] if parts else _PREFIX.pack(0, 0)
    return HttpResponse(200, HEADERS, (first, *parts[1:]), OK)


def framed(parts: Sequence[bytes | memoryview], size: int) -> list[bytes | memoryview]:
    """A message of `size` bytes, given in parts, as one frame of a stream."""
    return [_PREFIX.pack(0, size), *parts]


def grpc_status(error: ScoringError) -> tuple[Header, Header]:
    """Status and message, as headers or trailers."""
    return (
        (b"grpc-status", b"%d" % status_of(error)[1]),
        (b"grpc-message", quote_from_bytes(error_message(error).encode(), _UNESCAPED).encode()),
    )


def grpc_error_response(error: ScoringError) -> HttpResponse:
    code = status_of(error)[1]
    headers = (
        _CONTENT_TYPE,
        *grpc_status(error),
        *((name, value) for name, value in error_headers(error) if name != b"accept-encoding"),
    )
    return HttpResponse(200, (*headers, _ACCEPTS) if code == _UNIMPLEMENTED else headers)


def parsed_timeout_s(value: bytes) -> float:
    """The header grpc-timeout: 1 to 8 digits and a unit. Raises `BadRequest`."""
    unit = _TIMEOUT_UNITS_S.get(value[-1:])
    digits = value[:-1]
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise BadRequest(f"grpc-timeout {quoted(value.decode('latin-1'))} is not 1 to 8 digits and one of H M S m u n")
    return int(digits) * unit
