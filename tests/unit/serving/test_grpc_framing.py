"""gRPC's framing: one frame in, trailers or trailers-only out."""

from __future__ import annotations

import gzip
import zlib
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BadRequest, Overloaded, Refusal, ScoringError, TooLarge, Unavailable, UnsupportedEncoding
from serving.grpc_framing import grpc_error_response, is_grpc, message_response, parsed_timeout_s, unframed


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


@pytest.mark.parametrize(
    ("content_type", "is_one"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_grpc_calls_are_known_by_their_content_type(content_type, is_one):
    assert is_grpc({b"content-type": content_type}) is is_one
    assert not is_grpc({})


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, framed(b"hello")),
        ({b"grpc-encoding": b"gzip"}, framed(b"hello")),
        ({b"grpc-encoding": b"gzip"}, framed(gzip.compress(b"hello"), 1)),
        ({b"grpc-encoding": b"deflate"}, framed(zlib.compress(b"hello"), 1)),
    ],
)
def test_a_frame_holds_the_message_plain_or_compressed(headers, body):
    assert unframed(headers, body, 100) == b"hello"


@pytest.mark.parametrize(
    ("headers", "body", "error"),
    [
        ({}, b"", BadRequest),
        ({}, b"\0\0\0\0", BadRequest),
        ({}, framed(b"hello")[:-1], BadRequest),
        ({}, framed(b"hello") + b"!", BadRequest),
        ({}, framed(b"hello") + framed(b"hello"), BadRequest),
        ({}, framed(b"hello", 2), BadRequest),
        ({}, framed(b"hello", 1), BadRequest),
        ({b"grpc-encoding": b"identity"}, framed(b"hello", 1), BadRequest),
        ({b"grpc-encoding": b"gzip"}, framed(b"hello", 1), BadRequest),
        ({b"grpc-encoding": b"snappy"}, framed(b"hello", 1), UnsupportedEncoding),
        ({b"grpc-encoding": b"gzip"}, framed(gzip.compress(b"\0" * 101), 1), TooLarge),
        ({}, framed(b"\0" * 101), TooLarge),
        ({}, b"\0\xff\xff\xff\xff", TooLarge),
    ],
)
def test_everything_else_is_refused(headers, body, error):
    with pytest.raises(error):
        unframed(headers, body, 100)


def test_a_reply_is_one_frame_that_ends_in_trailers():
    response = message_response((b"ab", memoryview(b"cd")), 4)
    assert (response.status, response.headers) == (200, ((b"content-type", b"application/grpc"),))
    assert b"".join(response.body) == framed(b"abcd")
    assert response.trailers == ((b"grpc-status", b"0"),)


def test_an_error_stands_in_the_headers_and_has_neither_body_nor_trailers():
    response = grpc_error_response(BadRequest("100% wrong: é\n"))
    assert (response.status, response.body, response.trailers) == (200, (), None)
    assert response.headers == (
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"3"),
        (b"grpc-message", b"100%25 wrong: %C3%A9%0A"),
    )


def test_errors_tell_envoy_and_the_client_how_to_go_on():
    assert (b"x-crossfade-retry", b"1") in grpc_error_response(Unavailable("draining")).headers
    assert (b"retry-after", b"1") in grpc_error_response(Overloaded("full")).headers
    refused = Overloaded("full", Refusal.OVERLOAD, retry_after_s=2.1)
    assert (b"retry-after", b"3") in grpc_error_response(refused).headers
    accepts = (b"grpc-accept-encoding", b"identity, deflate, gzip")
    assert accepts in grpc_error_response(UnsupportedEncoding("snappy")).headers


@given(st.text(max_size=2000))
def test_any_message_survives_as_printable_ascii(text):
    headers = dict(grpc_error_response(ScoringErrorOfATest(text)).headers)
    encoded = headers[b"grpc-message"]
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    expected = text[:1000].encode("utf-8", "backslashreplace") or b"ScoringErrorOfATest"
    assert unquote_to_bytes(encoded) == expected


class ScoringErrorOfATest(BadRequest, ScoringError):
    """A subclass answers with the status of what it is."""


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"2H", 7200),
        (b"3M", 180),
        (b"4S", 4),
        (b"5m", 0.005),
        (b"6u", 6e-6),
        (b"7n", 7e-9),
        (b"99999999S", 99999999),
        (b"0S", 0),
    ],
)
def test_timeouts_are_read_in_every_unit(value, seconds):
    assert parsed_timeout_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"1s", b"1 S", b"-1S", b"1.5S", b"123456789S", b"1_0S", b"\xb2S"])
def test_other_timeouts_are_refused(value):
    with pytest.raises(BadRequest, match="grpc-timeout"):
        parsed_timeout_s(value)
