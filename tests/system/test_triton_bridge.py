"""A Triton behind replicas of ours, through the whole gateway: rolled out to, compared with what it replaces, gone and
back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.payloads import payload_for
from benchmarks.peers.triton import write_repository
from benchmarks.steady import SteadyLoad
from tests.system.gateway import Gateway, deployment, endpoint
from tests.system.rolling import ANALYSIS, ENDED, MIRROR, STEPS
from tests.triton.server import Triton, started_triton

NAME = "bridged"
PER_SECOND = 60
TIMEOUT_S = 120.0


def bridge(triton: Triton) -> dict[str, Any]:
    server = {"host": "127.0.0.1", "http_port": triton.ports.http, "grpc_port": triton.ports.grpc}
    return {
        "kind": "Deployment",
        "name": "green",
        "endpoint": NAME,
        "backend": "triton",
        "triton": {"mode": "bridge", "servers": [server], "model": "mlp"},
        "model_version": "of-triton",
        "batching": {"max_batch_size": 16},
        "resources": {"cpu": 0.1},
    }


@pytest.fixture
def gateway(shared: Gateway, models: Path) -> Iterator[Gateway]:
    shared.apply(endpoint(NAME, {"blue": 100}), deployment(NAME, "blue", models / "mlp.onnx"))
    yield shared
    shared.in_force(shared.admin.delete_endpoint(NAME, is_forced=True))


async def test_traffic_goes_from_onnx_runtime_to_a_bridged_triton_whose_answers_were_compared_before(
    gateway: Gateway, models: Path, tmp_path: Path
) -> None:
    async with started_triton(write_repository(models / "mlp.onnx", tmp_path)) as triton:
        await asyncio.to_thread(gateway.apply, bridge(triton))
        payload = payload_for(models / "mlp.onnx", NAME)
        async with SteadyLoad(f"{gateway.url}/v2/models/{NAME}/infer", gateway.grpc, payload, PER_SECOND) as load:
            steps = {"to": "green", "steps": [*MIRROR, *STEPS], "analysis": ANALYSIS, "keep_old": "1h"}
            await asyncio.to_thread(gateway.admin.start_rollout, NAME, steps)
            rollout = await until(lambda: gateway.admin.rollout(NAME), phase={"promoted", *ENDED})
            assert rollout["phase"] == "promoted", rollout["reason"]
            assert set(await load.split(PER_SECOND)) == {"green"}
            live = await asyncio.to_thread(gateway.admin.deployment, NAME, "green")
            assert (live["state"], live["replicas_ready"]) == ("ready", 1)
            assert await asyncio.to_thread(gateway.replicas_of, NAME, "green")

            await asyncio.to_thread(gateway.admin.undo_rollout, NAME)
            await until(lambda: gateway.admin.endpoint(NAME), traffic=[{"blue": 100}])
            assert set(await load.split(PER_SECOND)) == {"blue"}
        assert not load.failures, load.failures[:10]
        assert set(load.answered) == {"http", "grpc"}

        await triton.kill()
        gone = await until(lambda: gateway.admin.deployment(NAME, "green"), replicas_ready={0})
        assert f"127.0.0.1:{triton.ports.grpc}: " in gone["reason"]
        await triton.start()
        await until(lambda: gateway.admin.deployment(NAME, "green"), replicas_ready={1})


async def until(look: Callable[[], dict[str, Any]], **wanted: Collection[Any]) -> dict[str, Any]:
    """What `look` shows when the named key has one of these values."""
    ((key, values),) = wanted.items()
    give_up_s = time.monotonic() + TIMEOUT_S
    while (found := await asyncio.to_thread(look)).get(key) not in values:
        assert time.monotonic() < give_up_s, found
        await asyncio.sleep(0.1)
    return found
