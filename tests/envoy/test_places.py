"""How many requests may be under way at an endpoint, and of each caller, counted by the real Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
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
from router.xds.names import ROUTES
from serving.exchange import HttpRequest, HttpResponse
from tests.certificates import TestCa
from tests.envoy.data_plane import DataPlane, data_plane, upstream
from tests.envoy.load import under_load
from tests.envoy.replica import Replica, not_begun_at_first
from tests.envoy.test_limits import refusals
from tests.envoy.test_meter import counted
from tests.envoy.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

AGAIN = "try again later"
holding = partial(upstream, timeout_ms=60_000)  # nobody's time is over while a test looks


def never(_: HttpRequest) -> HttpResponse | None:
    return None


def of_all(number: int) -> str:
    return f"too many requests are under way: this endpoint takes {number} at a time, {AGAIN}"


def of_each(number: int) -> str:
    return f"too many requests are under way: this endpoint takes {number} of each caller at a time, {AGAIN}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(plane: DataPlane) -> AsyncIterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@contextlib.asynccontextmanager
async def under_way(calls: list[Awaitable[object]], *replicas: Replica) -> AsyncIterator[list[asyncio.Future[object]]]:
    """These calls, until the block ends, which breaks off those that are still there; begins when `replicas` have
    them all. They answer nobody."""
    before = sum(len(replica.requests) for replica in replicas)
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        await eventually(lambda: sum(len(replica.requests) for replica in replicas) - before, len(tasks))
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def is_free(plane: DataPlane, endpoint: str, headers: dict[str, str] | None = None) -> None:
    """Wait for a place."""

    async def status() -> int:
        return (await plane.infer(endpoint, headers)).status_code

    await eventually(status, 200)


async def test_over_the_number_callers_are_refused_whatever_deployment_they_would_go_to(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    blue.answer = green.answer = never
    pair = holding("blue", blue), holding("green", green)
    await plane.endpoint("busy", *pair, traffic={"blue": 50, "green": 50}, limits=Limits(concurrent_requests=3))
    message = service_pb2.ModelInferRequest(model_name="busy")

    async with under_way([plane.infer("busy"), plane.infer("busy"), stub.ModelInfer(message)], blue, green):
        for headers in ({}, {"x-crossfade-deployment": "green"}):
            reply = await plane.infer("busy", headers)
            assert (reply.status_code, reply.json()) == (429, {"error": of_all(3)})
            assert reply.headers["retry-after"] == "1"
        call = stub.ModelInfer(message)
        assert (await call.code(), await call.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, of_all(3))
        assert ("retry-after", "1") in tuple(await call.trailing_metadata())  # it has no others
        assert len(blue.requests) + len(green.requests) == 3
        await eventually(lambda: refusals(plane, "busy", "concurrency"), 3)

    blue.answer = green.answer = None
    await is_free(plane, "busy")
    seen = await counted(plane.meter, "busy", 1)
    assert sum(of.errors for of in seen.values()) == 0

    async def logged() -> set[object]:
        return {line["details"] for line in plane.access_log() if line["status"] == 429 and "busy" in str(line["path"])}

    await eventually(logged, {"concurrency"})


async def test_other_endpoints_are_not_disturbed(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    blue.answer = never
    free = holding("blue", await plane.replica("blue"))
    await plane.endpoint("crowded", holding("blue", blue), limits=Limits(concurrent_requests=1))
    await plane.endpoint("lonely", free, limits=Limits(concurrent_requests=1))
    await plane.endpoint("open", free)
    async with under_way([plane.infer("crowded")], blue):
        assert (await plane.infer("crowded")).status_code == 429
        for name in ("lonely", "open"):
            assert [(await plane.infer(name)).status_code for _ in range(5)] == [200] * 5


async def test_a_key_that_has_its_fill_leaves_the_other_ones_places_alone_and_strangers_take_none(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    keys = {slot: new_key() for slot in KeySlot}
    access = KeyHolders(tuple(sorted((slot, hashed(key)) for slot, key in keys.items())))
    first, second = ({"x-api-key": keys[slot]} for slot in KeySlot)
    blue = await plane.replica("blue")
    blue.answer = never
    limits = Limits(concurrent_requests=3, per_caller=CallerLimits(concurrent_requests=2))
    await plane.endpoint("keyed", holding("blue", blue), access=access, limits=limits)
    message = service_pb2.ModelInferRequest(model_name="keyed")
    over_grpc = stub.ModelInfer(message, metadata=tuple(first.items()))

    async with under_way([plane.infer("keyed", first), over_grpc], blue):
        for _ in range(5):
            assert (await plane.infer("keyed", {"x-api-key": new_key()})).status_code == 401
        reply = await plane.infer("keyed", first)
        assert (reply.status_code, reply.json(), reply.headers["retry-after"]) == (429, {"error": of_each(2)}, "1")
        call = stub.ModelInfer(message, metadata=tuple(first.items()))
        assert (await call.code(), await call.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, of_each(2))
        await eventually(lambda: refusals(plane, "keyed", "concurrency_per_caller"), 2)
        async with under_way([plane.infer("keyed", second)], blue):
            reply = await plane.infer("keyed", second)  # there are two for it, but three of all
            assert (reply.status_code, reply.json()) == (429, {"error": of_all(3)})

    blue.answer = None
    for headers in (first, second):
        await is_free(plane, "keyed", headers)


async def test_each_certificate_has_places(tmp_path: Path) -> None:
    ca = TestCa.in_folder(tmp_path)
    async with data_plane(tls=ListenerTls((ca.server("server"),), str(ca.file)), authority=ca.file) as plane:
        access = CertificateHolders(("app.example",))
        limits = Limits(per_caller=CallerLimits(concurrent_requests=1))
        blue = await plane.replica("blue")
        blue.answer = never
        await plane.endpoint("certified", holding("blue", blue), access=access, limits=limits)
        async with contextlib.AsyncExitStack() as exits:
            for name in ("one", "two"):
                trusting = ca.trusting(ca.client(name, ["app.example"]))
                client = httpx.AsyncClient(base_url=plane.url, verify=trusting, timeout=DEADLINE_S)
                await exits.enter_async_context(client)
                call = client.post("/v2/models/certified/infer", content=b"{}")
                await exits.enter_async_context(under_way([call], blue))
                refused = await client.post("/v2/models/certified/infer", content=b"{}")
                assert (refused.status_code, refused.json()) == (429, {"error": of_each(1)})


async def test_a_stream_has_a_place_for_as_long_as_it_is_open(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    blue = await plane.replica("blue")
    blue.answer = never
    await plane.endpoint("streamed", holding("blue", blue), limits=Limits(concurrent_requests=1))
    message = service_pb2.ModelInferRequest(model_name="streamed")
    call = stub.ModelStreamInfer(timeout=DEADLINE_S)
    await call.write(message)

    async def status() -> int:
        return (await plane.infer("streamed", {"x-crossfade-deployment": "nobody"})).status_code

    await eventually(status, 429)
    assert await stub.ModelStreamInfer(iter([message]), timeout=DEADLINE_S).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    call.cancel()
    blue.answer = None
    await is_free(plane, "streamed")


async def test_what_is_tried_again_shielded_or_copied_has_one_place(plane: DataPlane) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    pair = holding("blue", blue), holding("green", green)
    one = Limits(concurrent_requests=1)

    blue.answer = partial(not_begun_at_first, blue)
    await plane.endpoint("retried", pair[0], limits=one)
    assert [(await plane.infer("retried")).status_code for _ in range(5)] == [200] * 5
    assert len(blue.requests) == 10

    blue.answer, green.answer = None, lambda _: HttpResponse(500, [], [b"{}"])
    shield = Shield(candidate="green", stable="blue")
    await plane.endpoint("shielded", *pair, traffic={"green": 100}, shield=shield, limits=one)
    assert [(await plane.infer("shielded")).status_code for _ in range(5)] == [200] * 5

    green.answer = never
    await plane.endpoint("copied", *pair, traffic={"blue": 100}, mirror=Mirror("green", 100), limits=one)
    assert [(await plane.infer("copied")).status_code for _ in range(5)] == [200] * 5
    await eventually(lambda: len(green.requests), 10)


async def test_a_place_is_free_again_however_a_request_ends(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    limits = Limits(concurrent_requests=1)
    await plane.endpoint("ending", upstream("blue", blue, timeout_ms=300), limits=limits)

    async def answered(expected: int, **how: str) -> None:
        reply = await plane.infer("ending", how)
        assert reply.status_code == expected, reply.text

    async def gone() -> None:
        blue.answer = never
        async with under_way([plane.infer("ending")], blue):
            pass
        blue.answer = None

    async def killed() -> None:
        blue.answer = never
        async with under_way([plane.infer("ending")], blue) as [broken]:
            await blue.kill()
            assert (await broken).status_code in (503, 504)  # type: ignore[attr-defined]
        blue.answer = None
        await blue.start()

    async def timed_out() -> None:
        blue.answer = never
        await answered(504)
        blue.answer = None

    async def failed() -> None:
        blue.answer = lambda _: HttpResponse(424, [], [b"{}"])
        await answered(424)
        blue.answer = None

    endings: list[Callable[[], Awaitable[None]]] = [
        lambda: answered(200),
        lambda: answered(404, **{"x-crossfade-deployment": "nobody"}),  # Envoy answers by itself
        gone,
        timed_out,
        failed,
        killed,
    ]
    for end in endings:
        await end()
        await is_free(plane, "ending")


async def test_whoever_has_not_sent_all_of_a_request_has_no_place(plane: DataPlane) -> None:
    await plane.endpoint("slow", holding("blue", await plane.replica("blue")), limits=Limits(concurrent_requests=1))
    _, writer = await asyncio.open_connection("127.0.0.1", plane.gateway.http_port)
    writer.write(b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{")
    await writer.drain()
    await eventually(lambda: plane.stat("http.scoring.downstream_rq_active"), 1)
    for _ in range(20):
        assert (await plane.infer("slow")).status_code == 200
    writer.close()
    await writer.wait_closed()


async def test_a_number_that_changes_costs_no_request(plane: DataPlane) -> None:
    blue = holding("blue", await plane.replica("blue"))
    await plane.endpoint("changing", blue)
    numbers = (20, None, 1000, 20, 21, None, 22)
    before = plane.xds.pushed.resources.copy()
    async with under_load(plane, "changing") as load:
        for number in numbers:
            await load.more(50)
            await plane.endpoint("changing", blue, limits=Limits(concurrent_requests=number))
        await load.more(50)
    assert plane.xds.pushed.resources - before == {ROUTES: len(numbers)}


async def test_who_has_a_place_keeps_it_when_the_limit_goes_and_comes_back() -> None:
    async with data_plane() as plane:  # the module goes with the last endpoint that asks for it
        blue = await plane.replica("blue")
        blue.answer = never
        behind = holding("blue", blue)
        for keeps_counting in (True, False):
            await plane.endpoint("wavering", behind, limits=Limits(concurrent_requests=1))
            async with under_way([plane.infer("wavering")], blue):
                await plane.endpoint("wavering", behind)
                async with under_way([plane.infer("wavering")], blue):
                    if keeps_counting:
                        await plane.endpoint("wavering", behind, limits=Limits(concurrent_requests=1))
                        assert (await plane.infer("wavering")).status_code == 429
            await eventually(lambda: plane.stat("http.scoring.downstream_rq_active"), 0)
        await plane.endpoint("wavering", behind, limits=Limits(concurrent_requests=1))
        blue.answer = None
        await is_free(plane, "wavering")


async def test_workers_count_together_and_lose_nothing_whenever_clients_go_away() -> None:
    chance = random.Random(7)
    number = 6
    async with data_plane(concurrency=2) as plane:
        blue = await plane.replica("blue")
        await plane.endpoint("crowd", holding("blue", blue), limits=Limits(concurrent_requests=number))
        request = b"POST /v2/models/crowd/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"

        async def client() -> None:
            for _ in range(15):
                reader, writer = await asyncio.open_connection("127.0.0.1", plane.gateway.http_port)
                writer.write(request[: chance.randint(1, len(request))] if chance.random() < 0.3 else request)
                if chance.random() < 0.5:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(1), chance.random() / 50)
                writer.transport.abort()

        blue.holds_for_s = 0.005
        await asyncio.gather(*(client() for _ in range(40)))

        blue.answer = never
        await eventually(lambda: plane.stat("http.scoring.downstream_rq_active"), 0)
        tasks = [asyncio.create_task(plane.infer("crowd", {"x-late": "1"})) for _ in range(60)]
        await eventually(lambda: sum(task.done() for task in tasks), 60 - number)
        assert {task.result().status_code for task in tasks if task.done()} == {429}
        assert sum(b"x-late" in request.headers for request in blue.requests) == number
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
