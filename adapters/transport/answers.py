"""What answers mean: statuses, redirects, pauses that a server asks for, ranges. Decided here, acted on elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from router.domain.errors import ModelUnavailable
from router.models.ports import AccessDenied, SourceUnavailable
from router.models.settings import RegistrySettings, authority

# Worth asking again: https://www.rfc-editor.org/rfc/rfc9110#section-15
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REPEATABLE = frozenset({"GET", "HEAD"})
# What says nothing about who asks, and so may cross to another host.
_HARMLESS = frozenset({"accept", "range", "if-range", "if-match", "if-none-match"})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(?:\d{1,18}|\*)")


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `headers`: names in lower case. `content`: sent as JSON, if any."""

    method: str
    url: httpx.URL
    headers: Mapping[str, str] = field(repr=False)
    content: Any = field(default=None, repr=False)
    with_credentials: bool = True

    @property
    def asked(self) -> str:
        """The authority."""
        return authority(self.url.scheme, self.url.host, self.url.port)

    @property
    def is_repeatable(self) -> bool:
        return self.method in _REPEATABLE


def parsed(url: str) -> httpx.URL:
    """Raises `ModelUnavailable` for what is not an http or https URL, or holds a password."""
    try:
        made = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise ModelUnavailable("a URL that cannot be read was named: check how the model is written") from None
    if made.scheme not in ("http", "https") or not made.host:
        raise ModelUnavailable(f"{shown(made)} is not an http or https URL")
    if made.userinfo:
        raise ModelUnavailable(f"{shown(made)} was named with a user or a password: give them in registries.yaml")
    return made


def shown(url: httpx.URL) -> str:
    """Without what may be secret: user, password, query (signatures of cloud storage), fragment."""
    return f"{url.scheme}://{authority(url.scheme, url.host, url.port)}{url.path}"[:500]


def check_allowed(call: Call, settings: RegistrySettings) -> None:
    """Raises `AccessDenied`."""
    if not settings.is_host_allowed(call.asked):
        hint = f"add {call.asked} to allowed_hosts in registries.yaml if it shall be"
        raise AccessDenied(f"{call.asked}: no model may be fetched from there; {hint}")
    if call.url.scheme == "http" and not settings.host(call.asked).is_plain_http:
        hint = f"use https, or allow it in registries.yaml: hosts: {{{call.asked}: {{plain_http: true}}}}"
        raise AccessDenied(f"{call.asked}: asking without TLS is not allowed; {hint}")


def redirected(call: Call, status: int, location: str) -> Call | None:
    """The call to make instead; None when the answer is no redirect. Raises `ModelUnavailable` for one that is not
    followed."""
    if status not in _REDIRECTS or not location:
        return None
    try:
        url = parsed(str(call.url.join(location)))
    except httpx.InvalidURL:
        raise ModelUnavailable(f"{call.asked}: redirects to something that is no URL") from None
    if call.method not in ("GET", "HEAD"):
        raise ModelUnavailable(f"{call.asked}: redirects a {call.method} to {shown(url)}: name that server instead")
    if call.url.scheme == "https" and url.scheme == "http":
        raise AccessDenied(f"{call.asked}: redirects from https to {shown(url)}, which is not followed")
    following = replace(call, url=url)
    if following.asked == call.asked and url.scheme == call.url.scheme:
        return following
    harmless = {name: value for name, value in call.headers.items() if name in _HARMLESS}
    return replace(following, headers=harmless, with_credentials=False)


def is_passing(status: int, method: str = "GET") -> bool:
    """Whether asking again may help, and does no harm: after 429 and 503 nothing was done."""
    return status in _PASSING and (method in _REPEATABLE or status in (429, 503))


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float:
    """https://www.rfc-editor.org/rfc/rfc9110#field.retry-after: seconds, or a date. 0 when nothing usable is said."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())


def check_file_answer(call: Call, status: int, headers: Mapping[str, str], now: datetime) -> None:
    """Raise for an answer to a GET of a file that does not bring it."""
    place = shown(call.url)
    match status:
        case 200 | 206:
            pass
        case 401 | 403:
            raise denied(call, status)
        case 407:
            raise AccessDenied(f"{call.asked}: the proxy wants to know who asks: give it under hosts, at its host:port")
        case 404 | 410:
            raise ModelUnavailable(f"{place}: there is no such file ({status})")
        case 412 | 416:
            raise SourceUnavailable(f"{place}: is another file by now ({status}): fetch it from the beginning")
        case _ if is_passing(status) or status >= 500:
            wait_s = retry_after_s(headers, now)
            when = f"in {wait_s:.0f} s" if wait_s else "later"
            what = "too many requests" if status == 429 else "the server has trouble"
            raise SourceUnavailable(f"{place}: {what} ({status}): try again {when}", wait_s)
        case _:
            raise ModelUnavailable(f"{place}: answered with status {status} instead of the file")
    check_plain(call, headers)
    if headers.get("content-type", "").lower().startswith("text/html") and not call.url.path.endswith(
        (".html", ".htm")
    ):
        hint = "is it the login page of a proxy, or another server than expected?"
        raise ModelUnavailable(f"{place}: answered with a web page instead of a file; {hint}")


def check_plain(call: Call, headers: Mapping[str, str]) -> None:
    """Raises `ModelUnavailable` for a compressed body: it may unpack to anything, and ranges of it mean nothing."""
    coding = headers.get("content-encoding", "identity").lower()
    if coding not in ("", "identity"):
        raise ModelUnavailable(f"{shown(call.url)}: comes compressed ({coding[:20]}), though that was not asked for")


def starts_at(call: Call, status: int, headers: Mapping[str, str], asked_offset: int) -> int:
    """Where the body begins in the file. Raises `SourceUnavailable` when it is not where it was asked."""
    if status == 200:
        return 0
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    if match is None or int(match[1]) != asked_offset or int(match[2]) < asked_offset:
        said = headers.get("content-range", "nothing")[:60]
        raise SourceUnavailable(f"{shown(call.url)}: was asked for bytes from {asked_offset} on, and sent {said!r}")
    return asked_offset


def denied(call: Call, status: int) -> AccessDenied:
    what = "does not know who asks" if status == 401 else "does not allow this"
    hint = f"check username and password, or token, of hosts.{call.asked} in registries.yaml"
    if not call.with_credentials:
        hint = "a redirect led there, and secrets are not sent along"
    return AccessDenied(f"{call.asked}: {what} ({status}); {hint}")
