"""Many requests at once over either protocol, every one of which must be answered, and correctly."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

import aiohttp
import grpc

from benchmarks.load import INFER_METHOD
from benchmarks.payloads import Payload
from tests.system.gateway import Gateway

DEPLOYMENT = "x-crossfade-deployment"
_AT_ONCE = 8


async def over_http(
    gateway: Gateway,
    payload: Payload,
    count: int,
    headers: Mapping[str, str] | None = None,
    path: str = "/v2/models/mlp/infer",
) -> Counter[str]:
    """Who answered how many of `count` requests."""
    answered = Counter[str]()

    async def ask(session: aiohttp.ClientSession, share: int) -> None:
        for _ in range(share):
            async with session.post(gateway.url + path, data=payload.body, headers=headers) as reply:
                content = await reply.read()
                assert reply.status == 200, content
                payload.check_json(content)
                answered[reply.headers[DEPLOYMENT]] += 1

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        await asyncio.gather(*(ask(session, share) for share in _shares(count)))
    return answered


async def over_grpc(
    gateway: Gateway, payload: Payload, count: int, headers: Mapping[str, str] | None = None
) -> Counter[str]:
    """Who answered how many of `count` calls."""
    answered = Counter[str]()

    async def ask(channel: grpc.aio.Channel, share: int) -> None:
        infer = channel.unary_unary(INFER_METHOD)
        for _ in range(share):
            call = infer(payload.message, timeout=30, metadata=tuple((headers or {}).items()))
            payload.check_grpc(await call)
            answered[str((await call.initial_metadata())[DEPLOYMENT])] += 1

    async with grpc.aio.insecure_channel(gateway.grpc) as channel:
        await asyncio.gather(*(ask(channel, share) for share in _shares(count)))
    return answered


def _shares(count: int) -> list[int]:
    return [count // _AT_ONCE + (number < count % _AT_ONCE) for number in range(_AT_ONCE)]
