"""gRPC's own layer, without its messages: length-prefixed frames, status, timeouts. HTTP/2 is Envoy's part.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. A successful reply ends in trailers. A failed one is
*trailers-only*: status and message stand in the headers and there is no body, so that Envoy can still retry it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from urllib.parse import quote_from_bytes

from serving.compression import decompress
from serving.errors import BadRequest, ScoringError, TooLarge
from serving.exchange import Header, HttpResponse
from serving.replies import error_headers, error_message, status_of
from serving.text import quoted

_CONTENT_TYPE: Header = (b"content-type", b"application/grpc")
_HEADERS = (_CONTENT_TYPE,)
_OK = ((b"grpc-status", b"0"),)
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
    if flag != 1:
        raise BadRequest(f"the gRPC frame has the unknown flag {flag}")
    encoding = headers.get(b"grpc-encoding", b"identity")
    if encoding == b"identity":
        # grpc's servers say INTERNAL here, which would count as the model's failure; the mistake is the client's.
        raise BadRequest("the gRPC frame is marked as compressed, but grpc-encoding names no compression")
    return bytes(decompress(memoryview(body)[_PREFIX.size :], encoding, max_bytes))


def message_response(parts: Sequence[bytes | memoryview], size: int) -> HttpResponse:
    """A successful reply with one message of `size` bytes, given in parts."""
    first = _PREFIX.pack(0, size) + parts[0] if parts else _PREFIX.pack(0, 0)
    return HttpResponse(200, _HEADERS, (first, *parts[1:]), _OK)


def grpc_error_response(error: ScoringError) -> HttpResponse:
    code = status_of(error)[1]
    headers = (
        _CONTENT_TYPE,
        (b"grpc-status", b"%d" % code),
        (b"grpc-message", quote_from_bytes(error_message(error).encode(), _UNESCAPED).encode()),
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
