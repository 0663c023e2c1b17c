"""Content codings of HTTP bodies and gRPC messages: gzip and deflate (which is zlib's format, RFC 9110 §8.4.1.2)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

from serving.errors import BadRequest, TooLarge, UnsupportedEncoding
from serving.text import quoted

_IDENTITY = b"identity"
# Wire format of zlib: 31 is gzip with a 32 KiB window, 15 is zlib.
_WINDOW_BITS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
_FASTEST = 1


def decompress(body: bytes | memoryview, encoding: bytes, max_bytes: int) -> bytes | memoryview:
    """The body without its content coding.

    Raises `UnsupportedEncoding`, `TooLarge` beyond `max_bytes` (without inflating further), `BadRequest` when the
    data is broken, cut off, or followed by anything.
    """
    coding = encoding.strip().lower()
    if coding in (b"", _IDENTITY):
        return body
    window_bits = _WINDOW_BITS.get(coding)
    if window_bits is None:
        raise UnsupportedEncoding(f"content-encoding {quoted(_text(encoding))} is not supported, use gzip or deflate")
    stream = zlib.decompressobj(window_bits)
    try:
        plain = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BadRequest(f"the {_text(coding)} body is broken: {error}") from None
    if len(plain) > max_bytes:
        raise TooLarge(f"the decompressed body is larger than {max_bytes} bytes")
    if not stream.eof:
        raise BadRequest(f"the {_text(coding)} body is cut off")
    # Further gzip members are legal in theory; a body of a million empty ones would keep us busy for seconds.
    if stream.unused_data:
        raise BadRequest(f"the {_text(coding)} body is followed by {len(stream.unused_data)} more bytes")
    return plain


def compress(parts: Sequence[bytes | memoryview], encoding: bytes) -> bytes:
    stream = zlib.compressobj(_FASTEST, zlib.DEFLATED, _WINDOW_BITS[encoding])
    return b"".join([*(stream.compress(part) for part in parts), stream.flush()])


@lru_cache(maxsize=256)
def response_encoding(accept_encoding: bytes) -> bytes | None:
    """The coding for a reply, b"gzip" or b"deflate", or None for identity, by RFC 9110 §12.5.3.

    The coding with the highest weight wins. Where several share it, identity does: HTTP libraries list everything
    they know with every request, which is no reason to spend time on compressing. A coding that stands alone, or
    weighs most, was asked for. A weight that cannot be read counts as 0.
    """
    weights: dict[bytes, float] = {}
    for item in accept_encoding.lower().split(b","):
        coding, *arguments = (word.strip() for word in item.split(b";"))
        if coding:
            weights[coding] = _weight(arguments)
    anything = weights.get(b"*")
    gzip = weights.get(b"gzip", weights.get(b"x-gzip", anything or 0.0))
    deflate = weights.get(b"deflate", anything or 0.0)
    best = max(gzip, deflate)
    identity = weights.get(_IDENTITY, anything)
    if best <= 0 or (identity is not None and identity >= best):
        return None
    if identity is None and sum(weight == best for weight in weights.values()) > 1:
        return None
    return b"gzip" if gzip == best else b"deflate"


def _weight(arguments: Sequence[bytes]) -> float:
    for argument in arguments:
        name, _, value = argument.partition(b"=")
        if name.strip() == b"q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0.0 <= weight <= 1.0 else 0.0
    return 1.0


def _text(word: bytes) -> str:
    return word.decode("latin-1")
