"""What the collecting of answers needs from the outside."""

from __future__ import annotations

from typing import Protocol

from router.domain.errors import CrossfadeError
from router.domain.routing import Address
from serving.sampling import Batch, Order


class ReplicaSilent(CrossfadeError):
    """A replica did not say what it answered: it is gone, stuck, or speaks another format."""


class AnswerSource(Protocol):
    async def collect(self, address: Address, order: Order) -> Batch:
        """Give a replica its order and take what it recorded. Gives up after seconds; raises `ReplicaSilent`."""
