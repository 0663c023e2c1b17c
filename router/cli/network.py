"""What `crossfade doctor --network` shows: every socket that a running gateway's processes have open, and why."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from router.config import GatewayConfig
from router.domain.errors import CrossfadeError
from router.premises import last_run
from router.supervisor import processes_of_run

UNKNOWN = "unknown"
_TRITON = "tritonserver"
_ENVOY = "envoy"


class NotRunning(CrossfadeError):
    """There is no gateway to look at."""


@dataclass(frozen=True, slots=True)
class Socket:
    """`does`: listens, or dials. `is_open`: other machines can reach it."""

    process: str
    pid: int
    does: str
    address: str
    why: str
    is_open: bool = False


def open_sockets(data_dir: Path, listeners: Iterable[Mapping[str, Any]] = ()) -> list[Socket]:
    """Of the gateway that runs with this data directory. Connections within it are left out: they have two ends here.

    `listeners`: where scoring is offered, as its status tells; none: only where the command line says.
    Raises `NotRunning`.
    """
    run_id = last_run(data_dir)
    pids = processes_of_run(run_id) if run_id else []
    if not pids:
        raise NotRunning(f"no gateway runs with the data directory {data_dir}: start one, or name another (--data-dir)")
    config = GatewayConfig.read(str(data_dir / "gateway.json"))
    scoring = _scoring(config, listeners)
    seen = sorted(set(_seen(pids)), key=lambda item: (item.does, item.address, item.pid))
    listening = {item.address.rpartition(":")[2] for item in seen if item.does == "listens"}
    inside = [item for item in seen if item.does == "listens" or not _is_within(item.address, listening)]
    return [replace(item, why=_why(item, config, scoring)) for item in inside]


def _seen(pids: list[int]) -> Iterator[Socket]:
    for pid in pids:
        try:
            process = psutil.Process(pid)
            name, connections = process.name(), process.net_connections("all")
        except psutil.Error:
            continue  # it has ended meanwhile
        ours = {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN and c.family != socket.AF_UNIX}
        for connection in connections:
            if connection.family == socket.AF_UNIX:
                if connection.laddr and not connection.raddr and connection.laddr.startswith("/"):
                    yield Socket(name, pid, "listens", connection.laddr, UNKNOWN)
            elif connection.status == psutil.CONN_LISTEN:
                address = _shown(connection.laddr.ip, connection.laddr.port)
                yield Socket(name, pid, "listens", address, UNKNOWN, not _is_loopback(connection.laddr.ip))
            elif connection.raddr and connection.laddr.port not in ours:
                yield Socket(name, pid, "dials", _shown(connection.raddr.ip, connection.raddr.port), UNKNOWN)


def _is_within(address: str, listening: set[str]) -> bool:
    host, _, port = address.rpartition(":")
    return _is_loopback(host.strip("[]")) and port in listening


def _why(item: Socket, config: GatewayConfig, scoring: Mapping[int, str]) -> str:
    path, ports = item.address, config.ports
    if path.startswith("/"):
        whole = {
            str(config.xds_socket): "the configuration of Envoy",
            str(config.server_socket): "calls about the server, for Envoy",
            str(config.envoy_admin_socket): "Envoy's own admin page",
            str(config.admin_socket): "admin API",
        }
        folders = {
            config.replica_dir: "scoring by replica",
            config.waiting_room_dir: "requests to sleeping deployments",
            config.ray_dir: "Ray's own",
        }
        found = whole.get(path) or next((why for folder, why in folders.items() if path.startswith(f"{folder}/")), "")
        return found or UNKNOWN
    port = int(path.rpartition(":")[2])
    if item.does == "listens" and item.process == _TRITON:
        return "scoring by a Triton that a replica runs, its metrics"
    if item.does == "listens":
        known = {**scoring, ports.metrics: "metrics", ports.admin: "admin API"}
        if ports.redirect_http:
            known[ports.redirect_http] = "plain HTTP that is sent to TLS"
        return known.get(port) or "Ray's own, which asks for its token"
    if path == config.ray_address:
        return "Ray"
    if item.process == _ENVOY and not config.is_ray_ours:
        return "scoring by replicas on other hosts, over mutual TLS; by Tritons that specs name"
    return "what specs name: models, metrics of rollouts, webhooks" if not _is_loopback_at(path) else "on this machine"


def _scoring(config: GatewayConfig, listeners: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """Port → why it is open."""
    known = dict.fromkeys((config.ports.http, config.ports.grpc), "scoring")
    for item in listeners:
        how = "TLS" if item["tls"] else "plain text"
        what = "every endpoint" if item["shows_everything"] else "some endpoints"
        known |= dict.fromkeys(item["ports"], f"scoring: listener {item['name']} ({how}, {what})")
    return known


def _is_loopback_at(address: str) -> bool:
    return _is_loopback(address.rpartition(":")[0].strip("[]"))


def _is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _shown(ip: str, port: int) -> str:
    """An IPv4 address that an IPv6 socket uses is told as what it is."""
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv6Address):
        return f"{address.ipv4_mapped}:{port}" if address.ipv4_mapped else f"[{ip}]:{port}"
    return f"{ip}:{port}"
