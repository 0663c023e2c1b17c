"""What the gateway's processes open on the network."""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess
from pathlib import Path

import httpx
import psutil

from router.premises import free_port
from tests.system.gateway import CROSSFADE, SETTLE_TIMEOUT_S, Gateway, eventually, write_spec


def test_nothing_listens_beyond_this_machine_unless_asked(shared: Gateway) -> None:
    listening = [
        (process.name(), connection.laddr)
        for process in shared.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.type == socket.SOCK_STREAM
    ]
    assert {shared.ports.http, shared.ports.grpc, shared.ports.metrics, shared.ports.admin} <= {
        address.port for _, address in listening
    }
    assert [(name, address) for name, address in listening if not is_loopback(address.ip)] == []


def test_the_doctor_shows_every_socket_and_what_it_is_for(shared: Gateway) -> None:
    done = subprocess.run(
        [CROSSFADE, "doctor", "--network", "--data-dir", str(shared.data_dir), "-o", "json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    sockets = json.loads(done.stdout)["sockets"]
    why = {item["address"]: item["why"] for item in sockets if item["does"] == "listens"}
    assert why[f"127.0.0.1:{shared.ports.http}"] == "scoring: listener default (plain text, every endpoint)"
    assert why[f"127.0.0.1:{shared.ports.admin}"] == "admin API"
    assert why[str(shared.run_dir / "xds.sock")] == "the configuration of Envoy"
    assert any(reason == "scoring by replica" for reason in why.values())
    assert not [item for item in sockets if item["why"] == "unknown"]
    assert not [item for item in sockets if item["is_open"]]


def test_a_listener_comes_shows_its_endpoints_and_goes(shared: Gateway, tmp_path: Path) -> None:
    as_it_was = shared.run("gateway", "show")
    assert as_it_was.returncode == 0, as_it_was.stderr
    port = free_port()
    inside = {"name": "inside", "address": "127.0.0.1", "port": port, "tls": False, "endpoints": ["echo"]}
    everything = {"name": "default", "endpoints": "all"}
    spec = write_spec(tmp_path / "gateway.yaml", [{"kind": "Gateway", "listeners": [everything, inside]}])
    try:
        applied = shared.run("apply", "-f", str(spec))
        assert (applied.returncode, "the listeners are in force" in applied.stderr) == (0, True), applied.stderr
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            eventually(lambda: accepts(port), SETTLE_TIMEOUT_S)
            assert client.get("/v2/models/echo/ready").status_code == 200
            assert client.get("/v2/models/mlp/ready").status_code == 404
            index = client.post("/v2/repository/index", content=b"").json()
            assert {entry["name"] for entry in index} == {"echo"}
        shown = shared.run("doctor", "--network")
        assert "scoring: listener inside (plain text, some endpoints)" in shown.stdout, shown.stdout
        assert shared.admin.audit(1)[-1]["action"] == "gateway_changed"
    finally:
        (tmp_path / "before.yaml").write_text(as_it_was.stdout)
        restored = shared.run("apply", "-f", str(tmp_path / "before.yaml"))
    assert restored.returncode == 0, restored.stderr
    eventually(lambda: not accepts(port), SETTLE_TIMEOUT_S)
    assert [item["name"] for item in shared.admin.status()["listeners"]] == ["default"]


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
