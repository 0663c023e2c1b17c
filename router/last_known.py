"""What a restart begins with: the traffic that was in force, and the replicas that were there."""

from __future__ import annotations

from collections.abc import Callable

from router.domain.errors import StoreFailed
from router.domain.routing import Replica
from router.domain.traffic import Traffic
from router.events import EventLog
from router.ports import Store


class LastKnown:
    """What is saved here only makes a restart smoother: a full disk must not end what runs."""

    def __init__(self, store: Store, events: EventLog) -> None:
        self._store = store
        self._events = events

    def traffic(self) -> dict[str, Traffic]:
        """By endpoint."""
        return self._store.load_in_force()

    def replicas(self) -> tuple[Replica, ...]:
        return self._store.load_replicas()

    def save_traffic(self, endpoint: str, traffic: Traffic) -> None:
        self._save(lambda: self._store.save_in_force(endpoint, traffic))

    def save_replicas(self, replicas: tuple[Replica, ...]) -> None:
        self._save(lambda: self._store.save_replicas(replicas))

    def _save(self, save: Callable[[], None]) -> None:
        try:
            save()
        except StoreFailed as error:
            self._events.publish("state_not_saved", f"cannot save what is in force: {error}")
