"""Rollouts of the shared gateway's endpoint `rolling`, as tests ask for them and follow them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from router.domain.plain import to_plain
from router.domain.policy import Policy
from router.domain.rollout import RolloutSpec
from router.domain.strategy import Analyze, SetWeight, Strategy
from tests.system.gateway import Gateway, deployment, endpoint

ENDPOINT = "rolling"
ENDED = ("succeeded", "rolled_back", "aborted")
# Wide margins, so that a busy machine's stutter is never taken for the candidate's: what is tested here is that
# everything fits together, and the statistics have their own tests.
POLICY = Policy(
    error_margin=0.2,
    latency_margin=100.0,
    slow_margin=1.0,
    ratio_tolerance=1.0,
    burst_s=1,
    settle_s=0.5,
    max_wait_s=120,
    keep_old_s=3600,
)
STEPS = tuple(step for percent in (10, 50, 100) for step in (SetWeight(percent), Analyze(bake_s=2, min_requests=20)))


class Rolling:
    """`gateway`'s endpoint `rolling`, with `blue`, which is well, `green`, which is as good, and `faulty`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.url = f"{gateway.url}/v2/models/{ENDPOINT}/infer"

    def prepare(self, models: Path) -> None:
        """All traffic on blue, and no rollout under way."""
        admin = self._gateway.admin
        self._gateway.in_force(
            admin.apply(
                [
                    endpoint(ENDPOINT, {}),
                    deployment(ENDPOINT, "blue", models / "mlp.onnx", instance_count=1),
                    deployment(ENDPOINT, "green", models / "mlp.onnx", instance_count=1),
                    deployment(ENDPOINT, "faulty", models / "faulty.onnx", instance_count=1),
                ]
            )
        )
        self._gateway.set_traffic({"blue": 100}, endpoint=ENDPOINT)

    def start(self, to: str, steps: Sequence[Any] = STEPS, policy: Policy = POLICY) -> dict[str, Any]:
        spec = to_plain(RolloutSpec(ENDPOINT, to, Strategy("test", tuple(steps)), policy))
        return self._call("POST", "", spec)

    def ask(self, command: str) -> dict[str, Any]:
        return self._call("POST", f"/{command}")

    def latest(self) -> dict[str, Any]:
        return self._call("GET", "")

    def trail(self) -> list[dict[str, Any]]:
        """Of the latest rollout."""
        entries: list[dict[str, Any]] = self._call("GET", "/trail")["entries"]
        latest = self.latest()["id"]
        return [entry for entry in entries if entry["rollout"] == latest]

    async def until(self, is_so: Callable[[dict[str, Any]], bool], timeout_s: float = 90.0) -> dict[str, Any]:
        """The rollout when it is so. A control plane that is away for a moment is waited for."""
        give_up_at = time.monotonic() + timeout_s
        rollout: dict[str, Any] = {}
        while True:
            try:
                rollout = await asyncio.to_thread(self.latest)
            except httpx.TransportError:
                pass
            else:
                if is_so(rollout):
                    return rollout
            assert time.monotonic() < give_up_at, f"not so after {timeout_s:g} s: {_short(rollout)}"
            await asyncio.sleep(0.05)

    async def until_phase(self, *phases: str, timeout_s: float = 90.0) -> dict[str, Any]:
        return await self.until(lambda rollout: rollout["phase"] in phases, timeout_s)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        token = Path(self._gateway.data_dir, "admin.token").read_text().strip()
        url = f"http://127.0.0.1:{self._gateway.ports.admin}/api/v1/endpoints/{ENDPOINT}/rollout{path}"
        reply = httpx.request(method, url, json=body, headers={"authorization": f"Bearer {token}"}, timeout=30)
        assert reply.is_success, reply.text
        content: dict[str, Any] = reply.json()
        return content


def _short(rollout: Mapping[str, Any]) -> dict[str, Any]:
    verdict = rollout.get("verdict") or {}
    keys = ("phase", "step_index", "reason", "holding", "in_force", "asked")
    return {key: rollout.get(key) for key in keys} | {"verdict": verdict.get("reason")}
