"""Makes what was asked for true: routes in Envoy, replicas in Ray. Observes, lets `decisions` decide, acts, remembers.

Two halves that never wait for each other. Routing (`RoutingInForce`) is immediate: a change of weights or of the set of
replicas goes to Envoy in the same turn of the event loop. Replicas take seconds, and Ray may be away for minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from router.admin_ports import EndpointStatus, InForce, Pending, RayStatus, Settlement
from router.conditions import deployment_status, settlement
from router.decisions import (
    AppKey,
    Scale,
    app_key,
    apps_to_delete,
    apps_to_deploy,
    replicas_by_endpoint,
    replicas_to_release,
    scale_of,
    wanted_apps,
)
from router.departed import Departed, key_of
from router.desired import Desired
from router.domain.deployment import DeployedModel
from router.domain.routing import Replica, ReplicaState, Routing
from router.domain.traffic import Traffic
from router.dormitory import Dormitory
from router.events import EventLog
from router.known_replicas import may_live
from router.last_known import LastKnown
from router.ports import (
    DataPlane,
    DeployRefused,
    RunningApp,
    Runtime,
    RuntimeUnavailable,
    Store,
    WaitingRoom,
)
from router.routing_in_force import RoutingInForce
from router.tritons import is_found
from router.vigil import Vigil

_LOOK_AGAIN_S = 5.0
_RECONNECT_AFTER_S = 1.0
_RETRY_AFTER_S = 30.0
_RETRY_AT_MOST_EVERY_S = 600.0


@dataclass(frozen=True, slots=True)
class _Retry:
    """When to start a failed application again, on the loop's clock, and the pause that led there."""

    at_s: float
    pause_s: float


