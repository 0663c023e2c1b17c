"""Starts Crossfade and its peers for a benchmark: a fresh folder and free ports each, ended whatever happens."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
import psutil

from benchmarks.environments import ensure
from benchmarks.load import INFER_METHOD
from benchmarks.payloads import Exchange, Payload
from benchmarks.peers.table import Dialect, Peer
from benchmarks.peers.variants import GRPC_LOOPS, RAY_SERVE_DEFAULT, RAY_SERVE_VARIANTS
from benchmarks.processes import Child, free_port

START_TIMEOUT_S = 120.0
PEER_START_TIMEOUT_S = 60.0
_RAY_PATH_KINDS = frozenset({"haproxy", "HAProxyManager", "ProxyActor", "ServeReplica"})
_OWN_CLUSTER = {  # on loopback, and it meets no other cluster of this machine
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `path_kinds`: the kinds of process that a request passes through (see `kind_of`); none: all."""

    child: Child
    path_kinds: frozenset[str]
    started_in_s: float
    urls: dict[str, str] = field(default_factory=dict)  # variant -> where to POST JSON
    grpc_address: str = ""


@contextmanager
def ray_serve(
    folder: Path, model: Path, payload: Payload, variants: tuple[str, ...] = tuple(RAY_SERVE_VARIANTS)
) -> Iterator[Server]:
    """Ray Serve's fast path: replicas behind its bundled HAProxy. Raises `DidNotStart`, also when that is not used."""
    with _ray_serve(folder, model, payload, variants, _fast_path(folder)) as server:
        port = httpx.URL(next(iter(server.urls.values()))).port or 0
        server.child.wait_until(lambda: _listeners(server.child, port) == {"haproxy"}, 10, "listening through HAProxy")
        yield server


@contextmanager
def default_ray_serve(folder: Path, model: Path, payload: Payload) -> Iterator[Server]:
    """Ray Serve as it comes: its own HTTP proxy, and the defaults of `@serve.batch` and of a deployment."""
    with _ray_serve(folder, model, payload, (RAY_SERVE_DEFAULT,), {}) as server:
        yield server


@contextmanager
def grpc_aio(folder: Path, model: Path, payload: Payload, loop: str) -> Iterator[Server]:
    """A grpc.aio server around the same batcher, on one of `GRPC_LOOPS`."""
    port = free_port()
    module = "benchmarks.peers.grpc_aio"
    command = [sys.executable, "-m", module, str(model), f"--port={port}", f"--loop={GRPC_LOOPS[loop]}"]
    child = Child(f"grpc.aio, {loop}", command, folder / f"grpc_aio-{GRPC_LOOPS[loop]}.log")
    address = f"127.0.0.1:{port}"
    try:
        started_in_s = child.wait_until(lambda: grpc_reply(address, payload) is not None, START_TIMEOUT_S)
        yield Server(child, frozenset({module}), started_in_s, grpc_address=address)
    finally:
        child.stop()


@contextmanager
def peer_server(peer: Peer, folder: Path, model: Path, payload: Payload) -> Iterator[Server]:
    """A peer in its own environment, which is made first if need be. Raises `NotInstallable` and `DidNotStart`."""
    python = ensure(peer.environment).python
    port, grpc_port = free_port(), free_port()
    command = [str(python), "-m", peer.module, str(model), f"--port={port}", f"--grpc-port={grpc_port}"]
    child = Child(peer.name, [*command, f"--folder={folder}"], folder / "peer.log")
    url = f"http://127.0.0.1:{port}{peer.path}"
    try:
        started_in_s = child.wait_until(lambda: http_answers(url, exchange_with(peer, payload)), PEER_START_TIMEOUT_S)
        yield Server(child, frozenset(), started_in_s, {peer.name: url}, f"127.0.0.1:{grpc_port}")
    finally:
        child.stop()


def exchange_with(peer: Peer, payload: Payload) -> Exchange:
    return payload.json if peer.dialect is Dialect.V2 else payload.rows


def grpc_reply(address: str, payload: Payload) -> bytes | None:
    """The serialized answer to one call, or None while there is none. Raises `WrongAnswer`."""
    with grpc.insecure_channel(address) as channel:
        try:
            reply: bytes = channel.unary_unary(INFER_METHOD)(payload.message, timeout=5)
        except grpc.RpcError:
            return None
    payload.check_grpc(reply)
    return reply


def http_answers(url: str, exchange: Exchange) -> bool:
    """Whether `url` answers at all. Raises `WrongAnswer` when it answers wrongly."""
    try:
        reply = httpx.post(url, content=exchange.body, headers=exchange.headers, timeout=5)
    except httpx.TransportError:
        return False
    if reply.status_code != 200:
        return False
    exchange.check(reply)
    return True


@contextmanager
def _ray_serve(
    folder: Path, model: Path, payload: Payload, variants: tuple[str, ...], settings: dict[str, str]
) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.ray_serve", str(model), f"--port={port}", f"--temp-dir={folder}"]
    command += [f"--variant={variant}" for variant in variants]
    child = Child("Ray Serve", command, folder / "ray_serve.log", {**_OWN_CLUSTER, **settings})
    urls = {variant: f"http://127.0.0.1:{port}/{variant}" for variant in variants}
    try:
        started_in_s = child.wait_until(
            lambda: all(http_answers(url, payload.json) for url in urls.values()), START_TIMEOUT_S
        )
        yield Server(child, _RAY_PATH_KINDS, started_in_s, urls)
    finally:
        child.stop()


def _listeners(child: Child, port: int) -> set[str]:
    """The programs among a server's processes that listen on `port`."""
    programs = set()
    for process in child.tree():
        try:
            connections = process.net_connections("tcp")
            if any(it.status == psutil.CONN_LISTEN and it.laddr.port == port for it in connections):
                programs.add(os.path.basename(process.exe()))
        except psutil.NoSuchProcess:
            continue  # HAProxy replaces its process when its configuration changes
    return programs


def _fast_path(folder: Path) -> dict[str, str]:
    return {
        # The switches that Ray's performance guide names. HAProxy's per-request metrics are read by a Python process;
        # without them Ray Serve is faster still.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "haproxy.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "haproxy.state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "haproxy-metrics.sock"),
    }
