"""Do stable and candidate answer the same? Through real replicas and Envoy's mirror."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import tritonclient.grpc.aio as triton_grpc

from adapters.replica_answers import ReplicaAnswers
from adapters.sqlite_store import SqliteStore
from router.agreement.collector import Agreement
from router.rollout_ports import Pairs
from tests.internal_ca import client_without_tls
from tests.statistics import assert_share
from tests.system.gateway import Gateway, deployment, endpoint
from tests.system.models import two_classes
from tests.system.rolling import ANALYSIS

NAME = "classes"
FLIPPED_PERCENT = 5
ENOUGH = 200
TIMEOUT_S = 90.0
_PAUSE_S = 0.01


@pytest.fixture(scope="module")
def gateway(shared: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """With an endpoint whose deployment `other` sees class 1 in the 5% of inputs that `blue` and `copy` do not."""
    folder: Path = tmp_path_factory.mktemp("classes")
    two_classes(folder / "always_0.onnx", border=2.0)
    two_classes(folder / "border.onnx", border=1 - FLIPPED_PERCENT / 100)
    shared.apply(
        endpoint(NAME, {"blue": 100}),
        deployment(NAME, "blue", folder / "always_0.onnx"),
        deployment(NAME, "copy", folder / "always_0.onnx"),
        deployment(NAME, "other", folder / "border.onnx"),
    )
    yield shared
    shared.in_force(shared.admin.delete_endpoint(NAME, is_forced=True))


def agreement_of(gateway: Gateway) -> Agreement:
    """As the control plane has one: who serves stands in its database."""
    store = SqliteStore(gateway.data_dir / "state.sqlite")
    replicas = store.load_replicas()
    store.close()
    token = Path(gateway.data_dir, "gateway.token").read_text().strip()
    return Agreement(ReplicaAnswers(client_without_tls(token)), lambda: replicas, lambda endpoint: True)


async def test_a_copy_agrees_always_and_another_model_differs_as_often_as_it_does(gateway: Gateway) -> None:
    agreement = agreement_of(gateway)
    collecting = asyncio.create_task(agreement.run())
    try:
        copy = await _compared(gateway, agreement, "copy")
        assert copy.answers.disagreements == 0
        assert agreement.differences(NAME, 10) == ()

        both = await _compared(gateway, agreement, "other")
        disagreements = both.answers.disagreements
        assert_share(disagreements, FLIPPED_PERCENT, both.answers.pairs - copy.answers.pairs)
        assert {difference.reason for difference in agreement.differences(NAME, 100)} == {"scores: top class 0 → 1"}

        assert both.noise.pairs > 0
        assert both.noise.disagreements == 0
        # A copy may time out on a machine that stands still for seconds.
        assert both.arrived >= 0.9 * both.mirrored > 0
    finally:
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)


@pytest.mark.timeout(400)
async def test_a_rollout_gives_no_traffic_to_a_model_that_answers_otherwise(gateway: Gateway) -> None:
    gateway.set_traffic({"blue": 100}, endpoint=NAME)
    steps = [{"set_mirror": 100}, {"analyze": {"bake": "1s", "min_pairs": 10 * ENOUGH}}, {"set_weight": 100}]
    analysis = ANALYSIS | {"disagreement_margin": FLIPPED_PERCENT / 100 / 5}
    gateway.admin.start_rollout(NAME, {"to": "other", "steps": steps, "analysis": analysis})
    answered = set()
    async with asyncio.timeout(3 * TIMEOUT_S), aiohttp.ClientSession() as http:
        for number in itertools.count():
            answered.add(await _over_http(http, gateway, (number % 100 + 0.5) / 100))
            if number % 20 == 0:
                rollout = await asyncio.to_thread(gateway.admin.rollout, NAME)
                if rollout["phase"] not in ("pending", "progressing", "rolling_back"):
                    break
    assert rollout["phase"] == "rolled_back", rollout
    assert "answers differ" in rollout["reason"]
    assert answered == {"blue"}


async def _compared(gateway: Gateway, agreement: Agreement, candidate: str) -> Pairs:
    """Mirror everything to `candidate` and score over HTTP and gRPC until enough was compared."""
    gateway.set_traffic({"blue": 100}, mirror={candidate: 100}, endpoint=NAME)
    before = agreement.pairs(NAME)
    agreement.compare(NAME, "blue", candidate)
    async with (
        asyncio.timeout(TIMEOUT_S),
        aiohttp.ClientSession() as http,
        triton_grpc.InferenceServerClient(gateway.grpc) as grpc,
    ):
        for number in itertools.count():
            now = agreement.pairs(NAME)
            if now.answers.pairs - before.answers.pairs >= ENOUGH and now.mirrored - before.mirrored >= ENOUGH / 2:
                break
            # Both classes over both protocols.
            x = (number // 2 % 100 + 0.5) / 100
            await (_over_http(http, gateway, x) if number % 2 else _over_grpc(grpc, x))
            await asyncio.sleep(_PAUSE_S)
    agreement.stop(NAME)
    return agreement.pairs(NAME)


async def _over_http(http: aiohttp.ClientSession, gateway: Gateway, x: float) -> str:
    """Who answered."""
    document = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [x]}]}
    async with http.post(f"{gateway.url}/v2/models/{NAME}/infer", json=document) as reply:
        assert reply.status == 200, await reply.text()
        return reply.headers["x-crossfade-deployment"]


async def _over_grpc(grpc: triton_grpc.InferenceServerClient, x: float) -> None:
    tensor = triton_grpc.InferInput("x", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.array([[x]], np.float32))
    await grpc.infer(NAME, [tensor])
