"""How long a weight change takes: from the API call until no request goes the old way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp

from benchmarks.crossfade import Admin, Gateway, deployment, endpoint
from benchmarks.payloads import Payload
from benchmarks.progress import say
from benchmarks.report import Row
from benchmarks.steady import DEPLOYMENT_HEADER

PROBES = 2  # connections, each asking every 2 ms who answers
PROBE_PAUSE_S = 0.002
ENDPOINTS_PER_APPLY = 100


@dataclass(frozen=True, slots=True)
class Change:
    """Milliseconds from the API call.

    `acknowledged`: the admin API says that it is in force. `in_force`: the first request after the last one that went
    the old way was sent. `is_late`: a request that was sent after the acknowledgement went the old way.
    """

    acknowledged_ms: float
    in_force_ms: float
    is_late: bool


class Probes:
    """Who answered the request sent at which moment, all the time."""

    def __init__(self, url: str, payload: Payload) -> None:
        self.seen: list[tuple[float, str]] = []
        self._url = url
        self._payload = payload
        self._news = asyncio.Event()

    async def run(self) -> None:
        headers = {"content-type": "application/json"}
        async with aiohttp.ClientSession(headers=headers) as session, asyncio.TaskGroup() as group:
            for _ in range(PROBES):
                group.create_task(self._probe(session))

    async def until_sent_after(self, moment_s: float, count: int) -> None:
        """Return when `count` requests that were sent after the moment have been answered."""
        while sum(sent_s > moment_s for sent_s, _ in self.seen) < count:
            self._news.clear()
            await self._news.wait()

    async def _probe(self, session: aiohttp.ClientSession) -> None:
        while True:
            sent_s = time.monotonic()
            async with session.post(self._url, data=self._payload.body) as reply:
                await reply.read()
                self.seen.append((sent_s, reply.headers[DEPLOYMENT_HEADER]))
                self._news.set()
            await asyncio.sleep(PROBE_PAUSE_S)


async def weight_changes(gateway: Gateway, payload: Payload, count: int) -> list[Change]:
    """All traffic goes from blue to green and back, `count` times in all."""
    changes = []
    probes = Probes(gateway.url, payload)
    async with Admin(gateway) as admin:
        await admin.set_traffic({"blue": 100})
        probing = asyncio.create_task(probes.run())
        try:
            for number in range(count):
                old, new = ("blue", "green") if number % 2 == 0 else ("green", "blue")
                probes.seen.clear()
                called_s = time.monotonic()
                await admin.set_traffic({new: 100})
                acknowledged_s = time.monotonic()
                await probes.until_sent_after(acknowledged_s, 3 * PROBES)
                changes.append(change_from(called_s, acknowledged_s, sorted(probes.seen), old))
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
    return changes


async def add_endpoints(gateway: Gateway, model: Path, count: int) -> float:
    """Endpoints with a deployment that has no replica: Envoy and the control plane know them, but they need no process.

    Returns the seconds until Envoy had acknowledged them all.
    """
    started_s = time.monotonic()
    async with Admin(gateway) as admin:
        for first in range(0, count, ENDPOINTS_PER_APPLY):
            names = [f"other-{number}" for number in range(first, min(first + ENDPOINTS_PER_APPLY, count))]
            endpoints = [endpoint(name, {}) for name in names]
            await admin.store([*endpoints, *(deployment(name, "blue", model, instance_count=0) for name in names)])
            say(f"  {first + len(names)}/{count} endpoints added")
        await admin.wait_until_up_to_date()
    return time.monotonic() - started_s


def weight_row(changes: Sequence[Change], endpoints: int, bar_ms: float, details: dict[str, Any]) -> Row:
    acknowledged = sorted(change.acknowledged_ms for change in changes)
    in_force = sorted(change.in_force_ms for change in changes)
    late = sum(change.is_late for change in changes)
    slowest_ms = max(_p99(acknowledged), _p99(in_force))
    return Row(
        title=f"a weight change, from the API call to in force in Envoy; endpoints: {endpoints:,}",
        bar=f"p99 ≤ {bar_ms:g} ms",
        crossfade=f"{_centiles(in_force)}; API call {_centiles(acknowledged)}; {late} of {len(changes)} came late",
        is_met=slowest_ms <= bar_ms and late == 0,
        details={
            "in_force_ms": [round(value, 2) for value in in_force],
            "acknowledged_ms": [round(value, 2) for value in acknowledged],
            **details,
        },
    )


def _centiles(values: Sequence[float]) -> str:
    return f"p50 {median(values):.1f} ms, p99 {_p99(values):.1f} ms"


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


def change_from(called_s: float, acknowledged_s: float, seen: Sequence[tuple[float, str]], old: str) -> Change:
    last_old_s = max((sent_s for sent_s, name in seen if name == old), default=called_s)
    first_new_s = min(sent_s for sent_s, _ in seen if sent_s > last_old_s)
    return Change(
        (acknowledged_s - called_s) * 1000, max(0.0, first_new_s - called_s) * 1000, is_late=last_old_s > acknowledged_s
    )
