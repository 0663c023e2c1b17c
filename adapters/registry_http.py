"""What registries that are asked over HTTP have in common: what their answers mean, and files that lie at URLs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from adapters.transport.answers import is_passing, retry_after_s
from router.domain.errors import ModelUnavailable
from router.models.ports import AccessDenied, Download, Reply, SourceUnavailable, Transport

_LONGEST_WORDS = 200


@dataclass(frozen=True, slots=True)
class Located:
    """Where a file is. `etag`: what it had when it was listed; "" when that is not known or not exact."""

    url: str
    etag: str = ""

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, locator: str) -> Located:
        return cls(**json.loads(locator))


@asynccontextmanager
async def located_file(transport: Transport, locator: str, offset: int) -> AsyncIterator[Download]:
    """Raises as `Transport.stream`: `SourceUnavailable` also when the file is another one now."""
    at = Located.of(locator)
    headers = {"if-match": at.etag} if at.etag else {}
    async with transport.stream(at.url, offset=offset, if_range=at.etag, headers=headers) as download:
        yield download


def exact_etag(reply: Reply) -> str:
    """A strong validator (https://www.rfc-editor.org/rfc/rfc9110#section-8.8.1), "" when there is none."""
    etag = reply.headers.get("etag", "")
    return etag if etag.startswith('"') else ""


def checked(reply: Reply, what: str) -> Reply:
    """An answer with 2xx, else raise what the status means. `what`: was asked for, in the user's words."""
    status = reply.status
    if 200 <= status < 300:
        return reply
    place = f"{what}: {reply.url}"
    if status in (401, 403):
        who = "does not know who asks" if status == 401 else "does not allow it"
        hint = "check the host's username and password, or token, in registries.yaml"
        raise AccessDenied(f"{place} {who} ({status}); {hint}")
    if status in (404, 410):
        raise ModelUnavailable(f"{place} has no such thing ({status}): check the name")
    if is_passing(status) or status >= 500:
        wait_s = retry_after_s(reply.headers, datetime.now(UTC))
        trouble = "gets too many requests" if status == 429 else "has trouble"
        when = f"in {wait_s:.0f} s" if wait_s else "later"
        raise SourceUnavailable(f"{place} {trouble} ({status}): try again {when}", wait_s)
    raise ModelUnavailable(f"{place} answers with status {status}")


def mapping(value: Any, what: str) -> dict[str, Any]:
    """`value` when it is a JSON object, else raise `ModelUnavailable`."""
    if not isinstance(value, dict):
        raise ModelUnavailable(f"{what}: the answer is not what such a registry says: is it another server?")
    return value


def words(value: Any) -> str:
    """A text out of an answer as it may be shown: one line, short. "" for what is no text."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return "".join(character for character in text if character.isprintable())[:_LONGEST_WORDS]


def size_of(value: Any) -> int:
    """A size in bytes as JSON has it (protobuf's JSON writes large numbers as text), -1 when it is none."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return int(text) if text.isdecimal() and len(text) < 19 else -1
