"""What the control plane's core needs from the outside. The consumer owns these interfaces, adapters implement them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from router.domain.audit import Link, Record
from router.domain.deployment import DeployedModel
from router.domain.endpoint import EndpointState
from router.domain.errors import CrossfadeError
from router.domain.listening import GatewaySpec, Offer
from router.domain.measurement import Totals
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.quota import Quota
from router.domain.routing import Address, Replica, Routing
from router.domain.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Every connected Envoy has accepted the latest configuration."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An Envoy refused it; its last good configuration stays in force. `reason` is Envoy's own text."""

    proxy: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """Nobody answered in time, or no Envoy is connected."""

    reason: str


Outcome = Acknowledged | Rejected | Unconfirmed


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """One connected Envoy: its node id, whether it has everything, and what it refused (resource name → reason)."""

    proxy: str
    is_up_to_date: bool
    rejected: tuple[tuple[str, str], ...] = ()


class DataPlane(Protocol):
    """Envoy, as the reconciler sees it. Implemented by router/xds/server.py."""

    def set_endpoint(self, routing: Routing) -> None:
        """Make this the wanted configuration of one endpoint. Idempotent; returns before Envoy has it."""

    def remove_endpoint(self, name: str) -> None: ...

    def set_listeners(self, offers: tuple[Offer, ...]) -> None:
        """Offer scoring through these, and no others. Idempotent; returns before Envoy has it."""

    async def applied(self, endpoint: str, timeout_s: float) -> Outcome:
        """Wait until every connected Envoy has answered the endpoint's latest configuration (or its removal).

        `endpoint` empty: what is not any endpoint's, the listeners above all.
        """

    def proxies(self) -> tuple[ProxyStatus, ...]: ...


class Meter(Protocol):
    """What Envoy counts, as the rollouts see it."""

    def totals(self, endpoint: str) -> Mapping[str, Totals]:
        """Deployment → what it was asked and did since this process began to count, over all Envoys.

        Never shrinks while the process lives: an Envoy that starts again counts from zero, and is added.
        """

    async def reported(self, timeout_s: float) -> bool:
        """Wait for the next report of any Envoy. False when none came in time."""


class Store(Protocol):
    """Durable state. Every method is one transaction."""

    def load(self) -> dict[str, EndpointState]: ...

    def load_gateway(self) -> GatewaySpec: ...

    def save(
        self,
        changed: Iterable[EndpointState],
        deleted: Iterable[str],
        records: Collection[Record] = (),
        gateway: GatewaySpec | None = None,
    ) -> None:
        """Write all or nothing. `changed` carry their new revision; `Conflict` unless the stored one is one less.

        `records`: the lines of the audit log that tell of it. `gateway` None: as it is.
        """

    def load_replicas(self) -> tuple[Replica, ...]: ...

    def save_replicas(self, replicas: Iterable[Replica]) -> None:
        """Remember who was alive, so that a restart knows the data plane before Ray answers."""

    def load_in_force(self) -> dict[str, Traffic]:
        """The traffic that Envoy last acknowledged, by endpoint."""

    def save_in_force(self, endpoint: str, traffic: Traffic) -> None:
        """Remember it, so that a restart falls back to what worked and not to what was asked for."""


class AuditLog(Protocol):
    """The lines of the audit log, oldest first. Every method is one transaction; raises `StoreFailed`."""

    def add(self, records: Collection[Record]) -> None:
        """For what changes nothing that is stored; other lines are written together with what they tell of."""

    def lines(self, after: int, limit: int) -> tuple[Link, ...]:
        """Those with a greater number, at most `limit`."""

    def last_lines(self, limit: int) -> tuple[Link, ...]: ...


class QuotaStore(Protocol):
    """Durable quotas by group. Every method is one transaction with its line in the audit log; raises `StoreFailed`."""

    def load_quotas(self) -> dict[str, Quota]: ...

    def save_quota(self, group: str, quota: Quota, record: Record) -> None: ...

    def delete_quota(self, group: str, record: Record) -> None: ...


@dataclass(frozen=True, slots=True)
class RunningApp:
    """The replicas of one generation of one deployment, as the runtime knows them.

    `trouble` is empty when all is well.
    """

    endpoint: str
    deployment: str
    generation: str
    trouble: str = ""
    has_failed: bool = False  # the runtime gave up on it: only a new start can help
    replicas_wanted: int = 0  # how many the runtime keeps: the instance count, or what the load needs


class RuntimeUnavailable(CrossfadeError):
    """The Ray cluster cannot be reached, or did not do what it was asked."""


class DeployRefused(CrossfadeError):
    """The runtime does not take this deployment; others are not affected."""


class Runtime(Protocol):
    """Ray Serve, as the reconciler sees it. Every call may be repeated; each raises `RuntimeUnavailable` on failure."""

    async def connect(self) -> None:
        """Join the Ray cluster and start Ray Serve when nobody has."""

    async def deploy(self, deployed: DeployedModel) -> None:
        """Start or rescale the replicas of the deployment's present generation; returns before they are ready.

        Raises `DeployRefused` when the runtime refuses this deployment for good.
        """

    async def delete(self, app: RunningApp) -> None:
        """Drain and end one generation's replicas; returns before they are gone."""

    async def running(self) -> tuple[RunningApp, ...]: ...

    async def leave(self) -> None:
        """The gateway ends. What still runs for it goes on, to be found when it starts again; where nothing does,
        nothing of it stays in the cluster."""

    async def release(self, replica_ids: tuple[str, ...]) -> None:
        """Tell draining replicas that nobody sends to them any more."""

    def replicas(self, known: tuple[Replica, ...]) -> AsyncIterator[tuple[Replica, ...]]:
        """Yields the complete set of replicas, at once and after every change. `known` is what was known so far."""


class Presence(Enum):
    """Whether a replica can be there."""

    LISTENS = auto()
    GONE = auto()  # nobody listens at its address
    UNKNOWN = auto()  # no answer in time, or too busy to say: it may well live


class Lookout(Protocol):
    """Sees whether anybody listens at an address, without asking for anything."""

    async def look(self, address: Address) -> Presence:
        """Soon. Never raises."""


class WaitingRoom(Protocol):
    """Where requests to a deployment that sleeps wait. A name is an endpoint and a deployment of it."""

    async def open(self, deployed: DeployedModel, arrived: Callable[[tuple[str, str]], None]) -> Address:
        """Hold what comes for this deployment from now on; `arrived` is called for every request."""

    def let_go(self, name: tuple[str, str], reason: str) -> None:
        """Send on whoever waits; with a `reason`, refuse them."""

    async def close_unused(self, used: Collection[tuple[str, str]], addresses_in_use: Collection[Address]) -> None:
        """Close what is neither `used` nor at an address that any Envoy may still send to."""


class ModelSource(Protocol):
    """Turns a reference into an immutable model on this machine, and says who may serve it."""

    async def resolve(self, ref: ModelRef, by: str) -> ResolvedModel:
        """`by`: who asks, for the records. Raises `ModelUnavailable` when there is no such model, or none to be had."""

    async def approve(
        self, deployed: DeployedModel, state: EndpointState | None, *, is_signature_change_allowed: bool
    ) -> None:
        """Check the model before it gets traffic. `state`: the endpoint as it is; None when it is to be created.

        Raises `ModelUnavailable`. Takes seconds.
        """
