"""A Triton as a deployment like any other, through the whole gateway: the same model as ONNX Runtime's beside it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from benchmarks.payloads import Payload
from benchmarks.peers.triton import write_repository
from benchmarks.steady import SteadyLoad
from tests.system.gateway import Gateway, write_spec
from tests.triton.server import Triton, started_triton

PER_SECOND = 60


def document(triton: Triton) -> dict[str, object]:
    server = {"host": "127.0.0.1", "http_port": triton.ports.http, "grpc_port": triton.ports.grpc}
    return {
        "kind": "Deployment",
        "name": "triton",
        "endpoint": "mlp",
        "backend": "triton",
        "triton": {"mode": "direct", "servers": [server], "model": "mlp", "version": "1"},
        "model_version": "of-triton",
    }


async def test_traffic_moves_from_onnx_runtime_to_a_triton_and_back_without_losing_a_request(
    shared: Gateway, payload: Payload, models: Path, tmp_path: Path
) -> None:
    await asyncio.to_thread(shared.set_traffic, {"blue": 100})
    async with started_triton(write_repository(models / "mlp.onnx", tmp_path)) as triton:
        spec = write_spec(tmp_path / "triton.yaml", [document(triton)])
        applied = await asyncio.to_thread(shared.run, "apply", "-f", str(spec))
        assert applied.returncode == 0, applied.stderr
        async with SteadyLoad(f"{shared.url}/v2/models/mlp/infer", shared.grpc, payload, PER_SECOND) as load:
            assert set(await load.split(PER_SECOND)) == {"blue"}
            for percents in ({"blue": 50, "triton": 50}, {"triton": 100}, {"blue": 50, "triton": 50}, {"blue": 100}):
                await asyncio.to_thread(shared.set_traffic, percents)
                assert set(await load.split(PER_SECOND)) == set(percents)
        assert not load.failures, load.failures[:10]

        live = await asyncio.to_thread(shared.admin.deployment, "mlp", "triton")
        assert (live["state"], live["replicas_ready"], live["model_version"]) == ("ready", 1, "of-triton")
        assert live["model"].startswith("triton://127.0.0.1:")
        assert not shared.replicas_of("mlp", "triton")
        again = await asyncio.to_thread(shared.run, "apply", "-f", str(spec), "-o", "json")
        assert {change["action"] for change in json.loads(again.stdout)["changes"]} == {"unchanged"}
    await asyncio.to_thread(shared.delete, "triton")


async def test_a_triton_that_is_not_there_gets_no_traffic_and_its_reason_is_shown(
    shared: Gateway, payload: Payload, tmp_path: Path
) -> None:
    await asyncio.to_thread(shared.set_traffic, {"blue": 100})
    server = {"host": "127.0.0.1", "http_port": 9, "grpc_port": 10}
    absent = {"kind": "Deployment", "name": "absent", "endpoint": "mlp", "backend": "triton"}
    spec = write_spec(tmp_path / "absent.yaml", [{**absent, "triton": {"servers": [server], "model": "mlp"}}])

    applied = await asyncio.to_thread(shared.run, "apply", "-f", str(spec), "--no-wait")
    assert applied.returncode == 0, applied.stderr
    late = await asyncio.to_thread(shared.run, "apply", "-f", str(spec), "--timeout", "3")

    assert late.returncode == 4
    assert "127.0.0.1:9: no answer" in late.stderr + late.stdout
    await asyncio.to_thread(shared.delete, "absent")
