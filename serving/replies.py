"""Replies that are no outputs: JSON documents and errors, over HTTP."""

from __future__ import annotations

import math
from typing import Any

import orjson

from serving.errors import STATUS, NotStarted, Overloaded, ScoringError, Unavailable, UnsupportedEncoding
from serving.exchange import Header, HttpResponse

JSON_TYPE: Header = (b"content-type", b"application/json")

# Envoy sends a request again, elsewhere, when the reply says that no work has begun.
RETRY_ELSEWHERE: Header = (b"x-crossfade-retry", b"1")

# The client's own words may be part of a message; a header or a log line has no room for all of them.
_MESSAGE_LIMIT = 1000
_LONGEST_RETRY_AFTER_S = 60

_ERROR_HEADERS: dict[type[ScoringError], Header] = {
    Unavailable: RETRY_ELSEWHERE,
    NotStarted: (b"retry-after", b"10"),
    UnsupportedEncoding: (b"accept-encoding", b"gzip, deflate"),  # RFC 7694
}


def json_response(document: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(status, (JSON_TYPE,), (orjson.dumps(document),))


def error_response(error: ScoringError) -> HttpResponse:
    """`{"error": message}`, the shape that every client of the protocol reads."""
    headers = (JSON_TYPE, *error_headers(error))
    return HttpResponse(status_of(error)[0], headers, (orjson.dumps({"error": error_message(error)}),))


def method_not_allowed(allowed: bytes) -> HttpResponse:
    """405, with the Allow header that RFC 9110 §15.5.6 asks for."""
    body = orjson.dumps({"error": f"method not allowed, use {allowed.decode()}"})
    return HttpResponse(405, (JSON_TYPE, (b"allow", allowed)), (body,))


def status_of(error: ScoringError) -> tuple[int, int]:
    """(HTTP status, gRPC code)."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_message(error: ScoringError) -> str:
    """Never empty, never long, always valid Unicode."""
    text = str(error) or type(error).__name__
    return text[:_MESSAGE_LIMIT].encode("utf-8", "backslashreplace").decode()


def error_headers(error: ScoringError) -> tuple[Header, ...]:
    """What besides status and message tells the caller, or Envoy, how to go on."""
    if isinstance(error, Overloaded):  # whole seconds, RFC 9110 §10.2.3
        return ((b"retry-after", b"%d" % min(max(math.ceil(error.retry_after_s), 1), _LONGEST_RETRY_AFTER_S)),)
    header = _ERROR_HEADERS.get(type(error))
    return () if header is None else (header,)
