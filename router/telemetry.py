"""Telemetry: adds up what Envoys report about deployments. Implements `router.ports.Meter`; knows no wire."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from router.domain.measurement import Latencies, Totals


@dataclass(frozen=True, slots=True)
class Increment:
    """What one Envoy saw of one deployment since its report before."""

    endpoint: str
    deployment: str
    totals: Totals


@dataclass(slots=True)
class _Tally:
    requests: int = 0
    errors: int = 0
    bounds_ms: tuple[float, ...] = ()
    counts: list[int] = field(default_factory=lambda: [0])

    def add(self, more: Totals) -> None:
        self.requests += more.requests
        self.errors += more.errors
        latencies = more.latencies
        if not latencies.total:
            return
        if latencies.bounds_ms != self.bounds_ms:
            # Only before the first one: reports.py lets nothing through that is measured with another scale.
            self.bounds_ms, self.counts = latencies.bounds_ms, [0] * len(latencies.counts)
        self.counts = [have + new for have, new in zip(self.counts, latencies.counts, strict=True)]

    def totals(self) -> Totals:
        return Totals(self.requests, self.errors, Latencies(self.bounds_ms, tuple(self.counts)))


class AttemptMeter:
    """Counts from zero when the process begins. Belongs to one event loop.

    Reports are differences, so several Envoys simply add up, one that starts again needs no care, and a total never
    shrinks. What was reported while this process was away is not counted: evidence begins anew with the process.
    """

    def __init__(self) -> None:
        self._tallies: dict[str, dict[str, _Tally]] = {}
        self._has_reported = asyncio.Event()  # replaced each time it is set

    def take(self, report: Iterable[Increment]) -> None:
        """One Envoy's report."""
        for increment in report:
            of_endpoint = self._tallies.setdefault(increment.endpoint, {})
            of_endpoint.setdefault(increment.deployment, _Tally()).add(increment.totals)
        self._has_reported.set()
        self._has_reported = asyncio.Event()

    def totals(self, endpoint: str) -> Mapping[str, Totals]:
        return {deployment: tally.totals() for deployment, tally in self._tallies.get(endpoint, {}).items()}

    async def reported(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._has_reported.wait()
        except TimeoutError:
            return False
        return True
