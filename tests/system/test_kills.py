"""kill -9 of each part of the gateway, while clients keep asking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.payloads import Payload
from benchmarks.steady import SteadyLoad
from tests.system.asking import over_grpc, over_http
from tests.system.gateway import Gateway

PER_SECOND = 80
ENVOY_BACK_WITHIN_S = 20.0  # 2 s on a quiet machine (`make bench` shows it)
BACK_WITHIN_S = 90.0


@pytest.fixture
async def load(shared: Gateway, payload: Payload) -> AsyncIterator[SteadyLoad]:
    """HTTP and gRPC requests at a steady rate, for as long as the test runs."""
    await asyncio.to_thread(shared.set_traffic, {"blue": 70, "green": 30})
    async with SteadyLoad(f"{shared.url}/v2/models/mlp/infer", shared.grpc, payload, PER_SECOND) as load:
        await load.split(PER_SECOND)
        yield load


async def test_nobody_notices_that_one_of_two_replicas_was_killed(shared: Gateway, load: SteadyLoad) -> None:
    await asyncio.to_thread(shared.scale, "blue", 2)
    # A new replica gets requests once Envoy's own first health check of it has passed.
    await _until(lambda: _healthy(shared, "mlp/blue") == 2, "Envoy sends to both")
    victim, other = shared.replicas_of("mlp", "blue")
    victim.kill()
    await load.split(2 * PER_SECOND)
    await _until(lambda: _others(shared, {victim, other}), "Ray starts another replica")
    await _until(lambda: _is_ready(shared, "blue", 2), "two replicas are ready")
    await load.split(PER_SECOND)
    await asyncio.to_thread(shared.scale, "blue", 1)
    await load.split(PER_SECOND)
    assert not load.failures, load.failures[:10]


async def test_nobody_notices_that_the_control_plane_was_killed(shared: Gateway, load: SteadyLoad) -> None:
    (control_plane,) = shared.find("router.app")
    control_plane.kill()
    await load.split(2 * PER_SECOND)
    await _until(shared.is_up_to_date, "the control plane is back, and Envoy with it")
    await asyncio.to_thread(shared.set_traffic, {"green": 100})
    assert set(await load.split(PER_SECOND)) == {"green"}
    assert not load.failures, load.failures[:10]
    assert "control plane ended (killed by SIGKILL); starting it again" in shared.said


async def test_envoy_is_back_in_two_seconds_with_the_same_routes(
    shared: Gateway, load: SteadyLoad, payload: Payload
) -> None:
    (envoy,) = shared.find("envoy")
    envoy.kill()
    killed_s = time.monotonic()
    await _until(lambda: _answers(shared, "blue"), "Envoy answers again")
    await load.split(2 * PER_SECOND)
    down_s = max((failure.at_s for failure in load.failures), default=killed_s) - killed_s
    print(f"requests failed for {down_s:.2f} s after Envoy was killed")
    assert down_s < ENVOY_BACK_WITHIN_S
    assert set(await load.split(2 * PER_SECOND)) == {"blue", "green"}
    assert set(await over_http(shared, payload, 5, {"x-crossfade-deployment": "green"})) == {"green"}
    assert set(await over_grpc(shared, payload, 5, {"x-crossfade-deployment": "blue"})) == {"blue"}


async def test_the_gateway_says_that_ray_is_lost_and_serves_again(shared: Gateway, payload: Payload) -> None:
    await asyncio.to_thread(shared.set_traffic, {"blue": 70, "green": 30})
    said = len(shared.said)
    (victim,) = shared.find("gcs_server")
    victim.kill()
    await _until(lambda: "Ray does not answer" in shared.said[said:], "it says that Ray is lost")
    await _until(lambda: "connected to Ray" in shared.said[said:], "it says that Ray is back")
    await _until(lambda: _answers(shared, "blue") and _answers(shared, "green"), "both deployments answer")
    await _until(lambda: httpx.get(f"{shared.url}/v2/health/ready").status_code == 200, "everything else does, too")
    assert set(await over_http(shared, payload, 100)) == {"blue", "green"}
    assert set(await over_grpc(shared, payload, 100)) == {"blue", "green"}


async def _until(is_so: Callable[[], Any], what: str, timeout_s: float = BACK_WITHIN_S) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not await asyncio.to_thread(is_so):
        assert time.monotonic() < give_up_at, f"not so after {timeout_s:g} s: {what}"
        await asyncio.sleep(0.1)


def _others(gateway: Gateway, known: set[psutil.Process]) -> set[psutil.Process]:
    return set(gateway.replicas_of("mlp", "blue")) - known


def _is_ready(gateway: Gateway, deployment: str, count: int) -> bool:
    return bool(gateway.admin.deployment("mlp", deployment)["replicas_ready"] == count)


def _healthy(gateway: Gateway, cluster: str) -> int:
    page = httpx.get(f"http://127.0.0.1:{gateway.ports.metrics}/metrics", timeout=10).text
    name = f'envoy_cluster_membership_healthy{{envoy_cluster_name="{cluster}"}} '
    return sum(int(line.removeprefix(name)) for line in page.splitlines() if line.startswith(name))


def _answers(gateway: Gateway, deployment: str) -> bool:
    pin = {"x-crossfade-deployment": deployment}
    try:
        return httpx.get(f"{gateway.url}/v2/models/mlp", headers=pin, timeout=1).status_code == 200
    except httpx.TransportError:
        return False
