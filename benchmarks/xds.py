"""What one weight change costs beside many endpoints: bytes pushed, and time until a real Envoy has it in force.

python -m benchmarks.xds [ENDPOINTS ...]
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from adapters.peer_certificates import PeerCertificates
from benchmarks.processes import free_port
from router.domain.routing import Routing, UnixAddress, Upstream
from router.domain.traffic import Traffic
from router.ports import Acknowledged
from router.xds.bootstrap import EnvoyProcess, envoy_command
from router.xds.gateway import Gateway
from router.xds.names import SEND_ORDER, WILDCARD_TYPES
from router.xds.server import XdsServer
from router.xds.snapshot import Snapshot
from router.xds.stream import Request, Stream
from router.xds.stream_watch_service import StreamWatch
from router.xds.wire import encoded
from serving.exchange import Cancel, HttpRequest, HttpResponse, Reply
from serving.listener import Listener

CHANGES = 200
FULL_TIMEOUT_S = 120.0
CHANGE_TIMEOUT_S = 10.0
MS = 1000


@dataclass(frozen=True, slots=True)
class Push:
    """What one weight change sends to an Envoy that has everything else."""

    resources: int
    num_bytes: int
    decide_ms: float


def routing(number: int, blue: int, socket: str) -> Routing:
    """Two deployments of one endpoint, `blue` percent of the traffic on the first."""
    upstreams = tuple(
        Upstream(name, version, (UnixAddress(socket),), 5000, 1000, 64 * 1024 * 1024)
        for name, version in (("blue", "1"), ("green", "2"))
    )
    return Routing(f"model-{number:04}", Traffic.of({"blue": blue, "green": 100 - blue}), None, upstreams)


def pushed_by_one_weight_change(endpoints: int) -> Push:
    """Without Envoy: a client that accepts everything stands in for it."""
    snapshot = Snapshot(_gateway("/run/server.sock", "/dev/null"))
    for number in range(endpoints):
        snapshot.set_endpoint(routing(number, 100, "/run/replica.sock"))
    stream = Stream(snapshot.wanted)
    for type_url in SEND_ORDER:
        names = () if type_url in WILDCARD_TYPES else tuple(key.name for key in snapshot.wanted if key[0] == type_url)
        stream.receive(Request(type_url, subscribe=names))
    while responses := stream.responses():
        for response in responses:
            stream.receive(Request(response.type_url, nonce=response.nonce))
    begun = time.perf_counter()
    stream.changed(snapshot.set_endpoint(routing(0, 90, "/run/replica.sock")))
    responses = stream.responses()
    decide_ms = (time.perf_counter() - begun) * MS
    return Push(
        resources=sum(len(response.resources) for response in responses),
        num_bytes=sum(len(encoded(response)) for response in responses),
        decide_ms=decide_ms,
    )


async def in_force_ms(endpoints: int) -> list[float]:
    """With a real Envoy: from the call to Envoy's acknowledgement, for each of many weight changes."""
    with tempfile.TemporaryDirectory(prefix="cf-") as folder, _replica(f"{folder}/replica") as socket:
        xds = XdsServer(
            _gateway(f"{folder}/server", f"{folder}/access.jsonl"),
            StreamWatch(PeerCertificates(), lambda: datetime.now(UTC)),
        )
        for number in range(endpoints):
            xds.set_endpoint(routing(number, 100, socket))
        await xds.start(f"{folder}/xds")
        xds.release()
        process = EnvoyProcess("bench", xds_socket=f"{folder}/xds", admin_socket=f"{folder}/admin", concurrency=2)
        command = [*envoy_command(process), "--log-path", f"{folder}/envoy.log"]
        envoy = await asyncio.create_subprocess_exec(*command)
        try:
            for number in range(endpoints):
                outcome = await xds.applied(f"model-{number:04}", FULL_TIMEOUT_S)
                assert outcome == Acknowledged(), outcome
            return [await _change_ms(xds, step % endpoints, 1 + step % 99, socket) for step in range(CHANGES)]
        finally:
            envoy.kill()
            await envoy.wait()
            await xds.stop()


async def _change_ms(xds: XdsServer, number: int, blue: int, socket: str) -> float:
    begun = time.perf_counter()
    wanted = routing(number, blue, socket)
    xds.set_endpoint(wanted)
    outcome = await xds.applied(wanted.endpoint, CHANGE_TIMEOUT_S)
    assert outcome == Acknowledged(), outcome
    return (time.perf_counter() - begun) * MS


@contextlib.contextmanager
def _replica(socket: str) -> Iterator[str]:
    """A process that passes every health check."""
    process = multiprocessing.get_context("spawn").Process(target=_serve_health, args=(socket,))
    process.start()
    try:
        yield socket
    finally:
        process.kill()
        process.join()


def _serve_health(socket: str) -> None:
    def handle(_: HttpRequest, reply: Reply) -> Cancel | None:
        reply(HttpResponse(200, [], [b"{}"]))
        return None

    async def serve() -> None:
        await Listener(handle, token=b"", max_body_bytes=1024).open_unix(socket)
        await asyncio.Event().wait()

    asyncio.run(serve())


def _gateway(server_socket: str, access_log: str) -> Gateway:
    return Gateway(
        bind="127.0.0.1",
        http_port=free_port(),
        grpc_port=free_port(),
        token="token",
        access_log=access_log,
        server_socket=server_socket,
    )


def main() -> None:
    counts = [int(argument) for argument in sys.argv[1:]] or [1, 1000]
    print(f"{'endpoints':>9}  {'resources':>9}  {'bytes':>6}  {'decide ms':>9}  {'in force p50 ms':>15}  {'p99 ms':>6}")
    for count in counts:
        push = pushed_by_one_weight_change(count)
        times = asyncio.run(in_force_ms(count))
        p50, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
        print(
            f"{count:>9}  {push.resources:>9}  {push.num_bytes:>6}  {push.decide_ms:>9.2f}  {p50:>15.1f}  {p99:>6.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
