"""What operators asked for, in memory: the one place that the reconciler, the operations and the API read it from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from router.domain.endpoint import EndpointState
from router.domain.errors import NotFound


class Desired:
    """Endpoint name → `EndpointState`, exactly as the store has it. Only `Operations` writes to it."""

    def __init__(self, states: Mapping[str, EndpointState]) -> None:
        self._states = dict(states)

    @property
    def states(self) -> Mapping[str, EndpointState]:
        """A live, read-only view."""
        return MappingProxyType(self._states)

    def state(self, name: str) -> EndpointState:
        """Raises `NotFound` naming the endpoints that exist."""
        try:
            return self._states[name]
        except KeyError:
            raise NotFound("endpoint", name, tuple(sorted(self._states))) from None

    def publish(self, changed: Iterable[EndpointState], deleted: Iterable[str]) -> None:
        """Take over what the store has accepted."""
        for state in changed:
            self._states[state.endpoint.name] = state
        for name in deleted:
            del self._states[name]
