"""What `crossfade up` waits for, when it waits for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from router.up_waiting import Asker, envoy_trouble, ray_trouble

Answer = Callable[[], httpx.Response]
READY = {"proxies": [{"proxy": "envoy"}], "ray": {"is_connected": True, "reason": ""}}
CONNECTING = {**READY, "ray": {"is_connected": False, "reason": "no answer within 60 s"}}
REFUSAL = {"error": {"message": "the database is locked"}}


def is_away() -> httpx.Response:
    raise httpx.ConnectError("nobody is there")


def says(status: dict[str, Any], code: int = 200) -> Answer:
    return lambda: httpx.Response(code, json=status)


@pytest.mark.parametrize(
    ("trouble", "answer", "why"),
    [
        (ray_trouble, is_away, "the control plane does not answer (ConnectError)"),
        (ray_trouble, says(REFUSAL, 503), "the control plane answers the database is locked"),
        (ray_trouble, lambda: httpx.Response(502), "the control plane answers HTTP 502"),
        (ray_trouble, says(CONNECTING), "no answer within 60 s"),
        (envoy_trouble, says({**READY, "proxies": []}), "it has not asked for its configuration"),
    ],
)
async def test_it_knows_what_is_missing_and_goes_on_when_that_has_come(
    trouble: Callable[[dict[str, Any]], str], answer: Answer, why: str
) -> None:
    known = asyncio.Event()
    asker: Asker

    def reply(_: httpx.Request) -> httpx.Response:
        if asker.waits_for:
            assert asker.waits_for == why
            known.set()
            return says(READY)()
        return answer()

    async with httpx.AsyncClient(transport=httpx.MockTransport(reply), base_url="http://admin") as admin:
        asker = Asker(admin)
        await asker.until(trouble)
    assert known.is_set()
