"""Sticky clients with the real Envoy: each stays on its deployment while traffic moves one way."""

import asyncio
from itertools import pairwise

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.routing import Shield
from router.domain.sticky import Sticky, StickyBy
from tests.envoy.data_plane import DataPlane, upstream
from tests.envoy.waiting import DEADLINE_S
from tests.statistics import assert_share

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENTS = 100
STEPS = (10, 25, 60, 100)


@pytest.mark.parametrize(
    ("sticky", "header", "value"),
    [
        (Sticky(StickyBy.HEADER, "X-User-Id"), "x-user-id", "user {}"),
        (Sticky(StickyBy.COOKIE, "session"), "cookie", "a=b; session=s{}; c=d"),
    ],
)
@pytest.mark.parametrize("shield", [None, Shield("green", "blue")])
async def test_who_was_on_the_candidate_stays_there_while_it_grows_and_leaves_only_when_it_shrinks(
    plane: DataPlane, sticky: Sticky, header: str, value: str, shield: Shield | None
) -> None:
    name = f"sticky-{sticky.by}{'-shielded' if shield else ''}"
    upstreams = upstream("blue", await plane.replica("blue")), upstream("green", await plane.replica("green"))

    async def on_green(percent: int) -> set[int]:
        traffic = {"blue": 100 - percent, "green": percent}
        await plane.endpoint(name, *upstreams, traffic=traffic, shield=shield, sticky=sticky)
        replies = await asyncio.gather(*(plane.infer(name, {header: value.format(n)}) for n in range(CLIENTS)))
        return {n for n, reply in enumerate(replies) if reply.headers["x-crossfade-deployment"] == "green"}

    seen = [await on_green(percent) for percent in (*STEPS, *reversed(STEPS))]

    growing, shrinking = seen[: len(STEPS)], seen[len(STEPS) :]
    assert all(before <= after for before, after in pairwise(growing))
    assert shrinking == growing[::-1]
    for percent, clients in zip(STEPS, growing, strict=True):
        assert_share(len(clients), percent, CLIENTS)


async def test_a_client_is_known_by_its_address_over_http_and_grpc(plane: DataPlane) -> None:
    upstreams = upstream("blue", await plane.replica("blue")), upstream("green", await plane.replica("green"))
    half = {"blue": 50, "green": 50}
    await plane.endpoint("sticky-client", *upstreams, traffic=half, sticky=Sticky(StickyBy.CLIENT))

    seen = {(await plane.infer("sticky-client")).headers["x-crossfade-deployment"] for _ in range(50)}
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        for _ in range(50):
            call = infer(service_pb2.ModelInferRequest(model_name="sticky-client"), timeout=DEADLINE_S)
            seen.add(dict(await call.initial_metadata())["x-crossfade-deployment"])

    assert len(seen) == 1


async def test_who_does_not_say_who_it_is_is_drawn_by_chance(plane: DataPlane) -> None:
    upstreams = upstream("blue", await plane.replica("blue")), upstream("green", await plane.replica("green"))
    sticky = Sticky(StickyBy.HEADER, "x-user-id")
    await plane.endpoint("sticky-unknown", *upstreams, traffic={"blue": 50, "green": 50}, sticky=sticky)

    replies = await asyncio.gather(*(plane.infer("sticky-unknown") for _ in range(CLIENTS)))

    assert_share(sum(reply.headers["x-crossfade-deployment"] == "green" for reply in replies), 50, CLIENTS)
