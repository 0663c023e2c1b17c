"""A Triton as a deployment like any other, through the whole gateway: the same model as ONNX Runtime's beside it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
import httpx
import pytest

from benchmarks.payloads import Payload
from benchmarks.peers.triton import write_repository
from benchmarks.steady import SteadyLoad
from tests.certificates import TestCa
from tests.envoy.waiting import DEADLINE_S, eventually
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


async def test_a_triton_behind_tls_is_not_ready_until_its_certificate_is_trusted_and_then_tells_what_it_counts(
    shared: Gateway, payload: Payload, models: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    ca, other = TestCa.in_folder(tmp_path), TestCa.in_folder(tmp_path / "other", "another CA")
    server, client = ca.server("triton", ["triton.example.com"]), ca.client("gateway", ["gateway.example.com"])
    options = (
        "--grpc-use-ssl=true",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={server.certificate}",
        f"--grpc-server-key={server.key}",
        f"--grpc-root-cert={ca.file}",
    )

    def spec(authority: Path, triton: Triton) -> str:
        tls = {
            "ca": {"file": str(authority)},
            "certificate": {"file": client.certificate},
            "key": {"file": client.key},
            "server_name": "triton.example.com",
        }
        plain = document(triton)
        block = plain["triton"]
        assert isinstance(block, dict)
        return str(write_spec(tmp_path / "tls.yaml", [{**plain, "name": "sealed", "triton": {**block, "tls": tls}}]))

    await asyncio.to_thread(shared.set_traffic, {"blue": 100})
    async with started_triton(write_repository(models / "mlp.onnx", tmp_path / "models"), *options) as triton:
        await not_ready(shared, spec(other.file, triton), "sealed", "its certificate is not trusted")
        applied = await asyncio.to_thread(shared.run, "apply", "-f", spec(ca.file, triton))
        assert applied.returncode == 0, applied.stderr

        async with grpc.aio.insecure_channel(shared.grpc) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            await infer(payload.message, metadata=(("x-crossfade-deployment", "sealed"),), timeout=DEADLINE_S)

        async def answered() -> list[tuple[str, int]]:
            shown = await asyncio.to_thread(shared.run, "deployment", "show", "mlp", "sealed", "-o", "json")
            tritons = json.loads(shown.stdout)["tritons"]
            return [(one["version"][:2], one["successes"]) for one in tritons if one["successes"]]

        await eventually(answered, [("2.", 1)])
        page = (await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{shared.ports.metrics}/metrics")).text
        assert 'crossfade_triton_requests_total{endpoint="mlp",deployment="sealed"' in page
    await asyncio.to_thread(shared.delete, "sealed")


NESTED = b"[" * 250_000 + b"]" * 250_000
LONG_FILE = json.dumps({"parameters": {f"file:{'A' * 256}": ""}}).encode()


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("/v2/repository/index", NESTED),
        ("/v2/repository/models/mlp/load", LONG_FILE),
        ("/v2/repository/models/%20/load", b"{}"),
        ("/v2/repository/models/..%2Fetc/load", b"{}"),
        ("/v2/repository/models//load", b"{}"),
        ("/v2/models/mlp/load", LONG_FILE),
    ],
)
async def test_what_crashes_a_tritons_repository_reaches_none(shared: Gateway, call: str, body: bytes) -> None:
    async with httpx.AsyncClient(base_url=shared.url, timeout=DEADLINE_S) as client:
        for _ in range(100):
            reply = await client.post(call, content=body)
            assert 400 <= reply.status_code < 500, (reply.status_code, reply.text)


async def test_a_triton_that_is_not_there_gets_no_traffic_and_its_reason_is_shown(
    shared: Gateway, payload: Payload, tmp_path: Path
) -> None:
    await asyncio.to_thread(shared.set_traffic, {"blue": 100})
    server = {"host": "127.0.0.1", "http_port": 9, "grpc_port": 10}
    absent = {"kind": "Deployment", "name": "absent", "endpoint": "mlp", "backend": "triton"}
    spec = write_spec(tmp_path / "absent.yaml", [{**absent, "triton": {"servers": [server], "model": "mlp"}}])

    await not_ready(shared, str(spec), "absent", "127.0.0.1:9: no answer")
    await asyncio.to_thread(shared.delete, "absent")


async def not_ready(gateway: Gateway, spec: str, deployment: str, reason: str) -> None:
    """What is applied has its reason, and whoever waits for it is told."""
    applied = await asyncio.to_thread(gateway.run, "apply", "-f", spec, "--no-wait")
    assert applied.returncode == 0, applied.stderr
    await eventually(lambda: reason in gateway.admin.deployment("mlp", deployment)["reason"])
    late = await asyncio.to_thread(gateway.run, "apply", "-f", spec, "--timeout", "3")
    assert late.returncode == 4
    assert reason in late.stderr + late.stdout
