"""The metrics of every ready replica, asked for when somebody asks us, and put together as one text.

Bounded: so many replicas at a time, so long for each and for all. A replica that does not answer is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import httpx

from router.domain.routing import Address, Replica, ReplicaState, TritonAddress, UnixAddress
from serving.listener import GATEWAY_HEADER

_AT_A_TIME = 16
_ONE_S = 1.0
_ALL_S = 3.0


class ReplicaMetrics:
    """`token` opens the replicas' listeners."""

    def __init__(self, token: str, replicas: Callable[[], Iterable[Replica]]) -> None:
        self._headers = {GATEWAY_HEADER.decode(): token}
        self._replicas = replicas

    async def gather(self) -> str:
        """Prometheus text; empty when no replica answers."""
        ready = [
            replica
            for replica in self._replicas()
            if replica.state is ReplicaState.READY and not isinstance(replica.address, TritonAddress)
        ]
        if not ready:
            return ""
        slots = asyncio.Semaphore(_AT_A_TIME)
        asking = [asyncio.create_task(self._ask(replica.address, slots)) for replica in sorted(ready, key=_by_name)]
        try:
            await asyncio.wait(asking, timeout=_ALL_S)
        finally:
            late = [task for task in asking if task.cancel()]
            await asyncio.gather(*late, return_exceptions=True)
        return merged(task.result() for task in asking if not task.cancelled())

    async def _ask(self, address: Address, slots: asyncio.Semaphore) -> str:
        path = address.path if isinstance(address, UnixAddress) else None
        host = "replica" if isinstance(address, UnixAddress) else str(address)
        transport = httpx.AsyncHTTPTransport(verify=False, uds=path)  # plain HTTP: nothing to verify
        async with slots, httpx.AsyncClient(transport=transport, timeout=_ONE_S, headers=self._headers) as client:
            try:
                answer = await client.get(f"http://{host}/metrics")
            except httpx.HTTPError:
                return ""
        return answer.text if answer.status_code == 200 else ""


def merged(texts: Iterable[str]) -> str:
    """One text out of several that tell of the same families: each family's samples must stand together."""
    samples: dict[tuple[str, str], list[str]] = {}
    for text in texts:
        family: list[str] = []
        lines = iter(text.splitlines())
        for line in lines:
            if line.startswith("# HELP "):
                family = samples.setdefault((line, next(lines, "")), [])
            else:
                family.append(line)
    return "".join(f"{line}\n" for head, found in samples.items() for line in (*head, *found))


def _by_name(replica: Replica) -> tuple[str, str, str]:
    return replica.endpoint, replica.deployment, replica.id
