"""One HTTP request and its whole, small answer, for samplers and webhooks. Models come through `adapters.transport`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from router.domain.errors import CrossfadeError

MAX_ANSWER_BYTES = 256 * 1024

# This machine is never asked through a proxy from the environment.
_DIRECT = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}


class ExchangeFailed(CrossfadeError):
    """No answer that could be used. `status` is HTTP's, or 0 when there was none."""

    def __init__(self, message: str, status: int = 0, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


def origin(url: str) -> str:
    """Who is meant, without what may make the URL a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class HttpExchange:
    """Redirects are not followed: a URL is asked as it was written. Belongs to one event loop."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(mounts=_DIRECT, headers={"user-agent": "crossfade"}, timeout=None)

    async def get(self, url: str, query: Mapping[str, str]) -> bytes:
        """The body of a 2xx answer. Raises `ExchangeFailed`. Takes as long as the caller lets it."""
        return await self._answer("GET", url, params=dict(query))

    async def post(self, url: str, body: Any) -> bytes:
        """`body` is sent as JSON. Otherwise as `get`."""
        return await self._answer("POST", url, json=body)

    async def close(self) -> None:
        await self._client.aclose()

    async def _answer(self, method: str, url: str, **content: Any) -> bytes:
        try:
            reply = await self._client.send(self._client.build_request(method, url, **content), stream=True)
            try:
                body = b""
                async for chunk in reply.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise ExchangeFailed(f"the answer is larger than {MAX_ANSWER_BYTES // 1024} KiB")
            finally:
                await reply.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ExchangeFailed(f"{error or type(error).__name__}") from None
        if not reply.is_success:
            raise ExchangeFailed(f"HTTP {reply.status_code}", reply.status_code, body)
        return body
