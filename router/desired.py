"""What operators asked for, in memory: the one place that the reconciler, the operations and the API read it from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from router.domain.callers import ApiKey
from router.domain.endpoint import EndpointState
from router.domain.errors import NotFound
from router.domain.rollout import Rollout
from router.domain.routing import Shield
from router.domain.tokens import KeySet, KeySource


class Desired:
    """Endpoint name → `EndpointState`, its rollouts and its keys, exactly as the store has them.

    Only `Commits` writes the states, and only the rollout engine the rollouts and the shields, which are derived from
    them. Only `Keys` writes the keys. An endpoint that is deleted takes all of it with it. Only `KeySets` writes the
    keys of identity providers, which belong to no endpoint.
    """

    def __init__(self, states: Mapping[str, EndpointState], rollouts: Iterable[Rollout] = ()) -> None:
        """`rollouts`: oldest first."""
        self._states = dict(states)
        self._rollouts: dict[str, dict[str, Rollout]] = {}  # endpoint → id → rollout, the latest last
        self._shields: dict[str, Shield] = {}
        self._keys: dict[str, tuple[ApiKey, ...]] = {}
        self._key_sets: dict[KeySource, KeySet] = {}
        for rollout in rollouts:
            self.publish_rollout(rollout)

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
            self._rollouts.pop(name, None)
            self._shields.pop(name, None)
            self._keys.pop(name, None)

    def rollout(self, endpoint: str) -> Rollout | None:
        """The endpoint's present or last rollout."""
        return next(reversed(self._rollouts.get(endpoint, {}).values()), None)

    def rollouts(self, endpoint: str) -> tuple[Rollout, ...]:
        """All that are remembered, the latest first."""
        return tuple(reversed(self._rollouts.get(endpoint, {}).values()))

    def is_rolling(self, endpoint: str) -> bool:
        """Whether a rollout of it has not ended yet, and may move its traffic."""
        rollout = self.rollout(endpoint)
        return rollout is not None and not rollout.phase.is_terminal

    def publish_rollout(self, rollout: Rollout) -> None:
        self._rollouts.setdefault(rollout.endpoint, {})[rollout.id] = rollout

    def keys(self, endpoint: str) -> tuple[ApiKey, ...]:
        """Primary first."""
        return self._keys.get(endpoint, ())

    def publish_keys(self, endpoint: str, keys: Iterable[ApiKey]) -> None:
        self._keys[endpoint] = tuple(sorted(keys, key=lambda key: key.slot))

    def key_set(self, endpoint: str) -> str:
        """The keys that its callers' tokens must be signed with, as a JWKS; empty: not known, or it takes no tokens."""
        rules = self._states[endpoint].endpoint.jwt
        keys = self._key_sets.get(rules.keys_from) if rules else None
        return keys.content if keys else ""

    def publish_key_set(self, source: KeySource, keys: KeySet) -> None:
        self._key_sets[source] = keys

    def forget_key_set(self, source: KeySource) -> None:
        self._key_sets.pop(source, None)

    def shield(self, endpoint: str) -> Shield | None:
        return self._shields.get(endpoint)

    def set_shield(self, endpoint: str, shield: Shield | None) -> bool:
        """Whether that changed anything."""
        if self._shields.get(endpoint) == shield:
            return False
        if shield is None:
            del self._shields[endpoint]
        else:
            self._shields[endpoint] = shield
        return True
