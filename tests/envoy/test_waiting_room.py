"""The waiting room behind the real Envoy: callers of a deployment that sleeps see one slow request, not a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.deployment import DeployedModel, Deployment
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.routing import Address, UnixAddress, Upstream
from router.domain.scaling import ScaleSettings
from router.waiting_room import WaitingRoom
from tests.envoy.data_plane import DataPlane, upstream
from tests.envoy.replica import TOKEN
from tests.envoy.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

RETRY_AFTER = "retry-after"


@pytest_asyncio.fixture(loop_scope="module")
async def room(plane: DataPlane) -> AsyncIterator[WaitingRoom]:
    room = WaitingRoom(plane.folder, TOKEN)
    yield room
    await room.close()


class Sleeper:
    """The endpoint `name` with one deployment, blue, that sleeps in the room."""

    def __init__(self, plane: DataPlane, room: WaitingRoom, name: str) -> None:
        self.plane, self.room, self.name = plane, room, name
        self.arrived = 0

    async def sleep(self, max_held: int = 100, start_timeout_s: int = 60) -> None:
        address = await self.room.open(sleeper(self.name, max_held, start_timeout_s), self._count)
        held = Upstream("blue", "1", (address,), 20_000, 1000, 1024 * 1024, is_held=True)
        await self.plane.endpoint(self.name, held)

    def _count(self, name: tuple[str, str]) -> None:
        assert name == (self.name, "blue")
        self.arrived += 1

    async def wake(self) -> None:
        await self.plane.endpoint(self.name, upstream("blue", await self.plane.replica("blue")))
        self.room.let_go((self.name, "blue"), "")

    async def grpc_infer(self) -> str:
        """The model's name in the answer: who answered. Raises as the client sees it."""
        async with grpc.aio.insecure_channel(self.plane.grpc_address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            answer = await stub.ModelInfer(service_pb2.ModelInferRequest(model_name=self.name), timeout=DEADLINE_S)
            return str(answer.model_name)


def sleeper(endpoint: str, max_held: int, start_timeout_s: int) -> DeployedModel:
    settings = ScaleSettings(
        max_instances=1, min_instances=0, max_held_requests=max_held, start_timeout_s=start_timeout_s
    )
    spec = Deployment("blue", endpoint, ModelRef("file", "/m.onnx"), scale_settings=settings)
    return DeployedModel(spec, ResolvedModel("/m.onnx", "ab" * 32))


async def asked(replies: list[asyncio.Task[httpx.Response]]) -> list[tuple[int, str]]:
    return [
        (reply.status_code, reply.headers.get("x-crossfade-deployment", "")) for reply in await asyncio.gather(*replies)
    ]


async def test_requests_wait_for_the_first_replica_and_are_then_answered_by_it(
    plane: DataPlane, room: WaitingRoom
) -> None:
    sleeping = Sleeper(plane, room, "sleeping")
    await sleeping.sleep()
    body = b"x" * 300_000  # more than one read
    over_http = [asyncio.create_task(plane.infer("sleeping", body=body)) for _ in range(20)]
    over_grpc = [asyncio.create_task(sleeping.grpc_infer()) for _ in range(20)]
    await eventually(lambda: sleeping.arrived, 40)
    assert not any(task.done() for task in (*over_http, *over_grpc))

    await sleeping.wake()

    assert await asked(over_http) == [(200, "blue")] * 20
    assert await asyncio.gather(*over_grpc) == ["blue"] * 20


async def test_every_request_of_a_steady_load_is_answered_while_a_deployment_wakes_and_sleeps(
    plane: DataPlane, room: WaitingRoom
) -> None:
    sleeping = Sleeper(plane, room, "restless")
    await sleeping.sleep()
    answers: list[int] = []
    is_over = False

    async def client() -> None:
        while not is_over:
            answers.append((await plane.infer("restless")).status_code)

    async with asyncio.TaskGroup() as clients:
        for _ in range(6):
            clients.create_task(client())
        seen = 0
        for _ in range(5):
            await eventually(lambda seen=seen: sleeping.arrived > seen)
            await sleeping.wake()
            so_far = len(answers)
            await eventually(lambda so_far=so_far: len(answers) >= so_far + 20)
            seen = sleeping.arrived  # when it sleeps, all clients may be in the room at once
            await sleeping.sleep()
        await sleeping.wake()
        is_over = True

    assert set(answers) == {200}


async def test_more_requests_than_the_bound_are_refused_at_once(plane: DataPlane, room: WaitingRoom) -> None:
    sleeping = Sleeper(plane, room, "crowded")
    await sleeping.sleep(max_held=2)
    held = [asyncio.create_task(plane.infer("crowded")) for _ in range(2)]
    await eventually(lambda: sleeping.arrived, 2)

    refused = await plane.infer("crowded")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await sleeping.grpc_infer()

    assert (refused.status_code, refused.headers[RETRY_AFTER]) == (429, "1")
    assert "2 requests wait for it already" in refused.json()["error"]
    assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    await sleeping.wake()
    assert await asked(held) == [(200, "blue")] * 2


async def test_nobody_waits_longer_than_the_start_may_take(plane: DataPlane, room: WaitingRoom) -> None:
    sleeping = Sleeper(plane, room, "stuck")
    await sleeping.sleep(start_timeout_s=1)

    reply, failure = await asyncio.gather(plane.infer("stuck"), sleeping.grpc_infer(), return_exceptions=True)

    assert isinstance(reply, httpx.Response)
    assert (reply.status_code, reply.headers[RETRY_AFTER]) == (503, "10")
    assert "did not start in time" in reply.json()["error"]
    assert isinstance(failure, grpc.aio.AioRpcError)
    assert failure.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_request_that_may_not_be_sent_twice_wakes_the_model_but_does_not_wait(
    plane: DataPlane, room: WaitingRoom
) -> None:
    sleeping = Sleeper(plane, room, "once")
    await sleeping.sleep()

    reply = await plane.infer("once", headers={"x-crossfade-no-retry": "1"})

    assert (reply.status_code, reply.headers[RETRY_AFTER], sleeping.arrived) == (503, "10", 1)
    assert "may not be sent twice" in reply.json()["error"]


async def test_a_model_that_cannot_start_says_so_to_whoever_waits(plane: DataPlane, room: WaitingRoom) -> None:
    sleeping = Sleeper(plane, room, "broken")
    await sleeping.sleep()
    waiting = asyncio.create_task(plane.infer("broken"))
    await eventually(lambda: sleeping.arrived, 1)

    room.let_go(("broken", "blue"), "the model cannot be started: the file is gone")

    reply = await waiting
    assert (reply.status_code, reply.json()["error"]) == (503, "the model cannot be started: the file is gone")


async def test_a_caller_who_leaves_makes_room_for_another(plane: DataPlane, room: WaitingRoom) -> None:
    sleeping = Sleeper(plane, room, "left")
    await sleeping.sleep(max_held=1)
    impatient = asyncio.create_task(plane.infer("left"))
    await eventually(lambda: sleeping.arrived, 1)
    impatient.cancel()

    async def next_one_is_held() -> bool:
        waiting = asyncio.create_task(plane.infer("left"))
        await asyncio.wait({waiting}, timeout=0.2)
        if waiting.done():
            assert waiting.result().status_code == 429
            return False
        waiting.cancel()
        return True

    await eventually(next_one_is_held)


async def test_asking_whether_a_sleeping_model_is_ready_does_not_wake_it(plane: DataPlane, room: WaitingRoom) -> None:
    sleeping = Sleeper(plane, room, "asked")
    await sleeping.sleep()

    reply = await plane.http.get("/v2/models/asked/ready")
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        over_grpc = await stub.ModelReady(service_pb2.ModelReadyRequest(name="asked"), timeout=DEADLINE_S)

    assert (reply.status_code, reply.json()) == (200, {"name": "asked", "ready": True})
    assert over_grpc.ready
    assert sleeping.arrived == 0


async def test_envoy_does_not_check_the_health_of_a_waiting_room(plane: DataPlane, room: WaitingRoom) -> None:
    sleeping = Sleeper(plane, room, "unchecked")
    await sleeping.sleep()
    waiting = asyncio.create_task(plane.infer("unchecked"))
    await eventually(lambda: sleeping.arrived, 1)

    assert await plane.stat("cluster.unchecked/blue.health_check.attempt") == 0

    await sleeping.wake()
    assert (await waiting).status_code == 200


async def test_a_closed_door_leaves_no_socket_and_a_used_one_stays_open(plane: DataPlane, room: WaitingRoom) -> None:
    doors = {name: await room.open(sleeper(name, 1, 1), lambda _: None) for name in ("used", "addressed", "neither")}

    await room.close_unused({("used", "blue")}, {doors["addressed"]})

    assert [name for name, door in doors.items() if is_there(door)] == ["used", "addressed"]


def is_there(door: Address) -> bool:
    return isinstance(door, UnixAddress) and Path(door.path).exists()
