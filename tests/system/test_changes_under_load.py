"""An operator changes everything while clients keep asking: nobody may notice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.changes import random_percents
from benchmarks.payloads import Payload
from benchmarks.steady import SteadyLoad
from tests.system.gateway import Gateway, deployment

PER_SECOND = 80
CHANGES = 30


@pytest.fixture
async def load(shared: Gateway, payload: Payload) -> AsyncIterator[SteadyLoad]:
    """HTTP and gRPC requests at a steady rate, for as long as the test runs; none of them may fail."""
    await asyncio.to_thread(shared.set_traffic, {"blue": 50, "green": 50})
    async with SteadyLoad(f"{shared.url}/v2/models/mlp/infer", shared.grpc, payload, PER_SECOND) as load:
        await load.split(PER_SECOND)
        yield load
        await load.split(PER_SECOND)
    assert not load.failures, load.failures[:10]
    assert set(load.answered) == {"http", "grpc"}


async def test_thirty_random_weight_changes_lose_no_request(shared: Gateway, load: SteadyLoad) -> None:
    dice = random.Random(2)
    for _ in range(CHANGES):
        await asyncio.to_thread(shared.set_traffic, random_percents(dice, ["blue", "green"]))
    await asyncio.to_thread(shared.set_traffic, {"green": 100})
    assert set(await load.split(PER_SECOND)) == {"green"}


async def test_a_deployment_is_added_scaled_changed_in_place_and_deleted_without_losing_a_request(
    shared: Gateway, load: SteadyLoad, models: Path
) -> None:
    amber = deployment("mlp", "amber", models / "mlp.onnx")
    await asyncio.to_thread(shared.apply, amber)
    await asyncio.to_thread(shared.set_traffic, {"blue": 40, "amber": 60})
    assert set(await load.split(PER_SECOND)) == {"blue", "amber"}

    await asyncio.to_thread(shared.scale, "amber", 2)
    assert len(shared.replicas_of("mlp", "amber")) == 2
    await load.split(PER_SECOND)
    await asyncio.to_thread(shared.scale, "amber", 1)
    await load.split(PER_SECOND)

    await asyncio.to_thread(shared.apply, amber | {"model_version": "amber-2"})
    assert set(await load.split(PER_SECOND)) == {"blue", "amber"}
    assert (await asyncio.to_thread(shared.admin.deployment, "mlp", "amber"))["model_version"] == "amber-2"

    await asyncio.to_thread(shared.set_traffic, {"blue": 100})
    await asyncio.to_thread(shared.delete, "amber")
    assert set(await load.split(PER_SECOND)) == {"blue"}
