"""A transport without a network: what is asked is looked up."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from router.domain.errors import ModelUnavailable
from router.models.ports import Credentials, Download, Reply


class Answers:
    """Implements `Transport`. `told`: how a URL ends → a status and JSON; `files`: how a URL ends → content."""

    def __init__(self, told: Mapping[str, tuple[int, Any]], files: Mapping[str, bytes] | None = None) -> None:
        self.told = dict(told)
        self.files = dict(files or {})
        self.asked: list[str] = []

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: Any = None,
        max_bytes: int = 4 * 1024 * 1024,
        with_credentials: bool = True,
    ) -> Reply:
        self.asked.append(url)
        status, value = next((told for end, told in self.told.items() if url.endswith(end)), (404, {}))
        return Reply(url, status, {"content-type": "application/json"}, json.dumps(value).encode())

    @asynccontextmanager
    async def stream(
        self, url: str, *, offset: int = 0, if_range: str = "", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Download]:
        self.asked.append(url)
        content = next((content for end, content in self.files.items() if url.endswith(end)), None)
        if content is None:
            raise ModelUnavailable(f"{url}: there is no such file")

        async def chunks() -> AsyncIterator[bytes]:
            yield content[offset:]

        yield Download(offset, chunks())

    async def credentials(self, host: str) -> Credentials:
        return Credentials()
