"""Collects what replicas recorded, once a second, as long as anything is compared. Implements `Comparer`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from time import monotonic

from router.agreement.comparison import Comparison, Heard, Roles
from router.agreement.ports import AnswerSource, ReplicaSilent
from router.domain.routing import Replica
from router.rollout_ports import Difference, Pairs
from serving.sampling import Order

EVERY_S = 1.0
_AT_A_TIME = 16

_NOTHING = Pairs()


class Agreement:
    """Belongs to one event loop; `run` does the work. What was counted is kept in memory only.

    What was found stays readable after `stop`: the differences until the next `compare`, the counts for as long as the
    endpoint `exists`.
    """

    def __init__(
        self, source: AnswerSource, replicas: Callable[[], Iterable[Replica]], exists: Callable[[str], bool]
    ) -> None:
        self._source = source
        self._replicas = replicas
        self._exists = exists
        self._comparisons: dict[str, Comparison] = {}
        self._running: set[str] = set()  # endpoints
        self._has_work = asyncio.Event()
        self._slots = asyncio.Semaphore(_AT_A_TIME)

    # -- Comparer

    def compare(self, endpoint: str, stable: str, candidate: str) -> None:
        self._forget_deleted()
        roles = Roles(endpoint, stable, candidate)
        before = self._comparisons.get(endpoint)
        if endpoint in self._running and before is not None and before.roles == roles:
            return
        self._comparisons[endpoint] = Comparison(roles, monotonic(), before.pairs if before is not None else None)
        self._running.add(endpoint)
        self._has_work.set()

    def stop(self, endpoint: str) -> None:
        """Replicas stop by themselves when their lease ends."""
        if endpoint in self._running:
            self._running.discard(endpoint)
            self._comparisons[endpoint].end()
        if not self._running:
            self._has_work.clear()

    def pairs(self, endpoint: str) -> Pairs:
        comparison = self._comparisons.get(endpoint)
        return _NOTHING if comparison is None else comparison.pairs

    def differences(self, endpoint: str, limit: int) -> tuple[Difference, ...]:
        comparison = self._comparisons.get(endpoint)
        return () if comparison is None else comparison.differences[:limit]

    def all_pairs(self) -> dict[str, Pairs]:
        """By endpoint: of those that are compared, or were."""
        self._forget_deleted()
        return {endpoint: comparison.pairs for endpoint, comparison in sorted(self._comparisons.items())}

    def _forget_deleted(self) -> None:
        for endpoint in [name for name in self._comparisons if not self._exists(name)]:
            self.stop(endpoint)
            del self._comparisons[endpoint]

    # -- work

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._has_work.wait()
            await self.collect()
            await asyncio.sleep(EVERY_S)

    async def collect(self) -> None:
        """One round over everything that is compared."""
        replicas = tuple(self._replicas())
        await asyncio.gather(*(self._round(self._comparisons[name], replicas) for name in sorted(self._running)))

    async def _round(self, comparison: Comparison, replicas: Iterable[Replica]) -> None:
        orders = comparison.orders(replicas)
        answers = await asyncio.gather(*(self._ask(replica, order) for replica, order in orders.items()))
        endpoint = comparison.roles.endpoint
        if endpoint in self._running and self._comparisons[endpoint] is comparison:  # it has not ended meanwhile
            comparison.heard(dict(zip(orders, answers, strict=True)), monotonic(), datetime.now(UTC))

    async def _ask(self, replica: Replica, order: Order) -> Heard | None:
        async with self._slots:
            try:
                return Heard(await self._source.collect(replica.address, order), monotonic())
            except ReplicaSilent:
                return None
