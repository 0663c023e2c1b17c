"""Tritons that the gateway runs itself: a deployment of the same model beside ONNX Runtime's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.payloads import payload_for
from benchmarks.steady import SteadyLoad
from benchmarks.triton_home import triton_home
from router.client_errors import Refused
from tests.system.gateway import Gateway, deployment, endpoint
from tests.triton.ensembles import scoring

ENDPOINT, PER_SECOND, WITHIN_S = "managed", 40, 120.0


def triton_of(gateway: Gateway) -> Path:
    """Where the replicas of the shared gateway are told to find a Triton."""
    return gateway.data_dir.parent / "triton"


def green(model: Path, **more: Any) -> dict[str, Any]:
    asked = {"backend": "triton", "triton": {"mode": "managed"}, "batching": {"max_batch_size": 8}}
    return deployment(ENDPOINT, "green", model, **asked, **more)


@pytest.fixture
async def stage(shared: Gateway, models: Path) -> AsyncIterator[Gateway]:
    """All traffic on blue, which is ONNX Runtime's."""
    blue = deployment(ENDPOINT, "blue", models / "mlp.onnx")
    await asyncio.to_thread(shared.apply, endpoint(ENDPOINT, {"blue": 100}), blue)
    yield shared
    await asyncio.to_thread(shared.in_force, shared.admin.delete_endpoint(ENDPOINT, is_forced=True))


async def until(is_so: Callable[[], Any], what: str) -> None:
    give_up_at = time.monotonic() + WITHIN_S
    while not await asyncio.to_thread(is_so):
        assert time.monotonic() < give_up_at, f"not so after {WITHIN_S:g} s: {what}"
        await asyncio.sleep(0.1)


async def test_without_a_tritonserver_the_deployment_fails_and_says_what_is_missing(
    stage: Gateway, models: Path
) -> None:
    assert not triton_of(stage).exists()
    # Not the model of the test below: what is left of this one's replica must not be taken for that one's.
    await asyncio.to_thread(stage.admin.apply, [green(models / "faulty.onnx")])
    await until(lambda: stage.admin.deployment(ENDPOINT, "green")["state"] == "failed", "it has failed")
    reason = stage.admin.deployment(ENDPOINT, "green")["reason"]
    assert "CROSSFADE_TRITONSERVER names" in reason
    assert "no program that can be run here" in reason


async def test_tritons_that_are_killed_hang_and_are_changed_under_load_fail_no_request(
    stage: Gateway, models: Path
) -> None:
    await asyncio.to_thread(triton_home, triton_of(stage))
    await asyncio.to_thread(stage.apply, green(models / "mlp.onnx", instance_count=2))
    first, second = stage.find("tritonserver")
    url, payload = f"{stage.url}/v2/models/{ENDPOINT}/infer", payload_for(models / "mlp.onnx", ENDPOINT)

    async with SteadyLoad(url, stage.grpc, payload, PER_SECOND) as load:
        await load.split(PER_SECOND)
        steps = [{"set_weight": 50}, {"pause": "until_promoted"}, {"set_weight": 100}]
        await asyncio.to_thread(stage.admin.start_rollout, ENDPOINT, {"to": "green", "steps": steps})
        await until(lambda: stage.admin.rollout(ENDPOINT)["phase"] == "paused", "half of the traffic is on green")
        assert set(await load.split(2 * PER_SECOND)) == {"blue", "green"}
        await until(lambda: _healthy(stage) == [2, 2], "Envoy sends to both")

        first.kill()
        await load.split(2 * PER_SECOND)
        await until(lambda: _is_replaced(stage, first), "another Triton answers for the one that was killed")
        second.send_signal(signal.SIGSTOP)
        await load.split(2 * PER_SECOND)
        await until(lambda: _is_replaced(stage, second), "and for the one that hung")
        replica = stage.replicas_of(ENDPOINT, "green")[0]
        (orphan,) = (triton for triton in stage.find("tritonserver") if triton.ppid() == replica.pid)
        replica.kill()
        await load.split(2 * PER_SECOND)
        await until(lambda: _is_replaced(stage, orphan), "and for the one whose replica was killed")

        with contextlib.suppress(Refused):  # a candidate in so much trouble may have been rolled back by then
            await asyncio.to_thread(stage.admin.abort_rollout, ENDPOINT)
        ended = ("aborted", "rolled_back")
        await until(lambda: stage.admin.rollout(ENDPOINT)["phase"] in ended, "the rollout is over")
        await asyncio.to_thread(stage.set_traffic, {"green": 100}, endpoint=ENDPOINT)
        assert set(await load.split(2 * PER_SECOND)) == {"green"}
        await asyncio.to_thread(stage.scale, "green", 1, ENDPOINT)
        assert set(await load.split(2 * PER_SECOND)) == {"green"}
        await until(lambda: len(stage.find("tritonserver")) == 1, "the other Triton has ended")

        # A new version, under the same name: its Triton is there before the old one goes.
        (old,) = stage.find("tritonserver")
        await asyncio.to_thread(stage.apply, green(models / "faulty.onnx"))
        assert set(await load.split(2 * PER_SECOND)) == {"green"}
        await until(lambda: old not in stage.find("tritonserver"), "the old version's Triton has ended")
        assert set(await load.split(2 * PER_SECOND)) == {"green"}

        await asyncio.to_thread(stage.set_traffic, {"blue": 100}, endpoint=ENDPOINT)
        assert set(await load.split(PER_SECOND)) == {"blue"}
    assert not load.failures, load.failures[:10]
    assert set(load.answered) == {"http", "grpc"}

    await asyncio.to_thread(stage.delete, "green", ENDPOINT)
    await until(lambda: not stage.find("tritonserver") + stage.find("triton_python_backend_stub"), "nothing is left")
    assert not [name for name in os.listdir(stage.run_dir / "replicas") if name.startswith("triton-")]


