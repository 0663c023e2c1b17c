"""Asking and fetching over HTTP: bounded in time, size and repetitions. What answers mean is decided in `answers`."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx

from adapters.transport.answers import (
    Call,
    check_allowed,
    check_file_answer,
    check_plain,
    is_passing,
    parsed,
    redirected,
    retry_after_s,
    shown,
    starts_at,
)
from adapters.transport.connections import Connections, route_for
from adapters.transport.failures import ConnectionFailed, Way, translated
from adapters.transport.secrets import Secrets
from router.domain.errors import ModelUnavailable
from router.models.ports import Credentials, Download, Reply, SourceUnavailable
from router.models.settings import RegistrySettings, authority_of
from router.version import VERSION

MAX_REDIRECTS = 5
PAUSES_S = (0.5, 1.0, 2.0, 4.0)
_LONGEST_PAUSE_S = 30.0  # a server that asks for more is left alone
# httpx reads 64 KiB at a time, and whoever hashes and writes wants more. One GiB from loopback, the server on the other
# core: 1,060 MB/s, 800 with sha256 between the chunks (aiohttp would bring 1,250, asyncio's streams 1,500 without).
_CHUNK_BYTES = 1024 * 1024
_LONGEST_HELD_S = 1.0  # on a slow line: who is killed has lost no more than that
_SLOWEST_BYTES = 64 * 1024  # in `Timeouts.read_s`


class HttpTransport:
    """Implements `router.models.ports.Transport`. Belongs to one event loop. `pauses_s`: between repetitions."""

    def __init__(self, settings: RegistrySettings, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._settings = settings
        self._pauses_s = pauses_s
        self._secrets = Secrets()
        self._connections = Connections()

    async def close(self) -> None:
        await self._connections.close()

    async def credentials(self, host: str) -> Credentials:
        """Raises `AccessDenied` when they cannot be had."""
        return await self._secrets.credentials(host, self._settings.host(host))

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
        call = Call(method, parsed(url), _lower(headers), content, with_credentials)
        async with self._in_time(call), AsyncExitStack() as stack:
            answered, response = await self._answer(stack, call)
            body = await self._whole(answered, response, max_bytes)
            return Reply(shown(answered.url), response.status_code, dict(response.headers), body)

    @asynccontextmanager
    async def stream(
        self, url: str, *, offset: int = 0, if_range: str = "", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Download]:
        asked = _lower(headers)
        if offset:
            asked["range"] = f"bytes={offset}-"
            if if_range:
                asked["if-range"] = if_range
        call = Call("GET", parsed(url), asked)
        async with AsyncExitStack() as stack:
            async with self._in_time(call):
                answered, response = await self._answer(stack, call)
            check_file_answer(answered, response.status_code, response.headers, datetime.now(UTC))
            begins = starts_at(answered, response.status_code, response.headers, offset)
            parts = await stack.enter_async_context(aclosing(self._parts(answered, response)))
            chunks = await stack.enter_async_context(aclosing(_gathered(parts)))
            yield Download(begins, chunks)

    async def _answer(self, stack: AsyncExitStack, call: Call) -> tuple[Call, httpx.Response]:
        """The answer that counts, unread, and the call that it answers. `stack` ends it."""
        pauses_s = iter(self._pauses_s)
        while True:
            pause_s = next(pauses_s, None)
            async with AsyncExitStack() as attempt:
                try:
                    answered, response = await self._followed(attempt, call)
                except ConnectionFailed as error:
                    if pause_s is None or not (error.is_passing and call.is_repeatable):
                        raise
                    wait_s = 0.0
                else:
                    wait_s = retry_after_s(response.headers, datetime.now(UTC))
                    is_final = not is_passing(response.status_code, call.method)
                    if pause_s is None or is_final or wait_s > _LONGEST_PAUSE_S:
                        await stack.enter_async_context(attempt.pop_all())
                        return answered, response
            await asyncio.sleep(max(wait_s, pause_s * random.uniform(0.5, 1.0)))

    async def _followed(self, stack: AsyncExitStack, call: Call) -> tuple[Call, httpx.Response]:
        """The answer at the end of all redirects."""
        first = call
        for _ in range(MAX_REDIRECTS + 1):
            async with AsyncExitStack() as hop:
                response = await self._sent(hop, call)
                onward = redirected(call, response.status_code, response.headers.get("location", ""))
                if onward is None:
                    await stack.enter_async_context(hop.pop_all())
                    return call, response
            call = onward
        raise ModelUnavailable(f"{shown(first.url)}: redirects more than {MAX_REDIRECTS} times, last to {call.asked}")

    async def _sent(self, stack: AsyncExitStack, call: Call) -> httpx.Response:
        check_allowed(call, self._settings)
        headers = {"user-agent": f"crossfade/{VERSION}", "accept": "*/*", "accept-encoding": "identity"}
        headers |= call.headers
        if call.with_credentials and "authorization" not in headers:
            headers |= _authorization(await self.credentials(call.asked))
        body = None
        if call.content is not None:
            body = json.dumps(call.content).encode()
            headers["content-type"] = "application/json"
        timeouts = self._settings.timeouts
        steps = {"connect": timeouts.connect_s, "read": timeouts.read_s, "write": timeouts.read_s}
        request = httpx.Request(
            call.method,
            call.url,
            headers=headers,
            content=body,
            extensions={"timeout": {**steps, "pool": timeouts.request_s}},
        )
        proxy = self._settings.proxy_for(call.url.host)
        signing_in = await self.credentials(authority_of(proxy)) if proxy else Credentials()
        route = route_for(self._settings, call.asked, call.url.host, signing_in)
        transport = await stack.enter_async_context(self._connections.lease(call.asked, route))
        with translated(Way(call.asked, proxy), timeouts):
            response = await transport.handle_async_request(request)
        stack.push_async_callback(response.aclose)
        return response

    async def _whole(self, call: Call, response: httpx.Response, max_bytes: int) -> bytes:
        check_plain(call, response.headers)
        parts: list[bytes] = []
        size = 0
        with self._translated(call):
            async for part in response.aiter_raw():
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    raise ModelUnavailable(f"{shown(call.url)}: answers with more than {max_bytes} bytes")
        return b"".join(parts)

    async def _parts(self, call: Call, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body as it comes, as long as it comes fast enough and is not too large."""
        total = recent = 0
        waited_s, read_s = 0.0, self._settings.timeouts.read_s
        with self._translated(call):
            incoming = response.aiter_raw()
            while True:
                asked_at = time.monotonic()
                part = await anext(incoming, None)
                waited_s += time.monotonic() - asked_at
                if part is None:
                    return
                total += len(part)
                recent += len(part)
                if total > self._settings.limits.max_bytes:
                    limit = self._settings.limits.max_bytes
                    raise ModelUnavailable(f"{shown(call.url)}: is larger than limits.max_size ({limit} bytes) allows")
                yield part
                if recent >= _SLOWEST_BYTES:
                    recent, waited_s = 0, 0.0
                elif waited_s > read_s:
                    slow = f"sent {recent} bytes in {read_s:g} s: too slow to wait for (timeouts.read allows more time)"
                    raise SourceUnavailable(f"{shown(call.url)}: {slow}")

    def _translated(self, call: Call) -> AbstractContextManager[None]:
        way = Way(call.asked, self._settings.proxy_for(call.url.host))
        return translated(way, self._settings.timeouts)

    @asynccontextmanager
    async def _in_time(self, call: Call) -> AsyncIterator[None]:
        limit_s = self._settings.timeouts.request_s
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError:
            hint = "try again later, or raise timeouts.request in registries.yaml"
            raise SourceUnavailable(f"{shown(call.url)}: no whole answer within {limit_s:g} s; {hint}") from None


async def _gathered(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """In larger chunks. What came before the link broke is handed on too: who resumes need not ask for it again."""
    held: list[bytes] = []
    size, since_s = 0, time.monotonic()
    try:
        async for part in parts:
            held.append(part)
            size += len(part)
            if size >= _CHUNK_BYTES or time.monotonic() - since_s >= _LONGEST_HELD_S:
                yield b"".join(held)
                held.clear()
                size, since_s = 0, time.monotonic()
    except SourceUnavailable:
        if held:
            yield b"".join(held)
        raise
    if held:
        yield b"".join(held)


def _lower(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (headers or {}).items()}


def _authorization(given: Credentials) -> dict[str, str]:
    if given.token:
        return {"authorization": f"Bearer {given.token}"}
    if given.username:
        pair = base64.b64encode(f"{given.username}:{given.password}".encode()).decode()
        return {"authorization": f"Basic {pair}"}
    return {}
