"""What a deployment that was deleted leaves behind, and is not to meet when it is asked for again.

The same spec gives the same generation, so its last failure would be taken for that of the new one. No clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from router.decisions import AppKey, app_key
from router.domain.endpoint import EndpointState
from router.domain.routing import Replica, ReplicaState
from router.ports import RunningApp


def key_of(app: RunningApp) -> AppKey:
    return app.endpoint, app.deployment, app.generation


class Departed:
    def __init__(self) -> None:
        self._asked: dict[str, frozenset[AppKey]] = {}  # by endpoint
        self._apps: set[AppKey] = set()
        self._dead: frozenset[str] = frozenset()

    def note(self, name: str, states: Mapping[str, EndpointState], running: Iterable[Replica]) -> frozenset[AppKey]:
        """The endpoint was changed, or deleted. Returns what is no longer asked for."""
        state = states.get(name)
        asked = frozenset(map(app_key, state.deployments.values())) if state is not None else frozenset()
        left = self._asked.pop(name, frozenset()) - asked
        if asked:
            self._asked[name] = asked
        self._apps |= left
        self._dead |= {
            replica.id
            for replica in running
            if replica.state is ReplicaState.FAILED
            and (replica.endpoint, replica.deployment, replica.generation) in left
        }
        return left

    def without_dead(self, replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
        """The directory forgets last words a little later; what it still tells, nobody is to hear."""
        return tuple(replica for replica in replicas if replica.id not in self._dead) if self._dead else replicas

    def note_told(self, replicas: tuple[Replica, ...]) -> None:
        """These are all that the directory tells."""
        self._dead &= {replica.id for replica in replicas}

    def take_failed(self, apps: Iterable[RunningApp], wanted: Collection[AppKey]) -> list[RunningApp]:
        """Those that can start no more, were no longer asked for, and are again: they are to begin anew."""
        again, self._apps = self._apps & set(wanted), set()
        return [app for app in apps if app.has_failed and key_of(app) in again]
