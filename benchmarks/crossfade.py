"""The gateway under test, and its admin API as a client sees it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import httpx

from benchmarks.payloads import Payload
from benchmarks.processes import Child, free_port
from benchmarks.progress import say
from benchmarks.servers import START_TIMEOUT_S, Server, grpc_reply, http_answers

ENDPOINT = "mlp"
PATH_KINDS = frozenset({"envoy", "ServeReplica"})
CONTROL_PLANE_KIND = "router.app"
_SETTLE_TIMEOUT_S = 60.0


class ChangeFailed(Exception):
    """The admin API refused a change, or the change did not come into force."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running `crossfade up`. `url`: where `ENDPOINT` is asked."""

    server: Server
    url: str
    grpc_address: str
    admin_url: str
    metrics_url: str
    data_dir: Path

    @property
    def token(self) -> str:
        return Path(self.data_dir, "admin.token").read_text().strip()

    def url_of(self, endpoint_name: str) -> str:
        """Where another endpoint is asked."""
        return self.url.replace(f"/{ENDPOINT}/", f"/{endpoint_name}/")

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        found = re.search(rf"^{name}(?:\{{\}})? (\S+)$", httpx.get(self.metrics_url).text, re.MULTILINE)
        if found is None:
            raise LookupError(f"/metrics has no {name}")
        return float(found[1])


def endpoint(name: str, traffic: Mapping[str, int]) -> dict[str, Any]:
    """A spec document."""
    return {"kind": "Endpoint", "name": name, "traffic": dict(traffic)}


def deployment(
    endpoint_name: str,
    name: str,
    model: Path,
    instance_count: int = 1,
    cpu: float = 0.2,
    batching: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A spec document. The version is the deployment's name, since all of them serve the same file."""
    return {
        "kind": "Deployment",
        "name": name,
        "endpoint": endpoint_name,
        "model": f"file:{model}",
        "model_version": name,
        "instance_count": instance_count,
        "resources": {"cpu": cpu},
        **({} if batching is None else {"batching": dict(batching)}),
    }


@contextmanager
def crossfade(folder: Path, documents: Sequence[Mapping[str, Any]], payload: Payload) -> Iterator[Gateway]:
    """`crossfade up` with these documents, until the endpoint answers correctly over HTTP and gRPC."""
    http_port, grpc_port, metrics_port, admin_port = (free_port() for _ in range(4))
    spec, data_dir = folder / "spec.yaml", folder / "data"
    # YAML is a superset of JSON.
    spec.write_text("\n---\n".join(json.dumps(document) for document in documents))
    command = [str(Path(sys.executable).with_name("crossfade")), "up", "-f", str(spec), "--data-dir", str(data_dir)]
    command += [f"--http-port={http_port}", f"--grpc-port={grpc_port}"]
    command += [f"--metrics-port={metrics_port}", f"--admin-port={admin_port}"]
    child = Child("crossfade", command, folder / "crossfade.log")
    url, grpc_address = f"http://127.0.0.1:{http_port}/v2/models/{ENDPOINT}/infer", f"127.0.0.1:{grpc_port}"
    try:
        started_in_s = child.wait_until(
            lambda: http_answers(url, payload.json) and grpc_reply(grpc_address, payload) is not None, START_TIMEOUT_S
        )
        yield Gateway(
            Server(child, PATH_KINDS, started_in_s),
            url,
            grpc_address,
            f"http://127.0.0.1:{admin_port}/api/v1",
            f"http://127.0.0.1:{metrics_port}/metrics",
            data_dir,
        )
    finally:
        if left := child.stop():
            say(f"crossfade left processes behind, which were killed: {', '.join(left)}")


class Admin:
    """`async with Admin(gateway) as admin`. Every change returns when it is in force, or raises `ChangeFailed`."""

    def __init__(self, gateway: Gateway) -> None:
        self._url = gateway.admin_url
        self._headers = {"authorization": f"Bearer {gateway.token}"}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(total=120))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def set_traffic(self, percents: Mapping[str, int], endpoint_name: str = ENDPOINT) -> None:
        await self._change("PATCH", f"/endpoints/{endpoint_name}", {"traffic": dict(percents)})

    async def scale(self, name: str, instance_count: int) -> None:
        await self._change("PATCH", f"/endpoints/{ENDPOINT}/deployments/{name}", {"instance_count": instance_count})

    async def delete(self, name: str) -> None:
        await self._change("DELETE", f"/endpoints/{ENDPOINT}/deployments/{name}")

    async def apply(self, documents: Sequence[Mapping[str, Any]]) -> None:
        await self._change("POST", "/apply", {"documents": list(documents)})

    async def store(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Apply without waiting until it is in force."""
        await self._call("POST", "/apply", {"documents": list(documents)})

    async def wait_until_replicas_are_ready(self, timeout_s: float = _SETTLE_TIMEOUT_S) -> None:
        """Every replica that the endpoint wants."""
        give_up_s = time.monotonic() + timeout_s
        while True:
            deployments = (await self._call("GET", f"/endpoints/{ENDPOINT}/deployments"))["deployments"]
            if all(it["replicas_ready"] == it["replicas_wanted"] for it in deployments):
                return
            if time.monotonic() > give_up_s:
                raise ChangeFailed(f"replicas are not ready after {timeout_s:.0f} s: {deployments}")
            await asyncio.sleep(0.1)

    async def wait_until_up_to_date(self, timeout_s: float = _SETTLE_TIMEOUT_S) -> None:
        """A control plane that answers, and an Envoy that is connected and has acknowledged everything."""
        give_up_s = time.monotonic() + timeout_s
        state: object = "no answer"
        while time.monotonic() < give_up_s:
            try:
                state = proxies = (await self._call("GET", "/status"))["proxies"]
            except aiohttp.ClientError:
                proxies = []
            if proxies and all(proxy["is_up_to_date"] for proxy in proxies):
                return
            await asyncio.sleep(0.1)
        raise ChangeFailed(f"Envoy is not up to date after {timeout_s:.0f} s: {state}")

    async def _change(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        done = await self._call(method, path, body)
        for name, revision in done["revisions"].items():
            query = f"revision={revision}&timeout_s={_SETTLE_TIMEOUT_S:g}"
            settled = await self._call("GET", f"/endpoints/{name}/settled?{query}")
            if settled["outcome"] != "in_force":
                raise ChangeFailed(f"{method} {path}: {settled}")

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        async with self._session.request(method, self._url + path, json=body) as reply:
            if reply.status != 200:
                raise ChangeFailed(f"{method} {path}: {reply.status} {(await reply.text())[:500]}")
            content: dict[str, Any] = await reply.json()
            return content
