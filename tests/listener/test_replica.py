"""A whole replica but for Ray and ONNX Runtime: what it announces, and how busy it says it is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

from tritonclient.grpc import service_pb2

from router.domain.deployment import DeployedModel, Deployment
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.routing import Replica, ReplicaState, UnixAddress
from router.domain.scaling import ScaleSettings
from serving.errors import ScoringError
from serving.messages import InferReply, InferRequest
from serving.model import Model, ModelSettings, ModelState
from serving.replica import ReplicaConfig, ReplicaService, Tell
from tests.unit.serving.backends import DoublingBackend, rows_of
from tests.unit.serving.scripted_model import frame

WAIT_S = 30.0


class Town:
    """Implements `Announcer`: remembers everything, and releases whoever drains."""

    def __init__(self) -> None:
        self.heard: list[Replica] = []

    async def announce(self, replica: Replica) -> bool:
        self.heard.append(replica)
        return True

    async def withdraw(self, replica_id: str) -> None:
        self.heard.clear()

    @property
    def states(self) -> list[tuple[ReplicaState, bool]]:
        """What was announced, without repetitions."""
        found: list[tuple[ReplicaState, bool]] = []
        for replica in self.heard:
            if not found or found[-1] != (replica.state, replica.is_idle):
                found.append((replica.state, replica.is_idle))
        return found


async def started(
    folder: Path, scaling: ScaleSettings | None, backend: DoublingBackend | None = None, waits_for: str = ""
) -> tuple[ReplicaService, Town, Model]:
    model = Model(ModelSettings("e", "1"))

    async def load(_: DeployedModel, tell: Tell) -> Model:
        if waits_for:
            await tell(waits_for)
        await model.load(lambda: backend or DoublingBackend())
        return model

    spec = Deployment("blue", "e", ModelRef("file", "/m.onnx"), scale_settings=scaling)
    deployed = DeployedModel(spec, ResolvedModel("/m.onnx", "ab" * 32))
    town = Town()
    service = ReplicaService("r1", ReplicaConfig("g", deployed, "token", "0", str(folder)), town, load)
    await service.start()
    return service, town, model


async def test_one_whose_model_cannot_answer_for_a_while_says_why_and_then_that_it_can(tmp_path: Path) -> None:
    backend = DoublingBackend()
    service, town, model = await started(tmp_path, None, backend)
    assert model.is_ready
    backend.trouble = "no Triton answers"
    await until(lambda: town.heard[-1].state is ReplicaState.TROUBLED)
    assert town.heard[-1].reason == "no Triton answers"
    assert not model.is_ready
    backend.trouble = ""
    await until(lambda: town.heard[-1].state is ReplicaState.READY)
    assert town.heard[-1].reason == ""
    backend.trouble = "no Triton answers"
    await until(lambda: town.heard[-1].state is ReplicaState.TROUBLED)
    await service.stop()  # and drains as any other
    assert model.state is ModelState.STOPPED


async def test_one_that_waits_for_its_model_says_what_for(tmp_path: Path) -> None:
    service, town, _ = await started(tmp_path, None, waits_for="no Triton answers")
    reasons = [(replica.state, replica.reason) for replica in town.heard]
    assert (ReplicaState.LOADING, "no Triton answers") in reasons
    assert reasons[-1] == (ReplicaState.READY, "")
    await service.stop()


async def asked(model: Model) -> InferReply | ScoringError:
    answer: asyncio.Future[InferReply | ScoringError] = asyncio.get_running_loop().create_future()
    model.infer(InferRequest("1", {"x": rows_of(1)}, ()), math.inf, answer.set_result)
    return await asyncio.wait_for(answer, WAIT_S)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_so():  # noqa: ASYNC110 (the replica announces itself by the clock)
            await asyncio.sleep(0.05)


async def test_a_replica_that_may_sleep_tells_when_nobody_asks_and_when_somebody_does(tmp_path: Path) -> None:
    service, town, model = await started(tmp_path, ScaleSettings(max_instances=1, min_instances=0, idle_timeout_s=1))
    await until(lambda: (ReplicaState.READY, True) in town.states)
    await asked(model)
    await until(lambda: town.states.count((ReplicaState.READY, False)) == 2)
    await service.stop()


async def test_one_that_does_not_sleep_says_nothing_about_it(tmp_path: Path) -> None:
    service, town, _ = await started(tmp_path, ScaleSettings(max_instances=2, idle_timeout_s=1))
    announced = len(town.heard)
    await until(lambda: len(town.heard) >= announced + 3)  # a second apart
    assert (ReplicaState.READY, True) not in town.states
    await service.stop()


async def test_the_load_is_that_since_it_was_last_asked_for(tmp_path: Path) -> None:
    service, _, model = await started(tmp_path, ScaleSettings(max_instances=2))
    await service.load()
    await asked(model)
    assert 0 < await service.load() <= 1
    await service.stop()


async def test_one_that_stops_ends_its_streams_in_words(tmp_path: Path) -> None:
    service, town, _ = await started(tmp_path, None)
    address = town.heard[-1].address
    assert isinstance(address, UnixAddress)
    reader, writer = await asyncio.open_unix_connection(address.path)
    message = service_pb2.ModelInferRequest(model_name="e", id="a", raw_input_contents=[rows_of(1).tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    body = frame(message)
    writer.write(
        b"POST /v2/models/e/ModelStreamInfer HTTP/1.1\r\nx-crossfade-gateway: token\r\n"
        b"content-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body)
    )
    head = await asyncio.wait_for(reader.readuntil(b"triton_final_response"), WAIT_S)
    assert b"\x1a\x01a" in head  # the id
    stopping = asyncio.create_task(service.stop())
    await asyncio.wait_for(reader.readuntil(b"grpc-status: 14\r\ngrpc-message: this replica is stopping"), WAIT_S)
    writer.close()
    await stopping
