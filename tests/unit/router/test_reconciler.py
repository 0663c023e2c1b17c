"""The reconciler against a world that only moves when the test moves it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType

from router.admin_ports import DeploymentCondition, Failed, InForce, Pending
from router.decisions import app_key
from router.desired import Desired
from router.domain.deployment import DeployedModel, Deployment
from router.domain.endpoint import Endpoint, EndpointState
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.routing import ReplicaState, Routing
from router.domain.scaling import ScaleSettings
from router.domain.traffic import Mirror, Traffic
from router.events import EventLog
from router.ports import Rejected
from router.reconciler import Reconciler
from router.rollouts.clock import SystemClock
from router.vigil import Vigil
from tests.fake_world import FakeEnvoy, FakeLookout, FakeRay, FakeRoom, replica_of
from tests.fakes import MemoryStore

BLUE = Traffic.of({"blue": 100})
SPLIT = Traffic.of({"blue": 90, "green": 10})


def a_deployment(name: str, version: str = "1", count: int = 1, scaling: ScaleSettings | None = None) -> DeployedModel:
    ref = ModelRef.parse(f"file:/models/{name}.onnx")
    spec = Deployment(name, "fraud", ref, model_version=version, instance_count=count, scale_settings=scaling)
    return DeployedModel(spec, ResolvedModel(f"/models/{name}.onnx", "ab" * 32))


def a_state(
    traffic: Traffic, *deployed: DeployedModel, revision: int = 1, mirror: Mirror | None = None
) -> EndpointState:
    deployments = MappingProxyType({model.spec.name: model for model in deployed})
    return EndpointState(Endpoint("fraud", traffic, mirror), deployments, revision)


class World:
    def __init__(self) -> None:
        self.envoy = FakeEnvoy()
        self.ray = FakeRay()
        self.store = MemoryStore()
        self.has_ended: Callable[[], bool] = lambda: False
        self.desired = Desired({})
        self.events = EventLog(lambda: datetime.now(UTC))
        self.room = FakeRoom()
        self.reconciler = Reconciler(self.desired, self.envoy, self.store, self.events, "ray:1", self.room)

    def ask_for(self, state: EndpointState) -> None:
        self.desired.publish([state], [])
        self.reconciler.endpoint_changed(state.endpoint.name)

    def forget(self, name: str) -> None:
        self.desired.publish([], [name])
        self.reconciler.endpoint_changed(name)

    @property
    def routing(self) -> Routing:
        return self.envoy.wanted["fraud"]

    async def acknowledged(self) -> None:
        self.envoy.answer("fraud")
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    world = World()
    vigil = Vigil(FakeLookout(), world.desired.is_rolling, SystemClock())
    task = asyncio.create_task(world.reconciler.run(world.ray, vigil))
    world.has_ended = task.done
    try:
        yield world
    finally:
        task.cancel()
        world.reconciler.close()
        await asyncio.gather(task, return_exceptions=True)


async def eventually(is_true: Callable[[], bool]) -> None:
    """Let the loop run until it is true."""
    async with asyncio.timeout(30):
        while not is_true():  # noqa: ASYNC110 (any turn of the loop may make it true)
            await asyncio.sleep(0)


async def test_a_new_deployment_gets_traffic_only_when_a_replica_is_ready_and_envoy_has_acknowledged() -> None:
    blue = a_deployment("blue")
    async with a_world() as world:
        world.ask_for(a_state(BLUE, blue))
        await eventually(lambda: world.ray.log == ["deploy blue x1"])
        assert isinstance(await world.reconciler.wait_settled("fraud", 1, 0), Pending)
        world.ray.has(replica_of(blue))
        await eventually(lambda: bool(world.routing.upstreams[0].addresses))
        assert world.reconciler.endpoint_status("fraud").traffic.is_empty  # asked for, but not acknowledged
        await world.acknowledged()
        assert await world.reconciler.wait_settled("fraud", 1, 1) == InForce()
        assert world.reconciler.endpoint_status("fraud").traffic == BLUE


async def test_weights_stay_while_the_new_deployment_loads() -> None:
    blue, green = a_deployment("blue"), a_deployment("green")
    async with a_world() as world:
        world.ask_for(a_state(BLUE, blue))
        world.ray.has(replica_of(blue))
        await eventually(lambda: bool(world.routing.upstreams[0].addresses))
        await world.acknowledged()
        world.ask_for(a_state(SPLIT, blue, green, revision=2))
        assert world.routing.traffic == BLUE
        world.ray.has(replica_of(blue), replica_of(green))
        await eventually(lambda: world.routing.traffic == SPLIT)


async def test_a_dead_deployments_share_goes_to_the_living_and_comes_back() -> None:
    blue, green = a_deployment("blue"), a_deployment("green")
    async with a_world() as world:
        world.ask_for(a_state(SPLIT, blue, green))
        world.ray.has(replica_of(blue), replica_of(green))
        await eventually(lambda: world.routing.traffic == SPLIT)
        await world.acknowledged()
        world.ray.has(replica_of(blue))
        await eventually(lambda: world.routing.traffic == BLUE)
        world.ray.has(replica_of(blue), replica_of(green, number=2))
        await eventually(lambda: world.routing.traffic == SPLIT)


async def test_changing_a_deployment_in_place_moves_to_the_new_replicas_before_the_old_ones_go() -> None:
    old, new = a_deployment("blue", version="1"), a_deployment("blue", version="2")
    async with a_world() as world:
        world.ask_for(a_state(BLUE, old))
        world.ray.has(replica_of(old))
        await eventually(lambda: bool(world.ray.apps) and bool(world.routing.upstreams[0].addresses))
        await world.acknowledged()
        world.ask_for(a_state(BLUE, new, revision=2))
        await eventually(lambda: len(world.ray.apps) == 2)
        assert world.routing.upstreams[0].addresses == (replica_of(old).address,)  # the new one still loads
        world.ray.has(replica_of(old), replica_of(new))
        await eventually(lambda: world.routing.upstreams[0].addresses == (replica_of(new).address,))
        assert "delete blue" not in world.ray.log  # Envoy may still send to the old one
        await world.acknowledged()
        await eventually(lambda: "delete blue" in world.ray.log)


async def test_a_draining_replica_is_released_after_envoy_has_let_go_of_it() -> None:
    blue = a_deployment("blue", count=2)
    async with a_world() as world:
        world.ask_for(a_state(BLUE, blue))
        world.ray.has(replica_of(blue, 1), replica_of(blue, 2))
        await eventually(lambda: "fraud" in world.envoy.wanted and len(world.routing.upstreams[0].addresses) == 2)
        await world.acknowledged()
        world.ray.has(replica_of(blue, 1), replica_of(blue, 2, ReplicaState.DRAINING))
        await eventually(lambda: len(world.routing.upstreams[0].addresses) == 1)
        assert not world.ray.released
        await world.acknowledged()
        await eventually(lambda: world.ray.released == {replica_of(blue, 2).id})


async def test_scaling_tells_ray_the_new_count_once() -> None:
    blue = a_deployment("blue")
    async with a_world() as world:
        world.ask_for(a_state(BLUE, blue))
        await eventually(lambda: world.ray.log == ["deploy blue x1"])
        bigger = DeployedModel(replace(blue.spec, instance_count=3), blue.model)
        world.ask_for(a_state(BLUE, bigger, revision=2))
        await eventually(lambda: world.ray.log == ["deploy blue x1", "deploy blue x3"])


async def test_a_model_that_fails_to_load_says_why_and_gets_no_traffic() -> None:
    blue = a_deployment("blue")
    async with a_world() as world:
        world.ask_for(a_state(BLUE, blue))
        world.ray.has(replica_of(blue, state=ReplicaState.FAILED, reason="the file is not an ONNX model"))
        result = await world.reconciler.wait_settled("fraud", 1, 1)
        assert isinstance(result, Failed)
        assert "the file is not an ONNX model" in result.reason
        status = world.reconciler.endpoint_status("fraud").deployments[0]
        assert status.condition is DeploymentCondition.FAILED


async def test_a_failed_deployment_that_is_deleted_and_asked_for_again_begins_anew() -> None:
    blue = a_deployment("blue")
    last_words = replica_of(blue, state=ReplicaState.FAILED, reason="the file is not an ONNX model")

    def status() -> tuple[DeploymentCondition, str]:
        (deployment,) = world.reconciler.endpoint_status("fraud").deployments
        return deployment.condition, deployment.reason

    async with a_world() as world:
        world.ask_for(a_state(BLUE, blue))
        world.ray.has(last_words)
        await eventually(lambda: status() == (DeploymentCondition.FAILED, last_words.reason))
        world.ray.failed[app_key(blue)] = "DEPLOY_FAILED: see the logs"
        world.forget("fraud")
        world.ask_for(a_state(BLUE, blue))
        assert status() == (DeploymentCondition.LOADING, "")
        await eventually(lambda: "delete blue" in world.ray.log)
        other = replica_of(blue, 2, ReplicaState.LOADING, "preparing")
        world.ray.has(last_words, other)  # the directory has not forgotten it yet
        await eventually(lambda: status() == (DeploymentCondition.LOADING, "preparing"))
        await eventually(lambda: world.ray.log == ["deploy blue x1", "delete blue", "deploy blue x1"])
        world.ray.has(other)
        world.ray.has(replica_of(blue, 2, ReplicaState.FAILED, "its own reason"))
        await eventually(lambda: status() == (DeploymentCondition.FAILED, "its own reason"))


async def test_what_ray_has_refused_is_no_reason_any_more_when_it_takes_it() -> None:
    blue = a_deployment("blue")
    async with a_world() as world:
        world.ray.refuses = "no such resource"
        world.ask_for(a_state(BLUE, blue))

        def reason() -> str:
            return world.reconciler.endpoint_status("fraud").deployments[0].reason

        await eventually(lambda: reason() == "no such resource")
        world.ray.refuses = ""
        world.ask_for(a_state(BLUE, blue, revision=2))
        await eventually(lambda: world.ray.log == ["deploy blue x1"] and reason() == "")


async def test_a_refused_configuration_is_reported_with_envoys_reason() -> None:
    blue = a_deployment("blue")
    async with a_world() as world:
        world.ask_for(a_state(BLUE, blue))
        world.envoy.answer("fraud", Rejected("envoy-1", "weights must be positive"))
        result = await world.reconciler.wait_settled("fraud", 1, 1)
        assert result == Failed("Envoy refused the configuration: weights must be positive")
        assert any(event.kind == "configuration_rejected" for event in world.events.after(0))


async def test_a_mirror_is_set_only_while_its_deployment_can_answer() -> None:
    blue, green = a_deployment("blue"), a_deployment("green")
    mirror = Mirror("green", 10)
    async with a_world() as world:
        world.ask_for(a_state(BLUE, blue, green, mirror=mirror))
        world.ray.has(replica_of(blue))
        await eventually(lambda: "fraud" in world.envoy.wanted)
        assert world.routing.mirror is None
        world.ray.has(replica_of(blue), replica_of(green))
        await eventually(lambda: world.routing.mirror == mirror)


async def test_a_deleted_endpoint_leaves_envoy_before_its_replicas_stop() -> None:
    blue = a_deployment("blue")
    async with a_world() as world:
        world.ask_for(a_state(BLUE, blue))
        world.ray.has(replica_of(blue))
        await eventually(lambda: bool(world.ray.apps) and bool(world.routing.upstreams[0].addresses))
        await world.acknowledged()
        world.forget("fraud")
        assert "fraud" not in world.envoy.wanted
        assert isinstance(await world.reconciler.wait_settled("fraud", 2, 0), Pending)
        assert world.ray.apps
        await world.acknowledged()
        await eventually(lambda: not world.ray.apps)
        assert await world.reconciler.wait_settled("fraud", 2, 1) == InForce()


async def test_a_ray_that_is_lost_ends_the_run_and_weights_still_change() -> None:
    blue, green = a_deployment("blue"), a_deployment("green")
    async with a_world() as world:
        world.ask_for(a_state(BLUE, blue, green))
        world.ray.has(replica_of(blue), replica_of(green))
        await eventually(lambda: world.reconciler.ray_status().is_connected and "fraud" in world.envoy.wanted)
        world.ray.is_away = True
        world.ask_for(a_state(SPLIT, blue, green, revision=2))
        await eventually(world.has_ended)
        assert not world.reconciler.ray_status().is_connected
        assert world.events.after(0)[-1].kind == "ray_lost"
        assert world.routing.traffic == SPLIT


async def test_replicas_known_from_before_a_restart_are_routed_at_once() -> None:
    blue = a_deployment("blue")
    world = World()
    world.store.save_replicas([replace(replica_of(blue), address=replica_of(blue).address)])
    world.desired.publish([a_state(BLUE, blue)], [])
    await world.reconciler.start_routing()
    # Its socket file does not exist, so it is from an earlier run: nothing is sent there.
    assert world.routing.upstreams[0].addresses == ()
    world.reconciler.close()


SLEEPY = ScaleSettings(max_instances=2, min_instances=0)


@asynccontextmanager
async def a_sleeping_world() -> AsyncIterator[tuple[World, DeployedModel]]:
    """Blue has been ready, has been idle, and has fallen asleep."""
    blue = a_deployment("blue", scaling=SLEEPY)
    idle = replace(replica_of(blue), is_idle=True)
    async with a_world() as world:
        world.ask_for(a_state(BLUE, blue))
        world.ray.has(replica_of(blue))
        await eventually(lambda: "fraud" in world.envoy.wanted and bool(world.routing.upstreams[0].addresses))
        await world.acknowledged()
        world.ray.has(idle)
        await eventually(lambda: world.routing.upstreams[0].is_held)
        assert "delete blue" not in world.ray.log  # Envoy still sends there
        await world.acknowledged()
        await eventually(lambda: world.ray.log[-1] == "delete blue")
        world.ray.has(replace(idle, state=ReplicaState.DRAINING))
        await eventually(lambda: world.ray.released == {idle.id})
        world.ray.has()
        yield world, blue


def condition(world: World) -> DeploymentCondition:
    return world.reconciler.endpoint_status("fraud").deployments[0].condition


async def test_a_deployment_that_nobody_asks_leaves_envoy_before_its_replicas_stop_and_keeps_its_traffic() -> None:
    async with a_sleeping_world() as (world, _):
        assert world.routing.traffic == BLUE
        assert condition(world) is DeploymentCondition.ASLEEP
        assert await world.reconciler.wait_settled("fraud", 1, 1) == InForce()


async def test_a_request_wakes_it_and_is_let_go_when_envoy_knows_the_new_replica() -> None:
    async with a_sleeping_world() as (world, blue):
        world.room.ask("fraud", "blue")
        world.room.ask("fraud", "blue")
        await eventually(lambda: world.ray.log[-1] == "deploy blue x1")
        assert condition(world) is DeploymentCondition.LOADING
        world.room.let_gone.clear()
        world.ray.has(replica_of(blue, 2))
        await eventually(lambda: not world.routing.upstreams[0].is_held)
        assert world.room.let_gone == []
        await world.acknowledged()
        await eventually(lambda: world.room.let_gone == [(("fraud", "blue"), "")])
        assert condition(world) is DeploymentCondition.READY
        await eventually(lambda: not world.room.arrived)  # nobody comes through its door any more


async def test_one_that_cannot_start_any_more_refuses_whoever_waits_with_the_reason() -> None:
    async with a_sleeping_world() as (world, blue):
        world.room.ask("fraud", "blue")
        world.room.let_gone.clear()
        world.ray.has(replica_of(blue, 2, ReplicaState.FAILED, "the file is gone"))
        await eventually(lambda: not world.routing.upstreams[0].is_held)
        await world.acknowledged()
        refused = [(("fraud", "blue"), "the model cannot be started: the file is gone")]
        await eventually(lambda: world.room.let_gone == refused)
        assert condition(world) is DeploymentCondition.FAILED


async def test_who_sleeps_still_does_so_after_the_control_plane_has_started_again() -> None:
    async with a_sleeping_world() as (before, blue):
        world = World()
        world.store = before.store
        world.desired.publish([a_state(BLUE, blue)], [])
        world.reconciler = Reconciler(world.desired, world.envoy, world.store, world.events, "ray:1", world.room)
    await world.reconciler.start_routing()
    try:
        assert world.routing.traffic == BLUE
        assert world.routing.upstreams[0].is_held
        assert condition(world) is DeploymentCondition.ASLEEP
        assert list(world.room.arrived) == [("fraud", "blue")]
    finally:
        world.reconciler.close()


async def test_a_sleeping_deployment_that_is_changed_in_place_is_held_until_the_new_version_is_ready() -> None:
    async with a_sleeping_world() as (world, _):
        new = a_deployment("blue", version="2", scaling=SLEEPY)
        world.ask_for(a_state(BLUE, new, revision=2))
        await eventually(lambda: world.ray.log[-1] == "deploy blue x1")
        assert world.routing.upstreams[0].is_held
        world.ray.has(replica_of(new))
        await eventually(lambda: world.routing.upstreams[0].addresses == (replica_of(new).address,))
