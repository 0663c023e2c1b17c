"""What the gateway's processes open on the network."""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess

import psutil

from tests.system.gateway import CROSSFADE, Gateway


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
    assert why[f"127.0.0.1:{shared.ports.http}"] == "scoring"
    assert why[f"127.0.0.1:{shared.ports.admin}"] == "admin API"
    assert why[str(shared.run_dir / "xds.sock")] == "the configuration of Envoy"
    assert any(reason == "scoring by replica" for reason in why.values())
    assert not [item for item in sockets if item["why"] == "unknown"]
    assert not [item for item in sockets if item["is_open"]]


def is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