async def test_an_ensemble_is_tried_and_answers_by_the_endpoints_name_and_a_new_label_starts_nothing(
    shared: Gateway, tmp_path: Path
) -> None:
    if not triton_of(shared).exists():
        await asyncio.to_thread(triton_home, triton_of(shared))
    own = endpoint("pipeline", {"blue": 100})
    asked = {"backend": "triton", "triton": {"mode": "managed"}}
    folder = scoring(tmp_path / "pipeline")
    await asyncio.to_thread(shared.apply, own, deployment("pipeline", "blue", folder, **asked, model_version="a"))
    async with httpx.AsyncClient(base_url=shared.url, timeout=WITHIN_S) as client:

        async def asked_for(of: str, tensor: str) -> httpx.Response:
            row = {"name": tensor, "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}
            return await client.post(f"/v2/models/{of}/infer", json={"inputs": [row]})

        async def answer_of(version: str) -> dict[str, Any]:
            """Envoy has to find its Triton ready, and to know how its version is called."""
            async with asyncio.timeout(WITHIN_S):
                while True:
                    answer = await asked_for("pipeline", "row")
                    if answer.status_code == 200 and answer.json()["model_version"] == version:
                        return dict(answer.json())
                    await asyncio.sleep(0.1)

        reply = await answer_of("a")
        (output,) = reply["outputs"]
        assert (reply["model_name"], output["name"], output["shape"]) == ("pipeline", "scores", [1, 10])
        assert (await asked_for("scale", "x")).status_code == 404  # a part
        started = shared.find("tritonserver")

        await asyncio.to_thread(shared.apply, deployment("pipeline", "blue", folder, **asked, model_version="b"))
        await answer_of("b")
        assert shared.find("tritonserver") == started
    await until(lambda: _counted_requests(shared, "pipeline") >= 2, "what its Triton counts is on the metrics page")
    await asyncio.to_thread(shared.in_force, shared.admin.delete_endpoint("pipeline", is_forced=True))


def _counted_requests(gateway: Gateway, of: str) -> int:
    page = httpx.get(f"http://127.0.0.1:{gateway.ports.metrics}/metrics", timeout=10).text
    pattern = rf'^crossfade_triton_requests_total{{endpoint="{of}",.*outcome="success"}} (\d+)$'
    return sum(map(int, re.findall(pattern, page, re.MULTILINE)))


def _is_replaced(gateway: Gateway, gone: psutil.Process) -> bool:
    running = gateway.find("tritonserver")
    is_ready = gateway.admin.deployment(ENDPOINT, "green")["replicas_ready"] == 2
    return is_ready and len(running) == 2 and gone not in running and _healthy(gateway) == [2, 2]


def _healthy(gateway: Gateway) -> list[int]:
    """How many Tritons Envoy finds fit, by either protocol: a new one gets no requests before."""
    page = httpx.get(f"http://127.0.0.1:{gateway.ports.metrics}/metrics", timeout=10).text
    pattern = rf'^envoy_cluster_membership_healthy{{envoy_cluster_name="{ENDPOINT}/green(?:\+grpc)?"}} (\d+)$'
    return [int(count) for count in re.findall(pattern, page, re.MULTILINE)]