class Reconciler:
    """Implements `Changes` and `Observer`. Belongs to one event loop."""

    def __init__(
        self,
        desired: Desired,
        data_plane: DataPlane,
        store: Store,
        events: EventLog,
        ray_address: str,
        waiting_room: WaitingRoom,
    ) -> None:
        self._desired = desired
        self._last_known = LastKnown(store, events)
        self._events = events
        self._ray_address = ray_address
        self._ray_trouble = "not connected yet"
        self._running: tuple[Replica, ...] = ()
        self._tritons: tuple[Replica, ...] = ()
        self._replicas: tuple[Replica, ...] = ()  # those that run, and those that stand in for them
        self._replicas_of: dict[str, tuple[Replica, ...]] = {}  # the same, by endpoint
        self._apps: tuple[RunningApp, ...] = ()
        self._kept: dict[AppKey, int] = {}  # how many replicas Ray keeps of an application
        self._deployed_scales: dict[AppKey, Scale] = {}
        self._refused: dict[AppKey, str] = {}
        self._troubles: dict[AppKey, str] = {}  # what is wrong, in Ray's words
        self._failed_starts: dict[AppKey, _Retry] = {}
        self._departed = Departed()
        self._changed = asyncio.Event()
        self._work = asyncio.Event()
        self._dormitory = Dormitory(desired, waiting_room, events, self._work.set)
        self._routing = RoutingInForce(desired, data_plane, self._last_known, events, self._let_go, self._settled)

    # -- life

    async def start_routing(self) -> None:
        """Give Envoy what is known from before a restart, so that it need not wait for Ray."""
        self.gateway_changed()
        self._routing.restore()
        known = self._last_known.replicas()
        await self._dormitory.restore(known)
        self._tritons = tuple(r for r in known if is_found(r))
        self._note_replicas([r for r in known if r.state is not ReplicaState.ASLEEP and may_live(r)])
        for name in self._desired.states:
            self._departed.note(name, self._desired.states, ())
            self._route(name)

    async def run(self, runtime: Runtime, vigil: Vigil) -> None:
        """Keep Ray Serve as asked. Returns when a Ray that had been joined is lost, which the events then say."""
        while not await self._join(runtime):  # noqa: ASYNC110 (a cluster that is not there can only be asked again)
            await asyncio.sleep(_RECONNECT_AFTER_S)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_replicas(runtime, vigil))
                tasks.create_task(self._keep_apps(runtime))
        except* RuntimeUnavailable as group:
            self._note_ray_trouble(str(group.exceptions[0]))

    async def _join(self, runtime: Runtime) -> bool:
        try:
            await runtime.connect()
        except RuntimeUnavailable as error:
            self._note_ray_trouble(str(error))
            return False
        self._ray_trouble = ""
        self._events.publish("ray_connected", f"connected to Ray at {self._ray_address}")
        return True

    def _note_ray_trouble(self, reason: str) -> None:
        if self._ray_trouble != reason:
            self._ray_trouble = reason
            self._events.publish("ray_lost", f"Ray does not answer: {reason}; replicas that live keep serving")

    def close(self) -> None:
        self._routing.close()

    # -- Changes

    def endpoint_changed(self, name: str) -> None:
        for key in self._departed.note(name, self._desired.states, self._running):
            for memory in (self._refused, self._troubles, self._failed_starts):
                memory.pop(key, None)
        self._note_replicas(self._departed.without_dead(self._running))
        self._route(name)
        self._work.set()

    def gateway_changed(self) -> None:
        self._routing.listen()

    # -- Observer

    def endpoint_status(self, name: str) -> EndpointStatus:
        state = self._desired.state(name)
        confirmed = self._routing.confirmed(name)
        routing = confirmed.routing if confirmed is not None else None
        return EndpointStatus(
            traffic=routing.traffic if routing is not None else Traffic(),
            mirror=routing.mirror if routing is not None else None,
            deployments=tuple(
                deployment_status(deployed, self._replicas_of.get(name, ()), self._troubles, self._kept)
                for _, deployed in sorted(state.deployments.items())
            ),
            revision=confirmed.revision if confirmed is not None else 0,
            error=self._routing.error(name),
        )

    async def wait_settled(self, name: str, revision: int, timeout_s: float) -> Settlement:
        result: Settlement = Pending("nothing has been looked at yet")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while isinstance(result := self._settlement(name, revision), Pending):
                    await self._changed.wait()
        return result

    async def wait_listening(self, timeout_s: float) -> Settlement:
        return await self._routing.wait_listening(timeout_s)

    async def status_changed(self) -> None:
        await self._changed.wait()

    def ray_status(self) -> RayStatus:
        return RayStatus(not self._ray_trouble, self._ray_address, self._ray_trouble)

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return self._replicas

    @property
    def tritons(self) -> tuple[Replica, ...]:
        """Those of the replicas that are Tritons, which run elsewhere."""
        return self._tritons

    def _settlement(self, name: str, revision: int) -> Settlement:
        if name in self._desired.states:
            state = self._desired.state(name)
            if state.revision < revision:
                return Pending("the change has not arrived yet")
            return settlement(state, self.endpoint_status(name))
        return InForce() if self._routing.is_forgotten(name) else Pending("waiting for Envoy to forget the endpoint")

    # -- routing

    def _route(self, name: str) -> None:
        self._routing.route(name, self._replicas_of.get(name, ()))

    def _let_go(self, routing: Routing) -> None:
        self._dormitory.let_go(routing, self._running)

    def _settled(self) -> None:
        self._notify()
        self._work.set()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # -- replicas

    async def _follow_replicas(self, runtime: Runtime, vigil: Vigil) -> None:
        async for told in vigil.living(runtime.replicas(self._running)):
            self._departed.note_told(told)
            replicas = self._departed.without_dead(told)
            if replicas == self._running:
                continue
            before = self._running
            self._note_replicas(replicas)
            self._report(before, replicas)
            self._notify()
            self._work.set()

    def note_tritons(self, found: tuple[Replica, ...]) -> None:
        """These are the Tritons that deployments name."""
        before, self._tritons = self._tritons, found
        self._note_replicas(self._running)
        self._report(before, found)
        self._notify()

    def _note_replicas(self, running: Iterable[Replica]) -> None:
        """These run now: route, remember and show what that changes."""
        before, self._running = self._replicas, tuple(running)
        self._replicas = (*self._dormitory.with_stand_ins(self._running), *self._tritons)
        if self._replicas == before:
            return
        self._replicas_of = replicas_by_endpoint(self._replicas)
        for name in _endpoints_touched(before, self._replicas) & self._desired.states.keys():
            self._route(name)
        self._last_known.save_replicas(self._replicas)

    async def _keep_apps(self, runtime: Runtime) -> None:
        while True:
            self._work.clear()
            await self._dormitory.fall_asleep(self._running)
            self._note_replicas(self._running)
            self._apps = await runtime.running()
            self._kept = {key_of(app): app.replicas_wanted for app in self._apps}
            self._dormitory.note_stopped(self._kept)
            wanted = wanted_apps(self._desired.states.values(), self._dormitory.asleep)
            for deployed in apps_to_deploy(wanted, self._apps, self._deployed_scales):
                await self._deploy(runtime, deployed)
            ended = self._departed.take_failed(self._apps, wanted)
            for app in ended:
                await self._end(runtime, app)
            self._apps = tuple(app for app in self._apps if app not in ended)
            self._troubles = {key_of(app): app.trouble for app in self._apps} | self._refused
            await self._retry_failed(runtime, wanted)
            in_use = self._routing.addresses_in_use()
            if released := replicas_to_release(self._replicas, in_use):
                await runtime.release(released)
            for app in apps_to_delete(wanted, self._apps, self._running, in_use):
                await self._end(runtime, app)
            await self._dormitory.close_unused(in_use)
            self._notify()
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it can swallow a cancellation.
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await self._work.wait()

    async def _deploy(self, runtime: Runtime, deployed: DeployedModel) -> None:
        """A deployment that Ray refuses is reported, and does not keep the others from starting."""
        key = app_key(deployed)
        self._deployed_scales[key] = scale_of(deployed)
        self._kept.setdefault(key, 0)
        try:
            await runtime.deploy(deployed)
            self._refused.pop(key, None)
        except DeployRefused as error:
            self._refused[key] = str(error)
            self._events.publish(
                "deployment_refused",
                f"{key[0]}/{key[1]}: {error}",
                endpoint=key[0],
                deployment=key[1],
            )

    async def _retry_failed(self, runtime: Runtime, wanted: Mapping[AppKey, DeployedModel]) -> None:
        """Start again, with growing pauses, what Ray gave up on: a disk may be mounted by now."""
        now_s = asyncio.get_running_loop().time()
        for app in self._apps:
            key = key_of(app)
            if not app.has_failed:
                continue
            retry = self._failed_starts.setdefault(key, _Retry(now_s + _RETRY_AFTER_S, _RETRY_AFTER_S))
            if key in wanted and now_s >= retry.at_s:
                pause_s = min(2 * retry.pause_s, _RETRY_AT_MOST_EVERY_S)
                self._failed_starts[key] = _Retry(now_s + pause_s, pause_s)
                await self._end(runtime, app)

    async def _end(self, runtime: Runtime, app: RunningApp) -> None:
        await runtime.delete(app)
        key = key_of(app)
        self._deployed_scales.pop(key, None)
        self._kept.pop(key, None)
        self._dormitory.note_stopped(self._kept)

    def _report(self, before: Iterable[Replica], after: Iterable[Replica]) -> None:
        states = {replica.id: replica.state for replica in before}
        present = set()
        for replica in after:
            present.add(replica.id)
            if states.get(replica.id) is replica.state:
                continue
            what = f"{replica.endpoint}/{replica.deployment}: replica {replica.id} is {replica.state}"
            self._events.publish(
                f"replica_{replica.state}",
                f"{what}: {replica.reason}" if replica.reason else what,
                endpoint=replica.endpoint,
                deployment=replica.deployment,
            )
        for replica in before:
            if replica.id not in present and replica.state is not ReplicaState.FAILED:
                self._events.publish(
                    "replica_gone",
                    f"{replica.endpoint}/{replica.deployment}: replica {replica.id} is gone",
                    endpoint=replica.endpoint,
                    deployment=replica.deployment,
                )


def _endpoints_touched(before: Iterable[Replica], after: Iterable[Replica]) -> set[str]:
    return {replica.endpoint for replica in set(before) ^ set(after)}
