"""Rollouts of the shared gateway's endpoint `rolling`, as tests ask for them and follow them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from router.client_errors import Unreachable
from tests.system.gateway import Gateway, deployment, endpoint

ENDPOINT = "rolling"
ENDED = ("succeeded", "rolled_back", "aborted")
# Wide margins, so that a busy machine's stutter is never taken for the candidate's: what is tested here is that
# everything fits together, and the statistics have their own tests.
ANALYSIS = {
    "error_margin": 0.2,
    "latency_margin": 100,
    "slow_margin": 1,
    "ratio_tolerance": 1,
    "burst": "1s",
    "settle": "500ms",
    "max_wait": "2m",
    "disagreement_margin": 0.5,
}
_ANALYZE = {"analyze": {"bake": "2s", "min_requests": 20}}
MIRROR = ({"set_mirror": 50}, {"analyze": {"bake": "2s", "min_requests": 20, "min_pairs": 20}})
STEPS = tuple(step for percent in (10, 50, 100) for step in ({"set_weight": percent}, _ANALYZE))


class Rolling:
    """`gateway`'s endpoint `rolling`, with `blue`, which is well, `green`, which is as good, and `faulty`."""

    def __init__(self, gateway: Gateway) -> None:
        self.url = f"{gateway.url}/v2/models/{ENDPOINT}/infer"
        self._gateway = gateway

    @property
    def admin(self) -> Any:
        return self._gateway.admin

    def prepare(self, models: Path) -> None:
        """All traffic on blue, and everybody ready."""
        self._gateway.apply(
            endpoint(ENDPOINT, {}),
            deployment(ENDPOINT, "blue", models / "mlp.onnx"),
            deployment(ENDPOINT, "green", models / "mlp.onnx"),
            deployment(ENDPOINT, "faulty", models / "faulty.onnx"),
        )
        self._gateway.set_traffic({"blue": 100}, endpoint=ENDPOINT)

    def start(self, to: str, steps: Sequence[Any] = STEPS, **analysis: Any) -> dict[str, Any]:
        document = {"to": to, "steps": list(steps), "analysis": ANALYSIS | analysis, "keep_old": "1h"}
        started: dict[str, Any] = self.admin.start_rollout(ENDPOINT, document)
        return started

    def latest(self) -> dict[str, Any]:
        rollout: dict[str, Any] = self.admin.rollout(ENDPOINT)
        return rollout

    def trail(self) -> list[dict[str, Any]]:
        """Of the latest rollout."""
        latest = self.latest()["id"]
        return [entry for entry in self.admin.rollout_trail(ENDPOINT, 1000) if entry["rollout"] == latest]

    async def until(self, is_so: Callable[[dict[str, Any]], bool], timeout_s: float = 90.0) -> dict[str, Any]:
        """The rollout when it is so. A control plane that is away for a moment is waited for."""
        give_up_at = time.monotonic() + timeout_s
        rollout: dict[str, Any] = {}
        while True:
            try:
                rollout = await asyncio.to_thread(self.latest)
            except Unreachable:
                pass
            else:
                if is_so(rollout):
                    return rollout
            assert time.monotonic() < give_up_at, f"not so after {timeout_s:g} s: {rollout}"
            await asyncio.sleep(0.05)

    async def until_phase(self, *phases: str) -> dict[str, Any]:
        return await self.until(lambda rollout: rollout["phase"] in phases)
