"""Several listeners: what exists at each, and what becomes of requests while they come, change and go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import httpx
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.listening import DEFAULT, Clients, Everything, Offer, Selected, Visible
from router.ports import Acknowledged, Rejected
from router.xds.gateway import LISTENER_HEADER
from router.xds.names import GATEWAY_GROUP
from tests.envoy.data_plane import DataPlane, data_plane, free_ports, routing, upstream
from tests.envoy.load import under_load
from tests.envoy.replica import MAX_BODY_BYTES, Replica
from tests.envoy.test_streams import Streams, answer, request, streams  # noqa: F401 (a fixture)
from tests.envoy.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

HIDDEN, UNKNOWN = "hidden", "nobody"  # as long as each other
ALL = Everything()

PATHS = [
    ("GET", "/v2/models/@"),
    ("GET", "/v2/models/@/"),
    ("GET", "/v2/models/@/ready"),
    ("GET", "/v2/models/@/config"),
    ("GET", "/v2/models/@/stats"),
    ("GET", "/v2/models/@/versions/1"),
    ("GET", "/v2/models/@/versions/1/ready"),
    ("GET", "/v2/models/@?verbose"),
    ("POST", "/v2/models/@/infer"),
    ("POST", "/v2/models/@/infer?x=/y"),
    ("POST", "/v2/models/@/versions/1/infer"),
    ("POST", "/v2/models/@/versions/no/infer"),
    ("POST", "/v2/models/@/ModelInfer"),
    ("POST", "/v2//models/@/infer"),
    ("POST", "/v2/./models/@/infer"),
    ("POST", "/v2/models/%@/infer"),
    ("POST", "/endpoints/@/score"),
    ("DELETE", "/v2/models/@"),
    ("POST", "/-/server/-/v2/models/@"),
]
HEADERS = [
    {},
    {"x-crossfade-deployment": "blue"},
    {"azureml-model-deployment": "blue"},
    {"x-crossfade-deployment": "no-such"},
    {"x-crossfade-mirrored": "1", "x-crossfade-deployment": "blue"},
    {LISTENER_HEADER: "private"},
    {"x-crossfade-model": "hidden", "x-crossfade-original-path": "/x"},
]


def default(plane: DataPlane, visible: Visible = ALL) -> Offer:
    return Offer(DEFAULT, "127.0.0.1", (plane.gateway.http_port, plane.gateway.grpc_port), False, visible)


def private(visible: Visible = ALL) -> Offer:
    return Offer("private", "127.0.0.1", (free_ports(1)[0],), False, visible)


def at(offer: Offer) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{offer.ports[0]}", timeout=DEADLINE_S)


@pytest_asyncio.fixture(loop_scope="module")
async def shown(plane: DataPlane) -> AsyncIterator[tuple[Replica, Offer]]:
    """An endpoint that exists at the private listener only, its replica, and that listener."""
    blue = await plane.replica("blue")
    await plane.endpoint(HIDDEN, upstream("blue", blue))
    await plane.endpoint("open", upstream("blue", blue))
    offer = private()
    await plane.offered(default(plane, Selected(("open",))), offer)
    yield blue, offer
    await plane.offered(default(plane))


def told(reply: httpx.Response, name: str) -> tuple[int, list[tuple[str, str]], str]:
    """All that a client learns, but for what differs from one request to the next by itself."""
    headers = [(key, value) for key, value in reply.headers.multi_items() if key not in ("date", "x-request-id")]
    return reply.status_code, headers, reply.text.replace(name, "@")


async def test_an_endpoint_exists_at_the_listeners_that_show_it(plane: DataPlane, shown: tuple[Replica, Offer]) -> None:
    _, offer = shown
    async with at(offer) as inside:
        assert (await inside.post(f"/v2/models/{HIDDEN}/infer", content=b"{}")).status_code == 200
        assert (await inside.post("/v2/models/open/infer", content=b"{}")).status_code == 200
    assert (await plane.infer("open")).status_code == 200
    assert (await plane.infer(HIDDEN)).status_code == 404


async def test_elsewhere_it_cannot_be_told_from_one_that_there_is_not(
    plane: DataPlane, shown: tuple[Replica, Offer]
) -> None:
    blue, _ = shown
    for method, path in PATHS:
        for headers in HEADERS:
            replies = []
            for name in (HIDDEN, UNKNOWN):
                written = path.replace("%@", f"%{ord(name[0]):x}{name[1:]}").replace("@", name)
                replies.append(await plane.http.request(method, written, headers=headers, content=b"{}"))
            assert told(replies[0], HIDDEN) == told(replies[1], UNKNOWN), (method, path, headers)
    assert not blue.requests


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 3 * MAX_BODY_BYTES])
async def test_nor_by_the_size_of_what_it_takes(plane: DataPlane, shown: tuple[Replica, Offer], size: int) -> None:
    replies = [await plane.http.post(f"/v2/models/{name}/infer", content=bytes(size)) for name in (HIDDEN, UNKNOWN)]
    assert told(replies[0], HIDDEN) == told(replies[1], UNKNOWN)


async def test_nor_by_its_name_at_the_top_of_a_grpc_call(plane: DataPlane, shown: tuple[Replica, Offer]) -> None:
    blue, _ = shown
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def refusal(name: str, call: grpc.aio.Call) -> tuple[grpc.StatusCode, str, list[tuple[str, str]]]:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call
            metadata = [
                (key, value) for key, value in error.value.initial_metadata() if key not in ("date", "x-request-id")
            ]
            return error.value.code(), error.value.details().replace(name, "@"), metadata

        async def stream(name: str) -> None:
            call = stub.ModelStreamInfer()
            await call.write(service_pb2.ModelInferRequest(model_name=name))
            async for _ in call:
                pass

        for pins in ((), (("x-crossfade-deployment", "blue"),)):
            for call in (
                lambda name, pins: stub.ModelInfer(service_pb2.ModelInferRequest(model_name=name), metadata=pins),
                lambda name, pins: stub.ModelReady(service_pb2.ModelReadyRequest(name=name), metadata=pins),
                lambda name, pins: stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=name), metadata=pins),
                lambda name, pins: stub.ModelConfig(service_pb2.ModelConfigRequest(name=name), metadata=pins),
                lambda name, pins: stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name=name), metadata=pins),
                lambda name, pins: stream(name),
            ):
                seen = [await refusal(name, call(name, pins)) for name in (HIDDEN, UNKNOWN)]
                assert seen[0] == seen[1]
                assert seen[0][0] is grpc.StatusCode.NOT_FOUND
    assert not blue.requests


async def test_calls_about_the_server_say_by_which_listener_they_came(
    plane: DataPlane, shown: tuple[Replica, Offer]
) -> None:
    _, offer = shown
    header = LISTENER_HEADER.encode()
    await plane.http.post("/v2/repository/index", content=b"{}", headers={LISTENER_HEADER: "private"})
    assert header not in plane.server.requests[-1].headers
    async with at(offer) as inside:
        await inside.post("/v2/repository/index", content=b"{}", headers={LISTENER_HEADER: "default"})
        assert plane.server.requests[-1].headers[header] == b"private"
        await inside.get("/v2/models/stats")
        assert plane.server.requests[-1].headers[header] == b"private"


async def test_replicas_are_not_told_the_listener(plane: DataPlane, shown: tuple[Replica, Offer]) -> None:
    blue, _ = shown
    await plane.infer("open", headers={LISTENER_HEADER: "private"})
    assert LISTENER_HEADER.encode() not in blue.requests[-1].headers


async def test_groups_are_shown_as_well(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("of-team", upstream("blue", blue))
    offer = private(Selected((), ("team",)))
    await plane.offered(default(plane), offer)
    async with at(offer) as inside:
        assert (await inside.get("/v2/models/of-team")).status_code == 404
        plane.xds.set_endpoint(replace(routing("of-team", upstream("blue", blue)), group="team"))
        await plane.xds.applied("of-team", DEADLINE_S)
        assert (await inside.get("/v2/models/of-team")).status_code == 200
    await plane.offered(default(plane))


async def test_listeners_come_change_and_go_and_no_request_fails(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("busy", upstream("blue", blue))
    async with under_load(plane, "busy") as load:
        await load.more(50)
        for _ in range(3):
            offer = private(Selected(("busy",)))
            for offers in (
                (default(plane), offer),
                (default(plane), replace(offer, visible=ALL)),
                (default(plane, Selected(("busy",))), replace(offer, clients=Clients(deny=("192.0.2.0/24",)))),
                (default(plane, Selected(("busy", "more"))), offer),
                (default(plane),),
            ):
                await plane.offered(*offers)
                await load.more(20)


async def test_a_request_under_way_is_answered_when_its_listener_has_gone(plane: DataPlane) -> None:
    slow = await plane.replica("blue")
    slow.holds_for_s = 2.5  # as much as clients of a listener that is gone once had, and more
    await plane.endpoint("slow", upstream("blue", slow))
    offer = private()
    await plane.offered(default(plane), offer)
    async with at(offer) as inside:
        waiting = asyncio.create_task(inside.post("/v2/models/slow/infer", content=b"{}"))
        await eventually(lambda: len(slow.requests), 1)
        await plane.offered(default(plane))
        reply = await waiting
        assert (reply.status_code, reply.headers["connection"]) == (200, "close")
        with pytest.raises(httpx.ConnectError):
            await inside.post("/v2/models/slow/infer", content=b"{}")


async def test_a_stream_goes_on_when_its_listener_changes(plane: DataPlane, streams: Streams) -> None:  # noqa: F811
    await streams.served("lasting")
    call = streams.open()
    await call.write(request("lasting", "1", 1.0))
    assert answer(await call.read()) == ("1", "", [2.0])
    await plane.offered(replace(default(plane), clients=Clients(deny=("192.0.2.0/24",))))
    await plane.infer("lasting")  # the listener's new filters are in use
    await call.write(request("lasting", "2", 2.0))
    assert answer(await call.read()) == ("2", "", [4.0])
    await call.done_writing()
    assert await call.read() == grpc.aio.EOF
    await plane.offered(default(plane))


async def test_a_port_that_somebody_has_is_told_and_taken_when_it_is_free(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("waiting", upstream("blue", blue))
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        offer = Offer("taken", "127.0.0.1", (somebody.getsockname()[1],), False)
        plane.xds.set_listeners((default(plane), offer))
        outcome = await plane.xds.applied(GATEWAY_GROUP, DEADLINE_S)
        assert isinstance(outcome, Rejected)
        assert "ddress already in use" in outcome.reason
    await eventually(lambda: plane.xds.applied(GATEWAY_GROUP, DEADLINE_S), Acknowledged())
    async with at(offer) as inside:
        assert (await inside.post("/v2/models/waiting/infer", content=b"{}")).status_code == 200
    await plane.offered(default(plane))


async def test_an_address_that_is_not_there_is_told_and_the_others_stay() -> None:
    async with data_plane() as plane:
        blue = await plane.replica("blue")
        await plane.endpoint("steady", upstream("blue", blue))
        nowhere = Offer("nowhere", "192.0.2.1", (free_ports(1)[0],), False)
        plane.xds.set_listeners((default(plane), nowhere))
        outcome = await plane.xds.applied(GATEWAY_GROUP, DEADLINE_S)
        assert isinstance(outcome, Rejected)
        assert "192.0.2.1" in outcome.reason
        assert (await plane.infer("steady")).status_code == 200
