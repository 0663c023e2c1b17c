"""A real Envoy, driven by the real xDS server, before replicas that do what a test tells them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx

from adapters.certificates import PemFiles
from adapters.internal_authority import InternalAuthority
from adapters.known_authorities import KnownAuthorities
from adapters.peer_certificates import PeerCertificates
from router.certificates import Certificates
from router.domain.callers import Access, Anyone
from router.domain.limits import NO_LIMITS, Limits
from router.domain.listening import Clients, Offer
from router.domain.routing import Routing, Shield, Upstream
from router.domain.sticky import Sticky
from router.domain.tls import ListenerTls
from router.domain.traffic import Mirror, Traffic
from router.events import EventLog
from router.ports import Acknowledged
from router.telemetry import AttemptMeter
from router.xds.bootstrap import EnvoyProcess, envoy_command
from router.xds.client_limits import ClientLimits
from router.xds.gateway import Gateway
from router.xds.names import GATEWAY_GROUP
from router.xds.reports import reports_service
from router.xds.server import XdsServer
from router.xds.stream_watch_service import StreamWatch
from tests.envoy.replica import MAX_BODY_BYTES, TOKEN, Replica
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.internal_ca import GATEWAY

EVERYBODY = Anyone()
ALL_CLIENTS = Clients()


@dataclass(slots=True)
class DataPlane:
    """Everything a test needs. Endpoints of different tests do not touch each other."""

    folder: Path
    gateway: Gateway
    xds: XdsServer
    server: Replica  # stands for the control plane's answers to server-level calls
    http: httpx.AsyncClient
    envoy: asyncio.subprocess.Process
    meter: AttemptMeter
    certificates: Certificates | None = None
    _replicas: list[Replica] = field(default_factory=list)

    @property
    def url(self) -> str:
        return url_of(self.gateway)

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.gateway.grpc_port}"

    @property
    def xds_socket(self) -> str:
        return str(self.folder / "xds")

    async def replica(self, name: str, tls: ssl.SSLContext | None = None) -> Replica:
        replica = await Replica(name, str(self.folder / f"r{len(self._replicas)}"), tls=tls).start()
        self._replicas.append(replica)
        return replica

    async def endpoint(
        self,
        name: str,
        *upstreams: Upstream,
        traffic: dict[str, int] | None = None,
        mirror: Mirror | None = None,
        shield: Shield | None = None,
        sticky: Sticky | None = None,
        access: Access = EVERYBODY,
        limits: Limits = NO_LIMITS,
        clients: Clients = ALL_CLIENTS,
    ) -> None:
        """Set it and wait until Envoy has it."""
        wanted = routing(
            name,
            *upstreams,
            traffic=traffic,
            mirror=mirror,
            shield=shield,
            sticky=sticky,
            access=access,
            limits=limits,
        )
        self.xds.set_endpoint(replace(wanted, clients=clients))
        outcome = await self.xds.applied(name, DEADLINE_S)
        assert outcome == Acknowledged(), outcome

    async def offered(self, *offers: Offer) -> None:
        """Offer scoring through these listeners alone, and wait until Envoy does. It answers before it does."""
        self.xds.set_listeners(offers)
        outcome = await self.xds.applied(GATEWAY_GROUP, DEADLINE_S)
        assert outcome == Acknowledged(), outcome
        await eventually(lambda: self.stat("listener_manager.total_listeners_warming"), 0)

    async def infer(self, endpoint: str, headers: dict[str, str] | None = None, body: bytes = b"{}") -> httpx.Response:
        return await self.http.post(f"/v2/models/{endpoint}/infer", headers=headers, content=body)

    async def admin(self, path: str) -> str:
        transport = httpx.AsyncHTTPTransport(uds=str(self.folder / "admin"))
        async with httpx.AsyncClient(transport=transport, base_url="http://envoy") as client:
            return (await client.get(path)).text

    async def stat(self, name: str) -> int:
        for line in (await self.admin(f"/stats?filter=^{name}$")).splitlines():
            key, _, value = line.partition(": ")
            if key == name:
                return int(value)
        return 0

    def access_log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in Path(self.gateway.access_log).read_text().splitlines()]


def upstream(
    deployment: str,
    *replicas: Replica,
    version: str = "1",
    timeout_ms: int = 5000,
    max_requests: int = 1000,
    max_request_bytes: int = MAX_BODY_BYTES,
) -> Upstream:
    addresses = tuple(sorted((replica.address for replica in replicas), key=str))
    return Upstream(deployment, version, addresses, timeout_ms, max_requests, max_request_bytes)


def routing(
    name: str,
    *upstreams: Upstream,
    traffic: dict[str, int] | None = None,
    mirror: Mirror | None = None,
    shield: Shield | None = None,
    sticky: Sticky | None = None,
    access: Access = EVERYBODY,
    limits: Limits = NO_LIMITS,
) -> Routing:
    shares = {upstreams[0].deployment: 100} if traffic is None else traffic
    ordered = tuple(sorted(upstreams, key=lambda upstream: upstream.deployment))
    return Routing(name, Traffic.of(shares), mirror, ordered, shield, sticky, access, limits)


def url_of(gateway: Gateway) -> str:
    return f"{'https' if gateway.tls else 'http'}://127.0.0.1:{gateway.http_port}"


def _now() -> datetime:
    return datetime.now(UTC)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@asynccontextmanager
async def started_envoy(process: EnvoyProcess, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("ab") as output:
        envoy = await asyncio.create_subprocess_exec(*envoy_command(process), stdout=output, stderr=output)
    try:
        yield envoy
    finally:
        if envoy.returncode is None:
            envoy.kill()
            await envoy.wait()


async def listening(port: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            await writer.wait_closed()
            return


def process_of(folder: Path, node_id: str = "envoy-1", admin: str = "admin", **bounds: int) -> EnvoyProcess:
    """`bounds`: of `EnvoyProcess`."""
    wanted = {"concurrency": 1} | bounds
    return EnvoyProcess(node_id=node_id, xds_socket=str(folder / "xds"), admin_socket=str(folder / admin), **wanted)


def gateway_in(folder: Path) -> Gateway:
    http_port, grpc_port = free_ports(2)
    return Gateway(
        bind="127.0.0.1",
        http_port=http_port,
        grpc_port=grpc_port,
        token=TOKEN,
        access_log=str(folder / "access.jsonl"),
        server_socket=str(folder / "server"),
        health_interval_ms=200,
    )


def xds_server(gateway: Gateway) -> XdsServer:
    known = KnownAuthorities(Path(gateway.server_socket).with_name("known-authorities.pem"))
    return XdsServer(gateway, StreamWatch(PeerCertificates(), known, _now))


@asynccontextmanager
async def short_folder() -> AsyncIterator[Path]:
    """Unix socket paths are limited to 107 bytes, so not below pytest's own folder."""
    folder = Path(tempfile.mkdtemp(prefix="cf-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def data_plane(
    endpoints: Iterable[Routing] = (),
    tls: ListenerTls | None = None,
    authority: Path | None = None,
    clients: ClientLimits | None = None,
    internal: InternalAuthority | None = None,
    **bounds: int,
) -> AsyncIterator[DataPlane]:
    """Starts with `endpoints`, and with the replica that answers server-level calls.

    `bounds` are the process's. With `tls`, clients trust the CA in the file `authority`, and there is a port that
    redirects plain HTTP. `internal`: its CA, by which it knows replicas on other hosts.
    """
    async with contextlib.AsyncExitStack() as stack:
        folder = await stack.enter_async_context(short_folder())
        gateway = gateway_in(folder)
        if tls is not None:
            gateway = replace(gateway, tls=tls, redirect_port=free_ports(1)[0])
        if clients is not None:
            gateway = replace(gateway, clients=clients)
        if internal is not None:
            gateway = replace(gateway, trust_domain=GATEWAY)
        server = await Replica("control-plane", gateway.server_socket).start()
        stack.push_async_callback(server.kill)
        xds = xds_server(gateway)
        for one in endpoints:
            xds.set_endpoint(one)
        if internal is not None:
            xds.set_replica_tls(internal.for_envoy(_now()), internal.trust)
        certificates = None
        if tls is not None:
            certificates = Certificates(tls, PemFiles(), xds, EventLog(_now))
            certificates.look()
        meter = AttemptMeter()
        await xds.start(str(folder / "xds"), reports_service(meter.take))
        xds.release()
        log = folder / "envoy.log"
        stack.callback(lambda: print(log.read_text()))  # pytest shows it when a test fails
        envoy = await stack.enter_async_context(started_envoy(process_of(folder, **bounds), log))
        await listening(gateway.http_port)
        trusted = ssl.create_default_context(cafile=authority) if authority else True
        client = httpx.AsyncClient(base_url=url_of(gateway), timeout=DEADLINE_S, verify=trusted)
        http = await stack.enter_async_context(client)
        plane = DataPlane(folder, gateway, xds, server, http, envoy, meter, certificates)
        yield plane
        await plane.xds.stop()
        for replica in plane._replicas:
            await replica.kill()
