"""How `crossfade up` asks the control plane that it has started: again and again, and it knows what it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

POLL_S = 0.1


class Asker:
    """`waits_for`: what was missing the last time, in words; empty before anything was asked."""

    def __init__(self, admin: httpx.AsyncClient) -> None:
        self._admin = admin
        self.waits_for = ""

    async def lives(self) -> None:
        await self._answer("/api/v1/live")

    async def _answer(self, path: str) -> httpx.Response:
        """The first one with status 200."""
        while True:
            try:
                answer = await self._admin.get(path)
            except httpx.TransportError as error:
                self.waits_for = f"the control plane does not answer ({type(error).__name__})"
            else:
                if answer.status_code == 200:
                    return answer
                self.waits_for = f"the control plane answers {error_words(answer)}"
            await asyncio.sleep(POLL_S)

    async def status(self) -> dict[str, Any]:
        return dict((await self._answer("/api/v1/status")).json())

    async def until(self, trouble: Callable[[dict[str, Any]], str]) -> None:
        """Until the status has no more of it."""
        while why := trouble(await self.status()):
            self.waits_for = why
            await asyncio.sleep(POLL_S)


def envoy_trouble(status: dict[str, Any]) -> str:
    return "" if status["proxies"] else "it has not asked for its configuration"


def ray_trouble(status: dict[str, Any]) -> str:
    ray = status["ray"]
    return "" if ray["is_connected"] else str(ray["reason"]) or "not connected"


def error_words(answer: httpx.Response) -> str:
    try:
        error = answer.json()["error"]
        details = [f"{item['key']}: {item['message']}" for item in error.get("problems", [])]
        return "; ".join([error["message"], *details])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"
