"""Sleep: which deployments have no replica because nobody asks, and how they come back. Pure bookkeeping.

    awake ──(all idle)──► asleep ──(a request)──► waking ──(a replica is ready)──► awake
                                                    └──────(it cannot start)─────► awake, and failed

From falling asleep until it is awake again, a stand-in replica at the waiting room's address takes the place of real
ones, so that everything else (routing, traffic, what survives a restart) needs to know nothing of it. Nothing is
started again before the old replicas have been told to stop: Ray knows both by the same name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from router.decisions import AppKey, app_key, failure_of
from router.domain.deployment import DeployedModel
from router.domain.endpoint import EndpointState
from router.domain.routing import Address, Replica, ReplicaState

Name = tuple[str, str]  # endpoint, deployment
ReplicasOf = Mapping[str, Collection[Replica]]  # endpoint → its real replicas


@dataclass(frozen=True, slots=True)
class _Sleep:
    """`before`: the replicas of the time before, which do not count when it wakes up."""

    stand_in: Replica
    before: frozenset[str]
    is_stopped: bool = False  # Ray has been told to stop the replicas, or has none
    is_woken: bool = False

    @property
    def key(self) -> AppKey:
        return self.stand_in.endpoint, self.stand_in.deployment, self.stand_in.generation


class Sleeps:
    """Belongs to the dormitory."""

    def __init__(self) -> None:
        self._sleeps: dict[Name, _Sleep] = {}

    @property
    def names(self) -> frozenset[Name]:
        return frozenset(self._sleeps)

    @property
    def stand_ins(self) -> tuple[Replica, ...]:
        return tuple(sleep.stand_in for _, sleep in sorted(self._sleeps.items()))

    @property
    def asleep(self) -> frozenset[AppKey]:
        """The applications that must not run now."""
        return frozenset(sleep.key for sleep in self._sleeps.values() if not (sleep.is_woken and sleep.is_stopped))

    def begin(self, deployed: DeployedModel, replicas: Iterable[Replica], room: Address) -> None:
        """It falls asleep. `replicas` are those that it has so far."""
        endpoint, name, generation = app_key(deployed)
        stand_in = Replica(f"asleep~{endpoint}~{name}", endpoint, name, generation, room, ReplicaState.ASLEEP)
        self._sleeps[endpoint, name] = _Sleep(stand_in, frozenset(replica.id for replica in replicas))

    def restore(self, stand_in: Replica) -> None:
        """It slept when the control plane ended."""
        self._sleeps[stand_in.endpoint, stand_in.deployment] = _Sleep(stand_in, frozenset())

    def wake(self, name: Name) -> bool:
        """Somebody asks. False when that is no news."""
        sleep = self._sleeps.get(name)
        if sleep is None or sleep.is_woken:
            return False
        self._sleeps[name] = replace(sleep, is_woken=True)
        return True

    def note_stopped(self, running: Collection[AppKey]) -> None:
        """`running`: the applications that Ray has and was not told to end."""
        for name, sleep in self._sleeps.items():
            if not sleep.is_stopped and sleep.key not in running:
                self._sleeps[name] = replace(sleep, is_stopped=True)

    def end_finished(self, states: Mapping[str, EndpointState], replicas_of: ReplicasOf) -> None:
        """End every sleep that is over: a replica is ready, cannot become ready, or nobody wants it any more."""
        self._sleeps = {name: sleep for name, sleep in self._sleeps.items() if not _is_over(sleep, states, replicas_of)}


def _is_over(sleep: _Sleep, states: Mapping[str, EndpointState], replicas_of: ReplicasOf) -> bool:
    endpoint, name, generation = sleep.key
    deployed = states[endpoint].deployments.get(name) if endpoint in states else None
    if deployed is None or deployed.spec.least_instances == 0:
        return True
    if deployed.generation == generation and not sleep.is_woken:
        return False
    replicas = [replica for replica in replicas_of.get(endpoint, ()) if replica.id not in sleep.before]
    return bool(_ready(deployed, replicas) or failure_of(deployed, replicas))


def falling_asleep(
    states: Iterable[EndpointState], replicas_of: ReplicasOf, asleep: Collection[Name]
) -> list[DeployedModel]:
    """The deployments that may sleep, are awake, and have nothing but idle replicas."""
    return [
        deployed
        for state in states
        for name, deployed in sorted(state.deployments.items())
        if deployed.spec.can_sleep
        and (state.endpoint.name, name) not in asleep
        and (ready := _ready(deployed, replicas_of.get(state.endpoint.name, ())))
        and all(replica.is_idle for replica in ready)
    ]


def _ready(deployed: DeployedModel, replicas: Iterable[Replica]) -> list[Replica]:
    key = app_key(deployed)
    return [
        replica
        for replica in replicas
        if (replica.endpoint, replica.deployment, replica.generation) == key and replica.state is ReplicaState.READY
    ]
