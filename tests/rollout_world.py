"""A whole control plane around the rollout engine, in a world whose time and traffic the test moves by hand.

The engine, the reconciler and the operations are the real ones; Envoy, Ray, the store, the meter and the clock are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from router.admin_ports import DeploymentStatus
from router.commits import Commits
from router.desired import Desired
from router.domain.audit import Record
from router.domain.endpoint import EndpointState
from router.domain.errors import StoreFailed
from router.domain.evidence import Evidence
from router.domain.listening import GatewaySpec, Premises
from router.domain.measurement import Latencies, Totals
from router.domain.policy import Policy
from router.domain.rollout import Announce, Phase, Rollout, RolloutSpec
from router.domain.routing import Replica, Routing, TcpAddress
from router.domain.scaling import ScaleSettings
from router.domain.strategy import Analyze, SetWeight, Strategy
from router.domain.traffic import Traffic
from router.domain.watching import Watched
from router.events import EventLog
from router.measuring import Measurer
from router.operations import Operations
from router.ports import Acknowledged
from router.quotas import Quotas
from router.reconciler import Reconciler
from router.rollout_ports import Difference, Entry, Pairs
from router.rollouts.course import Surroundings
from router.rollouts.engine import RolloutEngine
from router.rollouts.telling import Teller
from router.vigil import Vigil
from tests.fake_world import FakeEnvoy, FakeLookout, FakeRay, FakeRoom, replica_of
from tests.fakes import NOON, KnownModels, MemoryAccess, MemoryStore
from tests.unit.router.states import deployed, state

BOUNDS_MS = (10.0, 20.0, 40.0)
POLICY = Policy(burst_s=1, settle_s=0, keep_old_s=5, max_wait_s=30)
HALF_THEN_ALL = Strategy(
    "short", (SetWeight(50), Analyze(bake_s=2, min_requests=50), SetWeight(100), Analyze(bake_s=2, min_requests=50))
)
SPEC = RolloutSpec("fraud", "green", HALF_THEN_ALL, POLICY)
_TURNS = 60  # of the event loop, more than any chain of events here needs


class ProcessDied(Exception):
    """What a killed process would have done next is not done."""


class Inline(ThreadPoolExecutor):
    """Runs at once what would go to a thread, so that the order of events is always the same."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


