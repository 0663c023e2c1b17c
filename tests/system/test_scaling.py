"""Deployments that scale by themselves: up and down under load, to nobody and back, and no request is lost."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.payloads import Payload, payload_for
from tests.system.gateway import Gateway, deployment, endpoint

WITHIN_S = 120.0  # Ray starts replicas one after the other, each in seconds, on two busy cores
REQUEST_TIMEOUT_S = 120


@pytest.mark.timeout(400)
async def test_replicas_come_and_go_with_the_load_and_no_request_is_lost(shared: Gateway, models: Path) -> None:
    spec = deployment(
        "elastic",
        "only",
        models / "slow.onnx",
        scale_settings={"max_instances": 3, "target_utilization_percentage": 60, "scale_down_delay_s": 3},
        request_settings={"request_timeout_ms": 60_000},
    )
    await asyncio.to_thread(shared.apply, endpoint("elastic", {"only": 100}), spec)
    assert _ready(shared, "elastic") == 1
    load = _Load(f"{shared.url}/v2/models/elastic/infer", steps=20)

    async with asyncio.TaskGroup() as clients:
        for _ in range(8):
            clients.create_task(load.client())
        clients.create_task(load.client(pause_s=1.0, is_patient=True))
        try:
            await _until(lambda: _ready(shared, "elastic") == 3, "three replicas work")
            await load.more(50)
            load.is_high = False
            await _until(lambda: len(shared.replicas_of("elastic", "only")) == 1, "one replica is left")
            await load.more(5)
        finally:
            load.is_high = load.is_on = False

    assert not load.failures, (load.answers, load.failures[:5], load.failures[-1])
    survivors = shared.replicas_of("elastic", "only")
    await asyncio.to_thread(shared.apply, spec | {"scale_settings": {"min_instances": 2, "max_instances": 2}})
    assert _ready(shared, "elastic") == 2
    assert set(survivors) <= set(shared.replicas_of("elastic", "only")), "new limits replace no replica"
    await asyncio.to_thread(shared.in_force, shared.admin.delete_endpoint("elastic", is_forced=True))


@pytest.mark.timeout(400)
async def test_a_sleeping_deployment_answers_whoever_wakes_it_also_after_the_control_plane_died(
    shared: Gateway, models: Path
) -> None:
    spec = deployment(
        "sleepy",
        "only",
        models / "mlp.onnx",
        scale_settings={"min_instances": 0, "max_instances": 1, "idle_timeout_s": 1},
    )
    payload = payload_for(models / "mlp.onnx", "sleepy")
    await asyncio.to_thread(shared.apply, endpoint("sleepy", {"only": 100}), spec)
    await _until(lambda: _is_asleep(shared), "nobody asks, and it sleeps")

    await _ask_at_once(shared, payload)
    await _until(lambda: _is_asleep(shared), "it sleeps again")
    (control_plane,) = shared.find("router.app")
    control_plane.kill()
    await _until(lambda: shared.find("router.app") not in ([], [control_plane]), "another control plane runs")
    await _until(shared.is_up_to_date, "Envoy knows it")
    assert _is_asleep(shared)

    await _ask_at_once(shared, payload)
    await asyncio.to_thread(shared.in_force, shared.admin.delete_endpoint("sleepy", is_forced=True))


class _Load:
    """Clients that ask one after the other for `steps` of work, and what they were answered."""

    def __init__(self, url: str, steps: int) -> None:
        self._url = url
        tensor = {"name": "steps", "shape": [1], "datatype": "INT64", "data": [steps]}
        self._body = json.dumps({"inputs": [tensor]}).encode()
        self.answers = Counter[int]()
        self.failures: list[str] = []
        self.is_high = self.is_on = True

    async def client(self, pause_s: float = 0.0, is_patient: bool = False) -> None:
        """Until the load is no longer high; a patient one until it is off."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while self.is_high or (is_patient and self.is_on):
                async with session.post(self._url, data=self._body) as reply:
                    content = await reply.read()
                    self.answers[reply.status] += 1
                    if reply.status != 200:
                        self.failures.append(f"{time.time():.3f} {reply.status} {content!r}")
                await asyncio.sleep(pause_s)

    async def more(self, count: int) -> None:
        wanted = self.answers.total() + count
        await _until(lambda: self.answers.total() >= wanted, f"{count} more answers")


async def _ask_at_once(gateway: Gateway, payload: Payload) -> None:
    """Ten requests over HTTP and ten over gRPC; every one of them must be answered rightly."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)

    async def over_http(session: aiohttp.ClientSession) -> None:
        async with session.post(f"{gateway.url}/v2/models/sleepy/infer", data=payload.body) as reply:
            content = await reply.read()
            assert reply.status == 200, content
            payload.check_json(content)

    async def over_grpc(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
        request = service_pb2.ModelInferRequest.FromString(payload.message)
        answer = await stub.ModelInfer(request, timeout=REQUEST_TIMEOUT_S)
        payload.check_grpc(answer.SerializeToString())

    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        grpc.aio.insecure_channel(gateway.grpc) as channel,
        asyncio.TaskGroup() as group,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(10):
            group.create_task(over_http(session))
            group.create_task(over_grpc(stub))


async def _until(is_so: Callable[[], Any], what: str, timeout_s: float = WITHIN_S) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not await asyncio.to_thread(is_so):
        assert time.monotonic() < give_up_at, f"not so after {timeout_s:g} s: {what}"
        await asyncio.sleep(0.1)


def _ready(gateway: Gateway, name: str) -> int:
    count: int = gateway.admin.deployment(name, "only")["replicas_ready"]
    return count


def _is_asleep(gateway: Gateway) -> bool:
    is_said = gateway.admin.deployment("sleepy", "only")["state"] == "asleep"
    return is_said and not gateway.replicas_of("sleepy", "only")
