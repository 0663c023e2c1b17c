"""Limits of an endpoint, kept by the real Envoy. Rates here give nothing back while a test runs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.callers import CertificateHolders, KeyHolders, KeySlot
from router.domain.limits import CallerLimits, Limits
from router.domain.routing import Shield
from router.domain.tls import ListenerTls
from router.domain.traffic import Mirror
from router.keys import hashed, new_key
from router.metrics import MetricsPage
from serving.exchange import HttpRequest, HttpResponse
from tests.certificates import TestCa
from tests.envoy.data_plane import DataPlane, data_plane, upstream
from tests.envoy.replica import not_begun_at_first
from tests.envoy.test_meter import counted
from tests.envoy.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOWEST = 0.001
TOO_OFTEN = "too many requests: a limit of this endpoint is reached, of all its callers or of this one"


def at_most(requests: int) -> Limits:
    return Limits(SLOWEST, burst=requests)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(plane: DataPlane) -> AsyncIterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


async def refusals(plane: DataPlane, endpoint: str, limit: str) -> int:
    """What the metrics page says."""

    async def nothing() -> str:
        return ""

    page = MetricsPage(str(plane.folder / "admin"), lambda: "", nothing)
    shown: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    page.handler()(HttpRequest(b"GET", b"/metrics", {}, b""), lambda reply: shown.set_result(b"".join(reply.body)))
    text = (await shown).decode()
    await page.close()
    found = re.search(rf'^envoy_limits_refused{{endpoint="{endpoint}",limit="{limit}"}} (\d+)$', text, re.MULTILINE)
    return int(found[1]) if found else 0


async def test_over_the_rate_callers_are_told_when_to_come_again_and_no_deployment_is_blamed(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("often", upstream("blue", blue), limits=at_most(6))
    message = service_pb2.ModelInferRequest(model_name="often")

    for _ in range(3):  # both protocols draw from one bucket
        assert (await plane.infer("often")).status_code == 200
        assert (await stub.ModelInfer(message)).model_name == "blue"
    for _ in range(2):
        reply = await plane.infer("often")
        assert (reply.status_code, reply.json(), reply.headers["retry-after"]) == (429, {"error": TOO_OFTEN}, "1000")
        call = stub.ModelInfer(message)
        assert (await call.code(), await call.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, TOO_OFTEN)

    assert len(blue.requests) == 6
    assert (await counted(plane.meter, "often", 6))["blue"].errors == 0
    await eventually(lambda: refusals(plane, "often", "rate"), 4)


async def test_other_endpoints_have_buckets_of_their_own_or_none(plane: DataPlane) -> None:
    blue = upstream("blue", await plane.replica("blue"))
    await plane.endpoint("first", blue, limits=at_most(1))
    await plane.endpoint("second", blue, limits=at_most(1))
    await plane.endpoint("free", blue)

    for name, statuses in (("first", [200, 429]), ("second", [200, 429]), ("free", [200] * 50)):
        assert [(await plane.infer(name)).status_code for _ in statuses] == statuses


async def test_a_stream_is_a_request_as_well(plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    await plane.endpoint("streamed", upstream("blue", await plane.replica("blue")), limits=at_most(1))
    assert (await plane.infer("streamed")).status_code == 200
    call = stub.ModelStreamInfer(iter([service_pb2.ModelInferRequest(model_name="streamed")]), timeout=DEADLINE_S)
    assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_what_is_tried_again_shielded_or_copied_counts_once(plane: DataPlane) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    pair = upstream("blue", blue), upstream("green", green)

    blue.answer = partial(not_begun_at_first, blue)
    await plane.endpoint("retried", pair[0], limits=at_most(5))
    retried = [(await plane.infer("retried")).status_code for _ in range(6)]
    assert (retried, len(blue.requests)) == ([200] * 5 + [429], 10)

    blue.answer = None
    green.answer = lambda _: HttpResponse(500, [], [b"{}"])
    await plane.endpoint(
        "shielded", *pair, traffic={"green": 100}, shield=Shield(candidate="green", stable="blue"), limits=at_most(5)
    )
    assert [(await plane.infer("shielded")).status_code for _ in range(6)] == [200] * 5 + [429]
    assert (len(blue.requests), len(green.requests)) == (15, 5)

    await plane.endpoint("copied", *pair, traffic={"blue": 100}, mirror=Mirror("green", 100), limits=at_most(5))
    assert [(await plane.infer("copied")).status_code for _ in range(6)] == [200] * 5 + [429]
    await eventually(lambda: len(green.requests), 10)


async def test_each_key_has_a_bucket_and_strangers_take_from_none(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    keys = {slot: new_key() for slot in KeySlot}
    access = KeyHolders(tuple(sorted((slot, hashed(key)) for slot, key in keys.items())))
    blue = await plane.replica("blue")
    limits = Limits(SLOWEST, burst=7, per_caller=CallerLimits(SLOWEST, burst=4))
    await plane.endpoint("keyed", upstream("blue", blue), access=access, limits=limits)
    message = service_pb2.ModelInferRequest(model_name="keyed")

    for _ in range(20):
        assert (await plane.infer("keyed", {"x-api-key": new_key()})).status_code == 401
    first, second = ({"x-api-key": keys[slot]} for slot in KeySlot)
    assert [(await plane.infer("keyed", first)).status_code for _ in range(3)] == [200] * 3
    assert (await stub.ModelInfer(message, metadata=tuple(first.items()))).model_name == "blue"
    assert [(await plane.infer("keyed", first)).status_code for _ in range(3)] == [429] * 3
    # What one caller is refused, the others still have: 3 of the 7 that all may have together.
    assert [(await plane.infer("keyed", second)).status_code for _ in range(4)] == [200] * 3 + [429]
    assert len(blue.requests) == 7


async def test_each_certificate_has_a_bucket(tmp_path: Path) -> None:
    ca = TestCa.in_folder(tmp_path)
    async with data_plane(tls=ListenerTls((ca.server("server"),), str(ca.file)), authority=ca.file) as plane:
        access = CertificateHolders(("app.example",))
        limits = Limits(per_caller=CallerLimits(SLOWEST, burst=2))
        await plane.endpoint("certified", upstream("blue", await plane.replica("blue")), access=access, limits=limits)
        for name in ("one", "two"):
            trusting = ca.trusting(ca.client(name, ["app.example"]))
            async with httpx.AsyncClient(base_url=plane.url, verify=trusting, timeout=DEADLINE_S) as client:
                replies = [await client.post("/v2/models/certified/infer", content=b"{}") for _ in range(3)]
            assert [reply.status_code for reply in replies] == [200, 200, 429]


async def test_what_replicas_cannot_hold_is_the_deployments_failure(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    blue.answer = lambda _: None
    await plane.endpoint("full", upstream("blue", blue, max_requests=1))
    waiting = asyncio.create_task(plane.infer("full"))
    await eventually(lambda: len(blue.requests), 1)

    assert (await plane.infer("full")).status_code == 429

    assert (await counted(plane.meter, "full", 1))["blue"].errors == 1
    await eventually(lambda: refusals(plane, "full", "capacity"), 1)
    waiting.cancel()
