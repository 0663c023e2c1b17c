"""The metrics of every ready replica, asked for when somebody asks us, and put together as one text.

Bounded: so many replicas at a time, so long for each and for all. A replica that does not answer is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import httpx

from router.domain.routing import Replica, ReplicaState, TcpAddress, UnixAddress
from router.replica_client import ReplicaClient

_AT_A_TIME = 16
_ONE_S = 1.0
_ALL_S = 3.0


class ReplicaMetrics:
    def __init__(self, client: ReplicaClient, replicas: Callable[[], Iterable[Replica]]) -> None:
        self._client = client
        self._replicas = replicas

    async def gather(self) -> str:
        """Prometheus text; empty when no replica answers."""
        ready = sorted((replica for replica in self._replicas() if replica.state is ReplicaState.READY), key=_by_name)
        asked = [address for replica in ready if isinstance(address := replica.address, UnixAddress | TcpAddress)]
        if not asked:
            return ""
        slots = asyncio.Semaphore(_AT_A_TIME)
        asking = [asyncio.create_task(self._ask(address, slots)) for address in asked]
        try:
            await asyncio.wait(asking, timeout=_ALL_S)
        finally:
            late = [task for task in asking if task.cancel()]
            await asyncio.gather(*late, return_exceptions=True)
        return merged(task.result() for task in asking if not task.cancelled())

    async def _ask(self, address: UnixAddress | TcpAddress, slots: asyncio.Semaphore) -> str:
        async with slots, self._client.at(address, _ONE_S) as client:
            try:
                answer = await client.get("/metrics")
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
