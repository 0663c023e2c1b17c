"""Endpoints that follow a name at a model's source: how fast they look in tests, and waiting for what they find."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from tests.system.gateway import Gateway
from tests.system.rolling import ANALYSIS

STEPS = [
    {"set_weight": 50},
    {"analyze": {"bake": "1s", "min_requests": 20}},
    {"set_weight": 100},
    {"analyze": {"bake": "1s", "min_requests": 20}},
]
WATCH = {"policy": "auto", "every": "1s", "rollout": {"steps": STEPS, "analysis": ANALYSIS, "keep_old": "0s"}}


async def until(gateway: Gateway, name: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What is known of the endpoint's watch when it is so."""
    give_up_at, watch = time.monotonic() + 120, {}
    while time.monotonic() < give_up_at:
        watches = await asyncio.to_thread(gateway.admin.watches)
        watch = next((item for item in watches if item["endpoint"] == name), {})
        if watch and is_so(watch):
            return watch
        await asyncio.sleep(0.1)
    raise AssertionError(f"not so: {watch}")
