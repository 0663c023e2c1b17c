"""A running Crossfade with workloads in it, and the ways in which one of them is put under load."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.crossfade import ENDPOINT, Gateway, crossfade, deployment, endpoint
from benchmarks.load import grpc_load, http_load
from benchmarks.payloads import JSON_LENGTH_HEADER, Exchange, Payload, WrongAnswer, payload_for
from benchmarks.progress import say
from benchmarks.servers import START_TIMEOUT_S, Server, grpc_reply, http_answers
from benchmarks.throughput import Contender
from benchmarks.workloads import Workload

OURS = "Crossfade"


@dataclass(frozen=True, slots=True)
class Arena:
    """A workload that `gateway` serves at `endpoint`. `payload`: the first of its requests. `folder`: for bodies."""

    gateway: Gateway
    workload: Workload
    payload: Payload
    folder: Path
    endpoint: str = ENDPOINT

    @property
    def url(self) -> str:
        return self.gateway.url_of(self.endpoint)

    def ours(self, connections: int) -> Contender:
        """V2 JSON."""
        return self.http(OURS, self.gateway.server, self.url, self.payload.json, connections)

    def http(self, name: str, server: Server, url: str, exchange: Exchange, connections: int) -> Contender:
        return Contender.on(
            server, name, partial(http_load, url, self._written([exchange]), exchange.headers, connections)
        )

    def binary(self, connections: int) -> Contender:
        """All of the workload's requests in turn, in the binary extension. Raises `WrongAnswer`."""
        exchanges = [payload_for(self.workload.model, self.endpoint, it).binary for it in self.workload.requests]
        if not all(http_answers(self.url, exchange) for exchange in exchanges):
            raise WrongAnswer(f"{self.workload.name}: a request in the binary extension was not answered")
        if len({exchange.headers[JSON_LENGTH_HEADER] for exchange in exchanges}) != 1:
            raise WrongAnswer(f"{self.workload.name}: wrk sends the same headers with every request")
        load = partial(http_load, self.url, self._written(exchanges), exchanges[0].headers, connections)
        return Contender.on(self.gateway.server, OURS, load)

    def grpc(self, name: str, connections: int, streams: int) -> Contender:
        """Raises `WrongAnswer`."""
        address = self.gateway.grpc_address
        reply = grpc_reply(address, self.payload)
        if reply is None:
            raise WrongAnswer(f"{address} does not answer")
        frame = self.folder / "frame.bin"
        frame.write_bytes(self.payload.frame)
        load = partial(grpc_load, address, frame, self.payload.check_grpc(reply), connections, streams)
        return Contender.on(self.gateway.server, name, load)

    def _written(self, exchanges: Sequence[Exchange]) -> list[Path]:
        bodies = []
        for exchange in exchanges:
            bodies.append(self.folder / f"{hashlib.sha256(exchange.body).hexdigest()[:16]}.body")
            bodies[-1].write_bytes(exchange.body)
        return bodies


def documents(
    name: str, workload: Workload, cpu: float, batching: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """An endpoint and its only deployment."""
    blue = deployment(name, "blue", workload.model, cpu=cpu, batching=batching)
    return [endpoint(name, {"blue": 100}), blue]


@contextmanager
def arena(
    folder: Path,
    workload: Workload,
    batching: Mapping[str, Any] | None = None,
    cpu: float = 1.0,
    beside: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Arena]:
    """Crossfade with one replica for the workload at `ENDPOINT`, and with whatever else `beside` asks for.

    Raises `DidNotStart` and `WrongAnswer`.
    """
    payload = payload_for(workload.model, ENDPOINT, workload.requests[0])
    with crossfade(folder, [*documents(ENDPOINT, workload, cpu, batching), *beside], payload) as gateway:
        say(f"crossfade serves {workload.name} after {gateway.server.started_in_s:.1f} s")
        yield Arena(gateway, workload, payload, folder)


def another(where: Arena, endpoint_name: str, workload: Workload) -> Arena:
    """Another workload of the same gateway, as soon as it is answered. Raises `DidNotStart` and `WrongAnswer`."""
    other = Arena(
        where.gateway,
        workload,
        payload_for(workload.model, endpoint_name, workload.requests[0]),
        where.folder,
        endpoint_name,
    )
    child = where.gateway.server.child
    child.wait_until(lambda: http_answers(other.url, other.payload.json), START_TIMEOUT_S, f"serving {workload.name}")
    return other
