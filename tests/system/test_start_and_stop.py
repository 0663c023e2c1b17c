"""How a gateway starts, refuses to start, ends, and comes back. Each test has a gateway of its own."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.grpc import aio as triton_grpc
from tritonclient.http import aio as triton_http

from benchmarks.payloads import Payload
from tests.system.asking import over_http
from tests.system.gateway import (
    SETTLE_TIMEOUT_S,
    Gateway,
    a_gateway,
    deployment,
    endpoint,
    eventually,
    write_spec,
)

END_WITHIN_S = 40.0
SECONDS_OF_WORK = 1500  # steps of the slow model, a millisecond or two each


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with a_gateway(tmp_path) as gateway:
        yield gateway


def up(gateway: Gateway, *specs: Path, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """An `up` that is expected to give up by itself."""
    return subprocess.run(gateway.command(*specs), capture_output=True, text=True, timeout=timeout_s)


def test_a_spec_with_a_mistake_is_refused_with_its_line_and_nothing_is_started(
    gateway: Gateway, tmp_path: Path
) -> None:
    spec = Path(tmp_path, "spec.yaml")
    spec.write_text("kind: Endpoint\nname: mlp\ntrafic: {blue: 100}\n")
    done = up(gateway, spec)
    assert done.returncode == 2
    assert f"{spec}:3" in done.stderr
    assert "trafic" in done.stderr
    assert "traffic" in done.stderr
    assert not gateway.data_dir.exists()


def test_a_missing_model_file_ends_the_start_with_the_reason(gateway: Gateway, tmp_path: Path) -> None:
    documents = [endpoint("mlp", {"blue": 100}), deployment("mlp", "blue", tmp_path / "lost.onnx")]
    done = up(gateway, write_spec(tmp_path / "spec.yaml", documents))
    assert done.returncode in (1, 2)
    assert str(tmp_path / "lost.onnx") in done.stderr
    gateway.assert_nothing_is_left()


def test_a_taken_port_is_named_at_once(gateway: Gateway) -> None:
    with socket.create_server(("127.0.0.1", gateway.ports.grpc)):
        done = up(gateway)
    assert done.returncode == 1
    assert f"127.0.0.1:{gateway.ports.grpc}" in done.stderr
    assert "--grpc-port" in done.stderr
    gateway.assert_nothing_is_left()


def test_a_second_gateway_on_the_same_data_directory_is_refused_at_once(shared: Gateway, payload: Payload) -> None:
    done = up(shared)
    assert done.returncode == 1
    assert str(shared.data_dir) in done.stderr
    assert "another gateway" in done.stderr
    reply = httpx.get(f"{shared.url}/v2/models/mlp")
    assert reply.status_code == 200


def test_ctrl_c_while_it_starts_ends_everything(gateway: Gateway) -> None:
    gateway.begin()
    eventually(lambda: "ray" in " ".join(gateway.kinds()), 30)
    gateway.send(signal.SIGINT)
    assert gateway.wait_for_end(END_WITHIN_S) == 0
    assert gateway.said.rstrip().endswith("stopped")
    gateway.assert_nothing_is_left()


async def test_a_killed_gateway_comes_back_with_everything_and_sigterm_lets_requests_finish(
    gateway: Gateway, models: Path, tmp_path: Path, payload: Payload
) -> None:
    documents = [
        endpoint("mlp", {"blue": 100}),
        deployment("mlp", "blue", models / "mlp.onnx"),
        endpoint("slow", {"only": 100}),
        deployment("slow", "only", models / "slow.onnx", request_settings={"request_timeout_ms": 30_000}),
    ]
    gateway.start(write_spec(tmp_path / "spec.yaml", documents))
    gateway.send(signal.SIGKILL)
    gateway.wait_for_end()
    eventually(lambda: not gateway.processes(), SETTLE_TIMEOUT_S, lambda: str(gateway.kinds()))

    gateway.start()
    assert await over_http(gateway, payload, 10) == {"blue": 10}

    asked = asyncio.gather(_ask_slowly(triton_http, gateway.scoring), _ask_slowly(triton_grpc, gateway.grpc))
    await asyncio.to_thread(eventually, lambda: _under_way(gateway) == 2, 10)
    gateway.send(signal.SIGTERM)
    assert list(await asked) == [512.0, 512.0]
    assert await asyncio.to_thread(gateway.wait_for_end, END_WITHIN_S) == 0
    gateway.assert_nothing_is_left()


async def _ask_slowly(triton: Any, address: str) -> float:
    tensor = triton.InferInput("steps", [1], "INT64")
    tensor.set_data_from_numpy(np.array([SECONDS_OF_WORK], np.int64))
    async with triton.InferenceServerClient(address) as client:
        result = await client.infer("slow", [tensor])
        return float(result.as_numpy("sum")[0, 0])


def _under_way(gateway: Gateway) -> int:
    """What Envoy says: requests that it has and has not answered."""
    page = httpx.get(f"http://127.0.0.1:{gateway.ports.metrics}/metrics", timeout=10).text
    name = 'envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix="scoring"} '
    (value,) = [line.removeprefix(name) for line in page.splitlines() if line.startswith(name)]
    return int(value)
