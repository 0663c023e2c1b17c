"""What a server's answer means, decided without one."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest

from adapters.transport.answers import Call, redirected, retry_after_s, shown

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7.0),
        (" 120 ", 120.0),
        ("Fri, 02 Jan 2026 12:00:30 GMT", 30.0),
        ("Fri, 02 Jan 2026 11:00:00 GMT", 0.0),
        ("Fri, 02 Jan 2026 13:00:30 +0100", 30.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("9" * 30, 0.0),
        ("", 0.0),
    ],
)
def test_a_server_says_how_long_to_wait_in_seconds_or_by_a_date(said: str, seconds: float) -> None:
    assert retry_after_s({"retry-after": said}, NOON) == seconds


def test_an_answer_without_a_place_to_go_is_no_redirect() -> None:
    call = Call("GET", httpx.URL("https://a.internal/m"), {})
    assert redirected(call, 200, "https://b.internal/") is None
    assert redirected(call, 304, "https://b.internal/") is None
    assert redirected(call, 302, "") is None


def test_another_port_is_another_host_and_the_usual_port_is_not() -> None:
    call = Call("GET", httpx.URL("https://a.internal/m"), {"authorization": "Bearer x", "range": "bytes=5-"})
    same = redirected(call, 302, "https://A.internal:443/n")
    other = redirected(call, 302, "https://a.internal:8443/n")
    assert same is not None
    assert other is not None
    assert (same.headers, same.with_credentials) == (call.headers, True)
    assert (other.headers, other.with_credentials) == ({"range": "bytes=5-"}, False)


def test_what_is_shown_of_a_url_holds_no_secret() -> None:
    url = httpx.URL("https://ann:pw@A.internal:8443/m/1.onnx?X-Amz-Signature=abc#fragment")
    assert shown(url) == "https://a.internal:8443/m/1.onnx"
