"""A data plane and a runtime that the test drives by hand: nothing is acknowledged or becomes ready by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field

from router.decisions import app_key
from router.domain.deployment import DeployedModel
from router.domain.listening import Offer
from router.domain.routing import Address, Replica, ReplicaState, Routing, UnixAddress
from router.ports import (
    Acknowledged,
    DeployRefused,
    Outcome,
    Presence,
    ProxyStatus,
    RunningApp,
    RuntimeUnavailable,
    Unconfirmed,
)


@dataclass
class FakeEnvoy:
    """Implements `router.ports.DataPlane`. `acknowledge` and `refuse` answer whatever waits."""

    wanted: dict[str, Routing] = field(default_factory=dict)
    history: list[Routing] = field(default_factory=list)
    offers: tuple[Offer, ...] = ()
    _answers: dict[str, asyncio.Future[Outcome]] = field(default_factory=dict)

    def set_endpoint(self, routing: Routing) -> None:
        self.wanted[routing.endpoint] = routing
        self.history.append(routing)
        self._ask_again(routing.endpoint)

    def remove_endpoint(self, name: str) -> None:
        del self.wanted[name]
        self._ask_again(name)

    def set_listeners(self, offers: tuple[Offer, ...]) -> None:
        self.offers = offers
        self._ask_again("")

    async def applied(self, endpoint: str, timeout_s: float) -> Outcome:
        try:
            return await asyncio.wait_for(asyncio.shield(self._answer(endpoint)), timeout_s)
        except TimeoutError:
            return Unconfirmed("nobody answered")

    def proxies(self) -> tuple[ProxyStatus, ...]:
        return (ProxyStatus("envoy", is_up_to_date=all(answer.done() for answer in self._answers.values())),)

    def answer(self, endpoint: str, outcome: Outcome | None = None) -> None:
        answer = self._answer(endpoint)
        if not answer.done():
            answer.set_result(outcome or Acknowledged())

    def _answer(self, endpoint: str) -> asyncio.Future[Outcome]:
        return self._answers.setdefault(endpoint, asyncio.get_running_loop().create_future())

    def _ask_again(self, endpoint: str) -> None:
        self._answers.pop(endpoint, None)


@dataclass
class FakeRay:
    """Implements `router.ports.Runtime`. Replicas are what the test says they are."""

    apps: dict[tuple[str, str, str], int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    released: set[str] = field(default_factory=set)
    is_away: bool = False
    refuses: str = ""  # what it says to whatever is deployed
    failed: dict[tuple[str, str, str], str] = field(default_factory=dict)  # what it cannot start, and its words
    _present: tuple[Replica, ...] = ()
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def has(self, *replicas: Replica) -> None:
        """From now on these are the replicas."""
        self._present = replicas
        self._changed.set()
        self._changed = asyncio.Event()

    async def connect(self) -> None:
        self._must_be_here()

    async def deploy(self, deployed: DeployedModel) -> None:
        self._must_be_here()
        if self.refuses:
            raise DeployRefused(self.refuses)
        self.apps[app_key(deployed)] = deployed.spec.instance_count
        self.log.append(f"deploy {deployed.spec.name} x{deployed.spec.instance_count}")

    async def delete(self, app: RunningApp) -> None:
        self._must_be_here()
        del self.apps[(app.endpoint, app.deployment, app.generation)]
        self.failed.pop((app.endpoint, app.deployment, app.generation), None)
        self.log.append(f"delete {app.deployment}")

    async def running(self) -> tuple[RunningApp, ...]:
        self._must_be_here()
        return tuple(RunningApp(*key, self.failed.get(key, ""), has_failed=key in self.failed) for key in self.apps)

    async def leave(self) -> None:
        self.log.append("leave")

    async def release(self, replica_ids: tuple[str, ...]) -> None:
        self.released.update(replica_ids)

    async def replicas(self, known: tuple[Replica, ...]) -> AsyncIterator[tuple[Replica, ...]]:
        while True:
            self._must_be_here()
            changed = self._changed
            yield self._present
            await changed.wait()

    def _must_be_here(self) -> None:
        if self.is_away:
            raise RuntimeUnavailable("the test took it away")


@dataclass
class FakeLookout:
    """Implements `router.ports.Lookout`. Whoever is not named listens."""

    found: dict[Address, Presence] = field(default_factory=dict)
    looked: list[Address] = field(default_factory=list)

    async def look(self, address: Address) -> Presence:
        self.looked.append(address)
        return self.found.get(address, Presence.LISTENS)


@dataclass
class FakeRoom:
    """Implements `router.ports.WaitingRoom`. `ask` is a request that comes to a door."""

    arrived: dict[tuple[str, str], Callable[[tuple[str, str]], None]] = field(default_factory=dict)
    let_gone: list[tuple[tuple[str, str], str]] = field(default_factory=list)

    async def open(self, deployed: DeployedModel, arrived: Callable[[tuple[str, str]], None]) -> Address:
        self.arrived[deployed.spec.endpoint, deployed.spec.name] = arrived
        return UnixAddress(f"/waiting/{deployed.spec.endpoint}-{deployed.spec.name}")

    def let_go(self, name: tuple[str, str], reason: str) -> None:
        self.let_gone.append((name, reason))

    async def close_unused(self, used: Collection[tuple[str, str]], addresses_in_use: Collection[Address]) -> None:
        used_doors = {name for name in self.arrived if UnixAddress(f"/waiting/{name[0]}-{name[1]}") in addresses_in_use}
        self.arrived = {name: arrived for name, arrived in self.arrived.items() if name in used_doors | set(used)}

    def ask(self, endpoint: str, deployment: str) -> None:
        self.arrived[endpoint, deployment]((endpoint, deployment))


def replica_of(
    deployed: DeployedModel, number: int = 1, state: ReplicaState = ReplicaState.READY, reason: str = ""
) -> Replica:
    spec = deployed.spec
    name = f"{spec.name}-{deployed.generation}-{number}"
    return Replica(name, spec.endpoint, spec.name, deployed.generation, UnixAddress(f"/run/{name}"), state, reason)
