"""A gateway that joins a cluster (`--ray-address`): its replicas listen at ports, and nobody gets in but the gateway.

The cluster is the shared gateway's, on this machine; to the gateway that joins it, it might be anywhere.
"""

from __future__ import annotations

import asyncio
import signal
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.payloads import Payload, payload_for
from router.cli.network import open_sockets
from router.config import GatewayConfig
from tests.system.asking import over_grpc, over_http
from tests.system.gateway import SETTLE_TIMEOUT_S, Gateway, a_gateway, deployment, endpoint, eventually, write_spec

PATH = "/v2/models/away/infer"
_DIRECTORY = "DirectoryActor"


@pytest.fixture
def joined(shared: Gateway, models: Path, tmp_path: Path) -> Iterator[Gateway]:
    cluster = GatewayConfig.read(str(shared.data_dir / "gateway.json"))
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(cluster.ray_token_file),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # that cluster is on loopback, which Ray would not believe
    }
    before = len(shared.find(_DIRECTORY))
    documents = [endpoint("away", {"blue": 100}), deployment("away", "blue", models / "mlp.onnx")]
    with a_gateway(tmp_path, ("--ray-address", cluster.ray_address), environment) as gateway:
        gateway.start(write_spec(tmp_path / "spec.yaml", documents))
        assert " failed" not in gateway.said, gateway.said
        yield gateway
        gateway.admin.delete_endpoint("away", is_forced=True)
        eventually(lambda: not shared.replicas_of("away", "blue"), SETTLE_TIMEOUT_S)
        assert len(shared.find(_DIRECTORY)) == before + 1
    eventually(lambda: len(shared.find(_DIRECTORY)) == before, SETTLE_TIMEOUT_S)  # it has left nothing there


def test_its_replicas_are_reached_over_mutual_tls_and_by_nobody_else(
    joined: Gateway, shared: Gateway, models: Path
) -> None:
    payload = payload_for(models / "mlp.onnx", "away")
    asyncio.run(_answers(joined, payload))
    (address,) = _addresses(joined)
    headers = {"x-crossfade-gateway": Path(joined.data_dir, "gateway.token").read_text().strip()}
    for url, context in ((f"http://{address}", True), (f"https://{address}", _of_a_stranger())):
        with httpx.Client(verify=context, headers=headers) as client, pytest.raises(httpx.TransportError):
            client.get(f"{url}/v2/health/ready")
    metrics = httpx.get(f"http://127.0.0.1:{joined.ports.metrics}/metrics").text
    assert 'crossfade_model_requests_total{endpoint="away",deployment="blue"' in metrics
    key = joined.data_dir / "internal-ca" / "ca.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert any("over mutual TLS" in item.why for item in open_sockets(joined.data_dir))
    assert "plain HTTP" not in joined.said

    # A control plane that starts again has the same CA, and a replica that starts again a certificate of it.
    (control_plane,) = joined.find("router.app")
    control_plane.kill()
    asyncio.run(_answers(joined, payload))
    eventually(lambda: _is_back(joined), SETTLE_TIMEOUT_S, joined.story)
    (replica,) = shared.replicas_of("away", "blue")
    replica.send_signal(signal.SIGKILL)
    eventually(lambda: _is_replaced(joined, address), SETTLE_TIMEOUT_S, joined.story)
    asyncio.run(_answers(joined, payload))


async def _answers(gateway: Gateway, payload: Payload) -> None:
    assert await over_http(gateway, payload, 20, path=PATH) == {"blue": 20}
    assert await over_grpc(gateway, payload, 20) == {"blue": 20}


def _addresses(gateway: Gateway) -> set[str]:
    """Where Envoy believes the replicas to be."""
    transport = httpx.HTTPTransport(uds=str(gateway.run_dir / "envoy.sock"))
    with httpx.Client(transport=transport, base_url="http://envoy") as client:
        lines = client.get("/clusters").text.splitlines()
    return {line.split("::")[1] for line in lines if line.startswith("away/blue::127.0.0.1:")}


def _is_back(gateway: Gateway) -> bool:
    try:
        return bool(gateway.admin.status()["ray"]["is_connected"])
    except Exception:
        return False


def _is_replaced(gateway: Gateway, address: str) -> bool:
    found = _addresses(gateway)
    return len(found) == 1 and address not in found


def _of_a_stranger() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
