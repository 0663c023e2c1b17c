"""A control plane that watches: the world of `rollout_world`, and a registry whose alias the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from router.domain.deployment import DeployedModel
from router.domain.endpoint import Endpoint, EndpointState
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.traffic import Traffic
from router.domain.watching import Recipe, Stage, Watch, WatchPolicy
from router.models.ports import AdmissionRefused, Resolution
from router.models.watch_ports import Notice, Wanted
from router.models.watcher import Watcher, WatchSurroundings
from tests.rollout_world import HALF_THEN_ALL, POLICY, MortalStore, Outside, World, a_life
from tests.unit.router.states import deployed

REF = ModelRef.parse("models:/fraud@champion")
URL = "http://127.0.0.1:9/hook"
RECIPE = Recipe(HALF_THEN_ALL, replace(POLICY, notify=(URL,)))


def model(number: int) -> ResolvedModel:
    return ResolvedModel(f"/cache/{number}/model.onnx", f"{number:064x}")


@dataclass
class Registry:
    """Implements `Supply`. `names`: the version that the alias stands for; `bad`: versions that no check lets pass."""

    names: int = 1
    bad: set[int] = field(default_factory=set)
    trouble: Exception | None = None
    link_trouble: Exception | None = None
    cached: set[int] = field(default_factory=set)
    asked: int = 0
    wanted: list[Wanted] = field(default_factory=list)

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        return (await self.resolve(ref)).revision != revision

    async def resolve(self, ref: ModelRef) -> Resolution:
        self.asked += 1
        await asyncio.sleep(0)
        if self.trouble:
            raise self.trouble
        return Resolution(ref, f"models:/fraud/{self.names}", f"r{self.names}", (), str(self.names))

    async def prepare(self, wanted: Wanted) -> ResolvedModel:
        self.wanted.append(wanted)
        await asyncio.sleep(0)
        if self.link_trouble:
            raise self.link_trouble
        number = int(wanted.resolution.version)
        if number in self.bad:
            raise AdmissionRefused("graph", "a Loop of 2^62 rounds", "do not use it")
        self.cached.add(number)
        return model(number)

    async def fetched(self, ref: ModelRef, sha256: str) -> ResolvedModel:
        number = int(sha256, 16)
        if number not in self.cached:
            raise ModelUnavailable("it is not in the cache")
        return model(number)

    def revision_of(self, ref: ModelRef, sha256: str) -> str:
        return ""


@dataclass
class Heard:
    """Implements `Hears`."""

    notices: list[Notice] = field(default_factory=list)

    def hear(self, notice: Notice) -> None:
        self.notices.append(notice)


@dataclass
class WatchedOutside(Outside):
    """Blue has the traffic; there is no green yet. Ray starts whatever is deployed."""

    watch: Watch = field(default_factory=lambda: Watch(WatchPolicy.AUTO, every_s=5, rollout=RECIPE))
    registry: Registry = field(default_factory=Registry)

    def __post_init__(self) -> None:
        self.replicas = {}
        spec = replace(deployed("blue").spec, model=REF, model_version="")
        blue = DeployedModel(spec, model(1))
        endpoint = Endpoint("fraud", Traffic.of({"blue": 100}), watch=self.watch)
        self.disk.save([EndpointState(endpoint, MappingProxyType({"blue": blue}), 1)], [])


class WatchedWorld(World):
    """One life of the control plane, with its watcher."""

    outside: WatchedOutside

    def __init__(self, outside: WatchedOutside, store: MortalStore | None = None, life: int = 1) -> None:
        super().__init__(outside, store, life)
        self.registry = outside.registry
        self.heard = Heard()
        self.watcher = Watcher(
            WatchSurroundings(
                supply=self.registry,
                store=self.store,
                operations=self.operations,
                rollouts=self.engine,
                events=self.events,
                hears=self.heard,
                clock=self.clock,
                gateway="a gateway",
            )
        )

    @property
    def stage(self) -> Stage:
        return self.watcher.standing("fraud").watched.stage

    @property
    def traffic(self) -> dict[str, int]:
        return self.desired.state("fraud").endpoint.traffic.as_dict()

    @property
    def serving(self) -> str:
        """The digest of the model that has all the traffic."""
        ((name, _),) = self.traffic.items()
        return self.desired.state("fraud").deployment(name).model.sha256

    async def seconds(self, count: int) -> None:
        for _ in range(count):
            sizes = {name: item.spec.instance_count for name, item in self.desired.state("fraud").deployments.items()}
            if sizes != self.outside.replicas or self._are_others():
                self.has_replicas(**sizes)
                await self.quiet()
            await super().seconds(1)

    def _are_others(self) -> bool:
        generations = {name: item.generation for name, item in self.desired.state("fraud").deployments.items()}
        known = {item.deployment: item.generation for item in self.reconciler.replicas}
        return any(known.get(name) not in (None, generation) for name, generation in generations.items())

    async def until(self, is_so: Callable[[], bool], limit_s: int = 200) -> None:
        for _ in range(limit_s):
            if is_so():
                return
            await self.seconds(1)
        raise AssertionError(f"not so after {limit_s} s: {[str(event.message) for event in self.events.after(0)]}")


@asynccontextmanager
async def a_watched_life(
    outside: WatchedOutside, store: MortalStore | None = None, life: int = 1
) -> AsyncIterator[WatchedWorld]:
    async with a_life(outside, store, life, WatchedWorld) as world:
        assert isinstance(world, WatchedWorld)
        watching = asyncio.create_task(world.watcher.run())
        await world.quiet()
        try:
            yield world
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
