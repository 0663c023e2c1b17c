"""Rollouts as the benchmark drives them: starts them over the admin API, follows them, reads what Envoy logged."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.crossfade import ENDPOINT, Admin, ChangeFailed

ENDED = ("succeeded", "rolled_back", "aborted")
DECIDED = ("promoted", "retiring", *ENDED)
_PATH = f"/endpoints/{ENDPOINT}"
_GONE_BACK = "aborted", "rolled_back"

Json = dict[str, Any]


class RolloutAdmin(Admin):
    """Every call waits for a control plane that is away for a moment; commands are not sent twice."""

    async def start(self, to: str, steps: Sequence[Any], analysis: Mapping[str, Any] | None = None) -> Json:
        body = {"to": to, "steps": list(steps), "analysis": dict(analysis or {}), "keep_old": "1h"}
        return await self._call("POST", f"{_PATH}/rollouts", body)

    async def start_strategy(self, to: str, strategy: str) -> Json:
        """With everything else as it is when nobody says anything."""
        return await self._call("POST", f"{_PATH}/rollouts", {"to": to, "strategy": strategy})

    async def command(self, name: str, body: Mapping[str, Any] | None = None) -> Json:
        return await self._call("POST", f"{_PATH}/rollout/{name}", body)

    async def rollout(self) -> Json:
        while True:
            try:
                return await self._call("GET", f"{_PATH}/rollout")
            except aiohttp.ClientError:
                await asyncio.sleep(0.02)

    async def until(self, is_so: Callable[[Json], bool], timeout_s: float) -> Json:
        """Raises `ChangeFailed` when it is not so in time."""
        give_up_s = time.monotonic() + timeout_s
        rollout = await self.rollout()
        while not is_so(rollout):
            if time.monotonic() > give_up_s:
                raise ChangeFailed(f"not so after {timeout_s:g} s: {shown(rollout)}")
            query = f"seen={rollout['version']}&timeout_s=1"
            try:
                rollout = await self._call("GET", f"{_PATH}/rollout/changed?{query}")
            except aiohttp.ClientError:
                rollout = await self.rollout()
        return rollout

    async def until_phase(self, phases: Sequence[str], timeout_s: float) -> Json:
        return await self.until(lambda rollout: rollout["phase"] in phases, timeout_s)

    async def trail(self, rollout_id: str) -> list[Json]:
        """Oldest first."""
        entries: list[Json] = (await self._call("GET", f"{_PATH}/rollout/trail?limit=10000"))["entries"]
        return [entry for entry in entries if entry["rollout"] == rollout_id]

    async def all_on_blue(self) -> None:
        await self.set_traffic({"blue": 100})


def decided_at(trail: Sequence[Json]) -> float:
    """When the rollback was decided, as seconds since 1970."""
    first = next(entry for entry in trail if entry["phase"] in ("rolling_back", "aborting", *_GONE_BACK))
    return datetime.fromisoformat(first["at"]).timestamp()


def shown(rollout: Json) -> str:
    verdict = (rollout.get("verdict") or {}).get("reason", "")
    return f"{rollout['phase']}, {rollout['weight']}% in force: {rollout['reason']} {rollout['holding']} {verdict}"


def sent_to_candidate(access_log: Path, candidate: str) -> list[float]:
    """When the requests came, as seconds since 1970, that went to the candidate: also those that its shield took over.

    Nothing else here is attempted twice.
    """
    found = []
    for line in access_log.read_text().splitlines():
        entry = json.loads(line)
        if entry["deployment"] == candidate or int(entry["attempts"] or 0) > 1:
            found.append(datetime.fromisoformat(entry["time"]).timestamp())
    return sorted(found)
