"""Rollouts under load, with the real Envoy, Ray and models: users must notice nothing, whatever the candidate does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.models import poison
from benchmarks.payloads import payload_for
from benchmarks.steady import SteadyLoad
from tests.system.gateway import Gateway
from tests.system.rolling import ENDED, ENDPOINT, MIRROR, STEPS, Rolling

PER_SECOND = 80
KILLS = 5
FREEZE_S = 15.0  # then the control plane takes a directory that does not answer for lost, and Ray with it


@pytest.fixture
def rolling(shared: Gateway, models: Path) -> Rolling:
    rolling = Rolling(shared)
    rolling.prepare(models)
    return rolling


@pytest.fixture
async def load(shared: Gateway, rolling: Rolling, models: Path) -> AsyncIterator[SteadyLoad]:
    """HTTP and gRPC requests at a steady rate, for as long as the test runs; none of them may fail."""
    payload = payload_for(models / "mlp.onnx", ENDPOINT)
    async with SteadyLoad(rolling.url, shared.grpc, payload, PER_SECOND) as load:
        await load.split(PER_SECOND)
        yield load
        await load.split(PER_SECOND)
    assert not load.failures, load.failures[:10]
    assert set(load.answered) == {"http", "grpc"}


async def test_a_candidate_that_fails_everything_is_rolled_back_and_no_user_sees_it(
    rolling: Rolling, load: SteadyLoad, models: Path
) -> None:
    load.specials = {"poison": (payload_for(models / "mlp.onnx", ENDPOINT, poison()), 1.0)}
    await asyncio.to_thread(rolling.start, "faulty")
    rollout = await rolling.until_phase(*ENDED)
    assert rollout["phase"] == "rolled_back", rollout["reason"]
    assert "requests failed" in rollout["reason"]
    assert set(await load.split(PER_SECOND)) == {"blue"}


async def test_a_healthy_candidate_is_mirrored_to_and_gets_all_traffic_unattended_and_undo_takes_it_back(
    rolling: Rolling, load: SteadyLoad
) -> None:
    await asyncio.to_thread(rolling.start, "green", (*MIRROR, *STEPS))
    await rolling.until_phase("promoted", *ENDED)
    assert set(await load.split(PER_SECOND)) == {"green"}
    phases = [entry["phase"] for entry in await asyncio.to_thread(rolling.trail)]
    assert list(dict.fromkeys(phases)) == ["pending", "progressing", "promoted"]

    await asyncio.to_thread(rolling.admin.undo_rollout, ENDPOINT)
    await rolling.until(lambda rollout: rollout["undoes"] != "" and rollout["phase"] == "promoted")
    assert set(await load.split(PER_SECOND)) == {"blue"}


async def test_a_control_plane_that_is_killed_again_and_again_goes_on_where_it_was(
    shared: Gateway, rolling: Rolling, load: SteadyLoad
) -> None:
    dice = random.Random(3)
    started = await asyncio.to_thread(rolling.start, "green")
    for _ in range(KILLS):
        await asyncio.sleep(dice.uniform(0, 1.5))
        (control_plane,) = await asyncio.to_thread(shared.find, "router.app")
        control_plane.kill()
        await rolling.until(lambda rollout: True)
    await rolling.until_phase("promoted", *ENDED)
    rollout = await asyncio.to_thread(rolling.latest)
    assert (rollout["id"], rollout["phase"]) == (started["id"], "promoted")
    revisions = [entry["revision"] for entry in await asyncio.to_thread(rolling.trail)]
    assert revisions == list(range(1, len(revisions) + 1))
    assert set(await load.split(PER_SECOND)) == {"green"}


async def test_a_rollback_whose_stable_was_killed_holds_pages_and_is_completed_when_stable_is_back(
    shared: Gateway, rolling: Rolling, load: SteadyLoad, tmp_path: Path
) -> None:
    (quality := tmp_path / "quality").write_text("1")
    metric = {"name": "quality", "at_least": 0.5, "command": ["cat", str(quality)], "failures": 1, "every": "1s"}
    steps = ({"set_weight": 100}, {"analyze": {"bake": "1h"}})
    await asyncio.to_thread(lambda: rolling.start("green", steps, metrics=[metric]))
    await rolling.until(lambda rollout: rollout["weight"] == 100)
    with frozen(shared, "ServeController"):  # nobody replaces the dead meanwhile, however slow this machine is
        with frozen(shared, "DirectoryActor"):  # and no lease ends
            for replica in await asyncio.to_thread(shared.replicas_of, ENDPOINT, "blue"):
                replica.kill()
            await until_gone(shared, "blue")
        quality.write_text("0")
        rollout = await rolling.until(lambda rollout: rollout["holding"] != "")
        assert rollout["phase"] == "rolling_back"
        assert rollout["holding"] == "blue has 0 of 1 replicas ready, too few to take the traffic back"
        assert set(await load.split(PER_SECOND)) == {"green"}
    await rolling.until_phase(*ENDED)
    assert set(await load.split(PER_SECOND)) == {"blue"}
    trail = await asyncio.to_thread(rolling.trail)
    assert [entry["is_urgent"] for entry in trail if "holding" in entry["message"]] == [True]
    assert trail[-1]["phase"] == "rolled_back"


async def test_without_traffic_nothing_is_concluded(rolling: Rolling) -> None:
    steps = ({"set_weight": 50}, {"analyze": {"bake": "1s"}}, {"set_weight": 100})
    await asyncio.to_thread(lambda: rolling.start("green", steps, max_wait="4s"))
    rollout = await rolling.until_phase("paused", "promoted", *ENDED)
    assert (rollout["phase"], rollout["pause"]) == ("paused", "inconclusive")
    await asyncio.to_thread(rolling.admin.abort_rollout, ENDPOINT)
    await rolling.until_phase("aborted")


@contextmanager
def frozen(gateway: Gateway, kind: str) -> Iterator[None]:
    """All processes of its Ray that do this stand still; a gateway that joined it may have left a directory there."""
    processes = gateway.find(kind)
    assert processes
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


async def until_gone(gateway: Gateway, deployment: str) -> None:
    """The control plane knows that no replica of it answers."""

    def ready() -> int:
        return int(gateway.admin.deployment(ENDPOINT, deployment)["replicas_ready"])

    async with asyncio.timeout(FREEZE_S):
        while await asyncio.to_thread(ready):  # noqa: ASYNC110 (it can only be asked)
            await asyncio.sleep(0.05)
