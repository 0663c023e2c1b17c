"""Steady load from clients that count what they see."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.envoy.data_plane import DataPlane
from tests.envoy.waiting import DEADLINE_S, eventually


@dataclass(slots=True)
class Load:
    """What the clients of `under_load` saw: by deployment since the last `clear`, and every failure."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    deadline_s: float = DEADLINE_S
    _is_over: bool = False

    async def more(self, count: int, *by: str) -> None:
        """So many answers more from each of these deployments; from any when none is named."""

        def counts() -> Sequence[int]:
            return [self.answers[name] for name in by] or [self.answers.total()]

        wanted = [seen + count for seen in counts()]
        await eventually(
            lambda: bool(self.failures) or all(seen >= least for seen, least in zip(counts(), wanted, strict=True)),
            deadline_s=self.deadline_s,
        )

    @asynccontextmanager
    async def from_clients(self, count: int, *calls: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Closed-loop clients, which make these calls in turn, until the block ends; fails when one saw a failure."""

        async def client(call: Callable[[], Awaitable[None]]) -> None:
            while not self._is_over:
                await call()

        async with asyncio.TaskGroup() as group:
            for index in range(count):
                group.create_task(client(calls[index % len(calls)]))
            try:
                yield
            finally:
                self._is_over = True
        assert not self.failures, self.failures[:5]


@asynccontextmanager
async def under_load(plane: DataPlane, endpoint: str, clients: int = 6) -> AsyncIterator[Load]:
    """Closed-loop clients, HTTP and gRPC in turn, until the block ends; fails when any of them saw a failure."""
    load = Load()

    async def http() -> None:
        reply = await plane.infer(endpoint)
        if reply.status_code == 200:
            load.answers[reply.headers["x-crossfade-deployment"]] += 1
        else:
            load.failures.append(f"HTTP {reply.status_code} {reply.text}")

    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

        async def over_grpc() -> None:
            call = infer(service_pb2.ModelInferRequest(model_name=endpoint), timeout=DEADLINE_S)
            try:
                await call
            except grpc.aio.AioRpcError as error:
                load.failures.append(f"gRPC {error.code()} {error.details()}")
            else:
                load.answers[dict(await call.initial_metadata())["x-crossfade-deployment"]] += 1

        async with load.from_clients(clients, http, over_grpc):
            yield load
