"""A tiny model of Envoy as an xDS client: what it holds, asks for and accepts. It keeps its own books."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from router.xds.names import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SCOPE, WILDCARD_TYPES, Key
from router.xds.resources import Resource
from router.xds.stream import Request, Response

# What Envoy asks for by name because it holds something else: a cluster's endpoints, a scope's routes.
_FOLLOWS = {CLUSTER: ENDPOINTS, SCOPE: ROUTES}


@dataclass
class ModelEnvoy:
    """`is_bad` decides which resources it rejects. A response with a bad resource is refused, its good ones are taken,

    as Envoy does. `broken` lists what a real Envoy would have answered 503 for.
    """

    is_bad: Callable[[Resource], bool] = lambda _: False
    held: dict[Key, Resource] = field(default_factory=dict)
    asked: dict[str, set[str]] = field(default_factory=dict)
    warming: set[str] = field(default_factory=set)  # clusters that wait for endpoints
    active: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    received: list[Response] = field(default_factory=list)

    def connect(self) -> list[Request]:
        """The first requests of a stream: everything it holds and asks for, type by type."""
        requests = []
        # Envoy waits 15 s for the endpoints of a warming cluster, then goes on with what it knows.
        in_time = {name for name in self.warming if Key(ENDPOINTS, name) in self.held}
        self.active |= in_time
        self.warming -= in_time
        for type_url in (CLUSTER, ENDPOINTS, LISTENER, SCOPE, ROUTES):
            names = tuple(sorted(self.asked.get(type_url, ())))
            if type_url in WILDCARD_TYPES or names:
                versions = {key.name: one.version for key, one in self.held.items() if key.type_url == type_url}
                requests.append(Request(type_url, subscribe=names, initial_versions=versions))
        return requests

    def receive(self, response: Response) -> list[Request]:
        """Its answer, and the subscriptions that change with what it took."""
        self.received.append(response)
        errors = []
        before = {type_url: set(names) for type_url, names in self.asked.items()}
        for resource in response.resources:
            if not self._asks_for(resource.key):
                continue  # it was on its way when this stopped asking for it: Envoy does not even decode it
            if self.is_bad(resource):
                errors.append(f"{resource.key.name} is bad")
            else:
                self._take(resource)
        for name in response.removed:
            self._drop(Key(response.type_url, name))
        answer = Request(response.type_url, nonce=response.nonce, error="; ".join(errors) or None)
        return [answer, *self._subscriptions(before)]

    def _asks_for(self, key: Key) -> bool:
        return key.type_url in WILDCARD_TYPES or key.name in self.asked.get(key.type_url, ())

    def _subscriptions(self, before: dict[str, set[str]]) -> list[Request]:
        requests = []
        for type_url in _FOLLOWS.values():
            old, new = before.get(type_url, set()), self.asked.get(type_url, set())
            if old != new:
                requests.append(
                    Request(type_url, subscribe=tuple(sorted(new - old)), unsubscribe=tuple(sorted(old - new)))
                )
        return requests

    def _take(self, resource: Resource) -> None:
        key, name = resource.key, resource.key.name
        if key.type_url == CLUSTER and self.held.get(key) != resource:
            self.warming.add(name)
        if key.type_url == ENDPOINTS and name in self.warming:
            self.warming.discard(name)
            self.active.add(name)
        if key.type_url == ROUTES:
            self._check(resource, resource.needs)
        self.held[key] = resource
        for kept in resource.keeps:
            self.asked.setdefault(kept.type_url, set()).add(kept.name)

    def _drop(self, key: Key) -> None:
        resource = self.held.pop(key, None)
        if key.type_url == CLUSTER:
            self.active.discard(key.name)
            self.warming.discard(key.name)
            for other in self.held.values():
                if other.key.type_url == ROUTES and key in other.needs:
                    self.broken.append(f"{key.name} was removed under {other.key.name}")
        if resource is not None:
            for kept in resource.keeps:
                self.asked.get(kept.type_url, set()).discard(kept.name)
                self.held.pop(kept, None)

    def _check(self, routes: Resource, needs: frozenset[Key]) -> None:
        for need in needs:
            if need.type_url == CLUSTER and need.name not in self.active:
                self.broken.append(f"{routes.key.name} came before {need.name}")