@dataclass
class HandClock:
    """Implements `Clock`."""

    time: datetime = NOON
    _waiting: list[tuple[datetime, asyncio.Event]] = field(default_factory=list)

    def now(self) -> datetime:
        return self.time

    async def wait(self, news: asyncio.Event, until: datetime | None) -> None:
        if until is None:
            await news.wait()
            return
        alarm = asyncio.Event()
        self._waiting.append((until, alarm))
        waits = [asyncio.create_task(event.wait()) for event in (news, alarm)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        for until, alarm in self._waiting:
            if until <= self.time:
                alarm.set()
        self._waiting = [(until, alarm) for until, alarm in self._waiting if not alarm.is_set()]


class HandMeter:
    """Implements `Meter`. Like the real one, it counts from zero in each process."""

    def __init__(self) -> None:
        self._totals: dict[str, Totals] = {}
        self._has_reported = asyncio.Event()

    def totals(self, endpoint: str) -> Mapping[str, Totals]:
        return dict(self._totals)

    async def reported(self, timeout_s: float) -> bool:
        await self._has_reported.wait()
        return True

    def count(self, deployment: str, requests: int, errors: int, slow: int) -> None:
        old, good = self._totals.get(deployment, Totals()), requests - errors
        latencies = Latencies(BOUNDS_MS, (good - slow, 0, 0, slow))
        self._totals[deployment] = Totals(old.requests + requests, old.errors + errors, old.latencies + latencies)

    def report(self) -> None:
        self._has_reported.set()
        self._has_reported = asyncio.Event()


class PromptEnvoy(FakeEnvoy):
    """Acknowledges at once, unless it is held."""

    is_held = False

    def set_endpoint(self, routing: Routing) -> None:
        super().set_endpoint(routing)
        if not self.is_held:
            self.answer(routing.endpoint)

    def let_go(self) -> None:
        self.is_held = False
        for endpoint in self.wanted:
            self.answer(endpoint, Acknowledged())


@dataclass
class MortalStore:
    """What a process writes goes to `disk`, until it dies: before its write number `dies_at`, or just after it."""

    disk: MemoryStore
    dies_at: int = 0  # 0: it lives
    does_last: bool = False
    writes: int = 0
    is_full: bool = False

    def load(self) -> dict[str, EndpointState]:
        return self.disk.load()

    def load_gateway(self) -> GatewaySpec:
        return self.disk.load_gateway()

    def save(
        self,
        changed: Iterable[EndpointState],
        deleted: Iterable[str],
        records: Collection[Record] = (),
        gateway: GatewaySpec | None = None,
    ) -> None:
        self._write(lambda: self.disk.save(changed, deleted, records, gateway))

    def load_replicas(self) -> tuple[Replica, ...]:
        return self.disk.load_replicas()

    def save_replicas(self, replicas: Iterable[Replica]) -> None:
        self._write(lambda: self.disk.save_replicas(replicas))

    def load_in_force(self) -> dict[str, Traffic]:
        return self.disk.load_in_force()

    def save_in_force(self, endpoint: str, traffic: Traffic) -> None:
        self._write(lambda: self.disk.save_in_force(endpoint, traffic))

    def load_rollouts(self) -> tuple[tuple[Rollout, Evidence], ...]:
        return self.disk.load_rollouts()

    def save_rollout(self, rollout: Rollout, evidence: Evidence, entries: Collection[Announce]) -> None:
        self._write(lambda: self.disk.save_rollout(rollout, evidence, entries))

    def trail(self, endpoint: str, limit: int) -> tuple[Entry, ...]:
        return self.disk.trail(endpoint, limit)

    def load_watched(self) -> tuple[Watched, ...]:
        return self.disk.load_watched()

    def save_watched(self, watched: Watched) -> None:
        self._write(lambda: self.disk.save_watched(watched))

    @property
    def is_dead(self) -> bool:
        return bool(self.dies_at) and self.writes >= self.dies_at

    def _write(self, do: Callable[[], None]) -> None:
        if self.is_full:
            raise StoreFailed("the disk is full")
        if self.is_dead:
            raise ProcessDied
        self.writes += 1
        if not self.is_dead:
            do()
            return
        if self.does_last:
            do()
        raise ProcessDied


class NothingCompared:
    """Implements `Comparer`: no answer is sampled."""

    def compare(self, endpoint: str, stable: str, candidate: str) -> None:
        return

    def stop(self, endpoint: str) -> None:
        return

    def pairs(self, endpoint: str) -> Pairs:
        return Pairs()

    def differences(self, endpoint: str, limit: int) -> tuple[Difference, ...]:
        return ()


@dataclass
class Told:
    """Implements `Listeners`."""

    entries: list[Entry] = field(default_factory=list)

    def tell(self, entry: Entry) -> None:
        self.entries.append(entry)


@dataclass
class Outside:
    """What outlives the control plane: the disk, Envoy, the replicas, the users' requests, and time."""

    disk: MemoryStore = field(default_factory=MemoryStore)
    envoy: PromptEnvoy = field(default_factory=PromptEnvoy)
    clock: HandClock = field(default_factory=HandClock)
    replicas: dict[str, int] = field(default_factory=lambda: {"blue": 1, "green": 1})
    requests_per_s: int = 3000
    failing: dict[str, float] = field(default_factory=dict)  # deployment → share of its requests that fail
    slow: dict[str, float] = field(default_factory=dict)
    scales: ScaleSettings | None = None  # of both deployments

    def __post_init__(self) -> None:
        models = [deployed(name) for name in ("blue", "green")]
        scaled = [replace(model, spec=replace(model.spec, scale_settings=self.scales)) for model in models]
        self.disk.save([state({"blue": 100}, *scaled)], [])

    @property
    def traffic(self) -> dict[str, int]:
        return self.envoy.wanted["fraud"].traffic.as_dict()


class World:
    """One life of the control plane. `new_ids` tell rollouts apart over several lives."""

    def __init__(self, outside: Outside, store: MortalStore | None = None, life: int = 1) -> None:
        self.outside = outside
        self.store = store or MortalStore(outside.disk)
        self.clock, self.envoy = outside.clock, outside.envoy
        self.ray = FakeRay()
        self.lookout = FakeLookout()
        self.meter = HandMeter()
        self.told = Told()
        self.events = EventLog(self.clock.now)
        self.desired = Desired(self.store.load())
        self.reconciler = Reconciler(self.desired, self.envoy, self.store, self.events, "ray:1", FakeRoom())
        commits = Commits(self.desired, self.store, self.reconciler, self.events)
        numbers = iter(range(1, 1000))
        self.engine = RolloutEngine(
            Surroundings(
                store=self.store,
                commits=commits,
                reconciling=self.reconciler,
                meter=self.meter,
                comparer=NothingCompared(),
                measures=Measurer({}),
                teller=Teller(self.events, self.told),
                clock=self.clock,
            ),
            new_id=lambda: f"r{life}-{next(numbers)}",
        )
        quotas = Quotas(MemoryAccess(), self.desired, self.events)
        self.operations = Operations(commits, KnownModels(), self.reconciler, self.engine, quotas, Premises())

    @property
    def rollout(self) -> Rollout:
        return self.engine.latest("fraud")

    @property
    def phase(self) -> Phase:
        return self.rollout.phase

    def deployment(self, name: str) -> DeploymentStatus:
        status = self.reconciler.endpoint_status("fraud")
        return next(found for found in status.deployments if found.name == name)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events.after(0)]

    def has_replicas(self, **counts: int) -> None:
        self.outside.replicas |= counts
        models = self.desired.state("fraud").deployments
        self.ray.has(
            *(
                replace(replica_of(models[name], number), address=TcpAddress(f"10.0.0.{host}", 8000 + number))
                for host, (name, count) in enumerate(self.outside.replicas.items(), start=1)
                if name in models
                for number in range(count)
            )
        )

    async def quiet(self) -> None:
        """Everything that follows from what happened has been done."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def seconds(self, count: int) -> None:
        """Time goes by, requests are answered, Envoy reports."""
        for _ in range(count):
            traffic = self.outside.traffic
            for name, percent in sorted(traffic.items(), reverse=True):
                requests = self.outside.requests_per_s * percent // 100
                errors = round(requests * self.outside.failing.get(name, 0))
                slow = round((requests - errors) * self.outside.slow.get(name, 0))
                self.meter.count(name, requests, errors, slow)
            self.clock.advance(1)
            self.meter.report()
            await self.quiet()

    async def until(self, is_so: Callable[[], bool], limit_s: int = 200) -> None:
        for _ in range(limit_s):
            if is_so():
                return
            await self.seconds(1)
        raise AssertionError(f"not so after {limit_s} s: {self.rollout}; {self.rollout.reason}")


@asynccontextmanager
async def a_life(
    outside: Outside, store: MortalStore | None = None, life: int = 1, kind: type[World] = World
) -> AsyncIterator[World]:
    """The control plane runs, until the block ends or its process dies."""
    asyncio.get_running_loop().set_default_executor(Inline())
    world = kind(outside, store, life)
    await world.reconciler.start_routing()
    vigil = Vigil(world.lookout, world.desired.is_rolling, world.clock)
    tasks = [asyncio.create_task(world.reconciler.run(world.ray, vigil)), asyncio.create_task(world.engine.run())]
    world.has_replicas()
    await world.quiet()
    try:
        yield world
    finally:
        for task in tasks:
            task.cancel()
        world.reconciler.close()
        await asyncio.gather(*tasks, return_exceptions=True)
