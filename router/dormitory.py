"""Puts deployments to sleep when nobody asks, and wakes them when somebody does: `Sleeps` with the waiting room, and
the words about it. The reconciler ends and starts the replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from router.decisions import AppKey, failure_of, replicas_by_endpoint
from router.desired import Desired
from router.domain.deployment import DeployedModel
from router.domain.routing import Address, Replica, ReplicaState, Routing
from router.events import EventLog
from router.ports import WaitingRoom
from router.sleeps import Name, Sleeps, falling_asleep


class Dormitory:
    """`woken` is called when a sleeping deployment must be started."""

    def __init__(
        self, desired: Desired, waiting_room: WaitingRoom, events: EventLog, woken: Callable[[], None]
    ) -> None:
        self._desired = desired
        self._waiting_room = waiting_room
        self._events = events
        self._woken = woken
        self._sleeps = Sleeps()

    @property
    def asleep(self) -> frozenset[AppKey]:
        """The applications that must not run now."""
        return self._sleeps.asleep

    async def restore(self, known: Iterable[Replica]) -> None:
        """Who slept when the control plane ended sleeps on."""
        for stand_in in known:
            deployed = self._sleeper(stand_in)
            if deployed is not None:
                address = await self._waiting_room.open(deployed, self._arrived)
                self._sleeps.restore(replace(stand_in, address=address))

    async def fall_asleep(self, running: Iterable[Replica]) -> None:
        """The waiting room stands in for deployments that nobody asks. Their replicas may end when Envoy knows."""
        replicas = replicas_by_endpoint(running)
        states = self._desired.states.values()
        judged = {name for state in states for name in self._judged(state.endpoint.name)}
        for name in sorted(judged & self._sleeps.names):
            self._wake(name, "a rollout judges it, it wakes up")
        for deployed in falling_asleep(states, replicas, self._sleeps.names | judged):
            room = await self._waiting_room.open(deployed, self._arrived)
            self._sleeps.begin(deployed, replicas[deployed.spec.endpoint], room)
            self._tell(
                "deployment_asleep", (deployed.spec.endpoint, deployed.spec.name), "nobody asks, it falls asleep"
            )

    def with_stand_ins(self, running: Iterable[Replica]) -> tuple[Replica, ...]:
        """The replicas that run, and those that stand in for the ones of sleeping deployments."""
        replicas = tuple(running)
        self._sleeps.end_finished(self._desired.states, replicas_by_endpoint(replicas))
        return (*replicas, *self._sleeps.stand_ins)

    def note_stopped(self, running: Iterable[AppKey]) -> None:
        """`running`: the applications that Ray has and was not told to end."""
        self._sleeps.note_stopped(frozenset(running))

    def let_go(self, routing: Routing, replicas: Iterable[Replica]) -> None:
        """Envoy has acknowledged who answers now: whoever waits for one of them goes there.

        But nobody leaves a deployment that fell asleep after Envoy was told.
        """
        for upstream in routing.upstreams:
            name = (routing.endpoint, upstream.deployment)
            if not upstream.is_held and name not in self._sleeps.names:
                self._waiting_room.let_go(name, "" if upstream.addresses else self._why_nobody(name, replicas))

    async def close_unused(self, addresses_in_use: frozenset[Address]) -> None:
        await self._waiting_room.close_unused(self._sleeps.names, addresses_in_use)

    def _arrived(self, name: Name) -> None:
        self._wake(name, "somebody asks, it wakes up")

    def _wake(self, name: Name, words: str) -> None:
        if self._sleeps.wake(name):
            self._tell("deployment_woken", name, words)
            self._woken()

    def _judged(self, endpoint: str) -> tuple[Name, ...]:
        """Both sides of a rollout that is not decided stay awake, so that nobody is judged by how it wakes up: more
        requests at once than the waiting room holds would be the candidate's failures.
        """
        rollout = self._desired.rollout(endpoint)
        if rollout is None or rollout.phase.is_decided:
            return ()
        return ((endpoint, rollout.stable), (endpoint, rollout.candidate))

    def _sleeper(self, stand_in: Replica) -> DeployedModel | None:
        """The deployment that it stands in for, if it does and that may sleep."""
        deployed = self._deployed((stand_in.endpoint, stand_in.deployment))
        is_asleep = stand_in.state is ReplicaState.ASLEEP
        return deployed if is_asleep and deployed is not None and deployed.spec.can_sleep else None

    def _why_nobody(self, name: Name, replicas: Iterable[Replica]) -> str:
        deployed = self._deployed(name)
        failure = failure_of(deployed, replicas) if deployed is not None else ""
        return f"the model cannot be started: {failure or 'it was stopped'}"

    def _deployed(self, name: Name) -> DeployedModel | None:
        state = self._desired.states.get(name[0])
        return state.deployments.get(name[1]) if state is not None else None

    def _tell(self, kind: str, name: Name, words: str) -> None:
        endpoint, deployment = name
        self._events.publish(kind, f"{endpoint}/{deployment}: {words}", endpoint=endpoint, deployment=deployment)
