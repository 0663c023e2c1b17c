"""A steady load that notices everything: HTTP and gRPC requests at a fixed rate, every failure and every answering
deployment recorded. Open loop: a slow answer does not slow the next request down."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from types import TracebackType
from typing import Self

import aiohttp
import grpc

from benchmarks.load import INFER_METHOD
from benchmarks.payloads import Payload

DEPLOYMENT_HEADER = "x-crossfade-deployment"
REQUEST_TIMEOUT_S = 10.0


class _Refused(Exception):
    """A request was not answered as it must be."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that was not answered as it must be. `at_s`: when it was sent, on `time.monotonic()`'s clock.

    `kind`: which of the special payloads it had; empty for the ordinary one.
    """

    at_s: float
    protocol: str
    reason: str
    kind: str


@dataclass(slots=True)
class Window:
    """The next `size` requests to be sent. `answered` counts the replies of each deployment."""

    size: int
    sent: int = 0
    ended: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    all_ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_open(self) -> bool:
        return self.sent < self.size

    def end(self, deployment: str | None) -> None:
        self.ended += 1
        if deployment is not None:
            self.answered[deployment] += 1
        if self.ended == self.size:
            self.all_ended.set()


class SteadyLoad:
    """`async with SteadyLoad(...) as load`: half of `per_second` requests are HTTP, half gRPC.

    `specials`: other payloads, by name, each for a share of the requests, which are drawn at random.
    """

    def __init__(self, url: str, grpc_address: str, payload: Payload, per_second: float) -> None:
        self.failures: list[Failure] = []
        self.answered = Counter[str]()  # protocol -> replies
        self.last_answer_s = 0.0
        self.specials: Mapping[str, tuple[Payload, float]] = {}
        self.sent = Counter[str]()  # kind of payload -> requests that ended
        self._dice = random.Random(1)
        self._url = url
        self._grpc_address = grpc_address
        self._payload = payload
        self._interval_s = 1 / per_second
        self._window: Window | None = None
        self._in_flight: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        self._session = aiohttp.ClientSession(timeout=timeout, headers={"content-type": "application/json"})
        self._channel = grpc.aio.insecure_channel(
            self._grpc_address,
            # The client's own pause before it reconnects must not hide how soon the gateway is back.
            options=[("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)],
        )
        self._call = self._channel.unary_unary(INFER_METHOD)
        self._clock = asyncio.create_task(self._send_for_ever())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._clock
        await asyncio.gather(*self._in_flight)
        await self._session.close()
        await self._channel.close()

    async def split(self, requests: int) -> Counter[str]:
        """How many of the next `requests` requests each deployment answered. Failed ones are not among them."""
        self._window = Window(requests)
        await self._window.all_ended.wait()
        return self._window.answered

    def failures_since(self, at_s: float) -> list[Failure]:
        return [failure for failure in self.failures if failure.at_s >= at_s]

    async def _send_for_ever(self) -> None:
        next_s = time.monotonic()
        protocols = cycle((("http", self._over_http), ("grpc", self._over_grpc)))
        while True:
            next_s += self._interval_s
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))
            window = self._window if self._window is not None and self._window.is_open else None
            if window is not None:
                window.sent += 1
            task = asyncio.create_task(self._request(*next(protocols), window))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)

    async def _request(self, protocol: str, send: Callable[[Payload], Awaitable[str]], window: Window | None) -> None:
        sent_s = time.monotonic()
        kind, payload = self._drawn()
        deployment = None
        try:
            deployment = await send(payload)
        except _Refused as refusal:
            self.failures.append(Failure(sent_s, protocol, str(refusal), kind))
        else:
            self.answered[protocol] += 1
            self.last_answer_s = time.monotonic()
        self.sent[kind] += 1
        if window is not None:
            window.end(deployment)

    def _drawn(self) -> tuple[str, Payload]:
        point = self._dice.random()
        for kind, (payload, share) in self.specials.items():
            if point < share:
                return kind, payload
            point -= share
        return "", self._payload

    async def _over_http(self, payload: Payload) -> str:
        try:
            async with self._session.post(self._url, data=payload.body) as reply:
                content = await reply.read()
                if reply.status != 200:
                    raise _Refused(f"{reply.status} {content[:200]!r}")
                return reply.headers[DEPLOYMENT_HEADER]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _Refused(f"{type(error).__name__}: {error}") from error

    async def _over_grpc(self, payload: Payload) -> str:
        call = self._call(payload.message, timeout=REQUEST_TIMEOUT_S)
        try:
            await call
            metadata = await call.initial_metadata()
        except grpc.aio.AioRpcError as error:
            raise _Refused(f"{error.code().name} {error.details()}") from error
        return str(metadata[DEPLOYMENT_HEADER])
