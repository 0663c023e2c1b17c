"""Asks replicas for the records of their answers, over HTTP to their own listeners."""

from __future__ import annotations

import httpx

from router.agreement.ports import ReplicaSilent
from router.domain.routing import Address, TritonAddress
from router.replica_client import ReplicaClient
from serving.samples_api import PATH, read_batch, written_order
from serving.sampling import Batch, Order

_TIMEOUT_S = 2.0


class ReplicaAnswers:
    """Implements `router.agreement.ports.AnswerSource`."""

    def __init__(self, client: ReplicaClient) -> None:
        self._client = client

    async def collect(self, address: Address, order: Order) -> Batch:
        if isinstance(address, TritonAddress):
            raise ReplicaSilent(f"{address} is a Triton, which keeps no samples")
        try:
            async with self._client.at(address, _TIMEOUT_S) as client:
                answer = await client.post(PATH, content=written_order(order))
            answer.raise_for_status()
            return read_batch(answer.content)
        except (httpx.HTTPError, ValueError) as error:
            raise ReplicaSilent(f"{address} gives no samples: {error or type(error).__name__}") from error
