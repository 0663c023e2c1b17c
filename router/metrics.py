"""`/metrics`: what Envoy and the replicas counted, and what the control plane knows. Prometheus text, format 0.0.4."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable

import httpx

from router.admin_ports import EndpointStatus
from router.domain.endpoint import EndpointState
from router.domain.routing import Replica, ReplicaState
from router.ports import ProxyStatus
from serving.exchange import Cancel, Handler, HttpRequest, HttpResponse, Reply
from serving.metrics import TEXT

log = logging.getLogger("crossfade.metrics")

# What Envoy keeps for operators. Not what it counts for rollouts (router/xds/attempts.py): a hundred buckets for each
# deployment.
_SHOWN = "^(cluster|http|server|listener_manager|cluster_manager|control_plane|overload|limits)[.]"

Observe = Callable[[], str]
Gather = Callable[[], Awaitable[str]]


def gateway_metrics(
    version: str,
    states: Iterable[EndpointState],
    status_of: Callable[[str], EndpointStatus],
    replicas: Collection[Replica],
    proxies: Collection[ProxyStatus],
    is_ray_connected: bool,
) -> str:
    """The control plane's own gauges. Names have a narrow alphabet, so labels need no escaping."""
    lines = [
        "# HELP crossfade_info The version of the gateway.",
        "# TYPE crossfade_info gauge",
        f'crossfade_info{{version="{version}"}} 1',
        "# HELP crossfade_ray_connected Whether the control plane reaches Ray.",
        "# TYPE crossfade_ray_connected gauge",
        f"crossfade_ray_connected {int(is_ray_connected)}",
        "# HELP crossfade_proxy_up_to_date Whether a connected Envoy has acknowledged its latest configuration.",
        "# TYPE crossfade_proxy_up_to_date gauge",
        *(f'crossfade_proxy_up_to_date{{proxy="{proxy.proxy}"}} {int(proxy.is_up_to_date)}' for proxy in proxies),
    ]
    traffic = [
        "# HELP crossfade_traffic_percent The share of an endpoint's requests in force.",
        "# TYPE crossfade_traffic_percent gauge",
    ]
    counts = [
        "# HELP crossfade_replicas Replicas by deployment and state.",
        "# TYPE crossfade_replicas gauge",
    ]
    wanted = [
        "# HELP crossfade_replicas_wanted How many replicas a deployment shall have now.",
        "# TYPE crossfade_replicas_wanted gauge",
    ]
    found = Counter((replica.endpoint, replica.deployment, replica.state) for replica in replicas)
    for state in sorted(states, key=lambda state: state.endpoint.name):
        name = state.endpoint.name
        status = status_of(name)
        wanted += [
            f'crossfade_replicas_wanted{{endpoint="{name}",deployment="{item.name}"}} {item.replicas_wanted}'
            for item in status.deployments
        ]
        for deployment in sorted(state.deployments):
            labels = f'endpoint="{name}",deployment="{deployment}"'
            traffic.append(f"crossfade_traffic_percent{{{labels}}} {status.traffic.percent(deployment)}")
            counts += [
                f'crossfade_replicas{{{labels},state="{kind}"}} {found[name, deployment, kind]}'
                for kind in ReplicaState
            ]
    return "\n".join([*lines, *traffic, *counts, *wanted]) + "\n"


class MetricsPage:
    """Serves `GET /metrics`. Envoy's part comes from its admin socket, `gather` brings that of the replicas. Whoever is
    away, or fails, is left out.
    """

    def __init__(self, envoy_admin_socket: str, observe: Observe, gather: Gather) -> None:
        self._client = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=envoy_admin_socket), timeout=5.0)
        self._observe = observe
        self._gather = gather
        self._running: set[asyncio.Task[None]] = set()

    def handler(self) -> Handler:
        def handle(request: HttpRequest, reply: Reply) -> Cancel | None:
            if request.path != b"/metrics":
                reply(HttpResponse(404, [TEXT], [b"metrics are at /metrics\n"]))
                return None
            if request.method != b"GET":
                reply(HttpResponse(405, [TEXT, (b"allow", b"GET")], [b"use GET\n"]))
                return None
            task = asyncio.create_task(self._answer(reply), name="metrics")
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            return lambda: _cancel(task)

        return handle

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await self._client.aclose()

    async def _answer(self, reply: Reply) -> None:
        parts = {"the gateway": self._own(), "the replicas": self._gather(), "Envoy": self._envoy()}
        texts = await asyncio.gather(*(_or_nothing(whose, part) for whose, part in parts.items()))
        reply(HttpResponse(200, [TEXT], texts))

    async def _own(self) -> str:
        return self._observe()

    async def _envoy(self) -> str:
        try:
            answer = await self._client.get("http://envoy/stats/prometheus", params={"filter": _SHOWN})
        except httpx.HTTPError:
            return ""
        return answer.text if answer.status_code == 200 else ""


async def _or_nothing(whose: str, part: Awaitable[str]) -> bytes:
    """One part that fails must not cost the operator the others."""
    try:
        return (await part).encode()
    except Exception:
        log.exception("the metrics of %s are left out", whose)
        return b""


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
