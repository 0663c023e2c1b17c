"""Small in-memory stand-ins for the ports of the control plane. The store passes the same contract suite as SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from router.access import Access
from router.admin_ports import (
    Addresses,
    DeploymentCondition,
    DeploymentStatus,
    EndpointStatus,
    Failed,
    Gateway,
    GatewayInfo,
    InForce,
    Logs,
    Pending,
    RayStatus,
    Settlement,
)
from router.api import Services
from router.api.oversight import Oversight
from router.commits import Commits
from router.desired import Desired
from router.domain.access import Token
from router.domain.audit import Link, Record, linked
from router.domain.callers import ApiKey, KeySlot
from router.domain.deployment import DeployedModel
from router.domain.endpoint import EndpointState
from router.domain.errors import Conflict, ModelUnavailable
from router.domain.evidence import Evidence
from router.domain.listening import GatewaySpec, Offer, Premises
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.quota import Quota
from router.domain.rollout import Announce, Rollout
from router.domain.routing import Replica
from router.domain.traffic import Traffic
from router.domain.triton_report import TritonReport
from router.domain.watching import Watched
from router.events import EventLog
from router.keys import Keys
from router.models.ports import SourceLimits, SourceUnavailable
from router.models.transfer import Transfer
from router.operations import Operations
from router.ports import Acknowledged, Outcome, ProxyStatus, Unconfirmed
from router.quotas import Quotas
from router.rollout_ports import Comparer, Entry, record_of
from tests.fake_models import MemoryDisk, ModelBench
from tests.fake_rollouts import MemoryRollouts
from tests.fake_watching import MemoryWatching
from tests.scripted_source import ScriptedSource

TOKEN = "correct-horse"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class MemoryAccess:
    """Implements `TokenStore`, `QuotaStore` and `AuditLog`, without durability."""

    def __init__(self) -> None:
        self._tokens: dict[str, Token] = {}
        self._quotas: dict[str, Quota] = {}
        self._links: list[Link] = []

    def load_tokens(self) -> tuple[Token, ...]:
        return tuple(self._tokens.values())

    def add_token(self, token: Token, record: Record) -> None:
        self._tokens[token.name] = token
        self.add([record])

    def delete_token(self, name: str, record: Record) -> None:
        del self._tokens[name]
        self.add([record])

    def load_quotas(self) -> dict[str, Quota]:
        return dict(self._quotas)

    def save_quota(self, group: str, quota: Quota, record: Record) -> None:
        self._quotas[group] = quota
        self.add([record])

    def delete_quota(self, group: str, record: Record) -> None:
        del self._quotas[group]
        self.add([record])

    def add(self, records: Collection[Record]) -> None:
        for record in records:
            self._links.append(linked(self._links[-1] if self._links else None, record))

    def lines(self, after: int, limit: int) -> tuple[Link, ...]:
        return tuple(self._links[after : after + limit])

    def last_lines(self, limit: int) -> tuple[Link, ...]:
        return tuple(self._links[-limit:])


class MemoryStore:
    """Implements `Store`, `RolloutStore`, `Outbox` and `WatchStore`, without durability."""

    def __init__(self) -> None:
        self._watched: dict[str, Watched] = {}
        self._rollouts: dict[str, tuple[Rollout, Evidence]] = {}
        self._entries: dict[tuple[str, int], Entry] = {}
        self._untold: dict[tuple[str, str, int], Entry] = {}
        self._states: dict[str, EndpointState] = {}
        self._replicas: tuple[Replica, ...] = ()
        self._in_force: dict[str, Traffic] = {}
        self._gateway = GatewaySpec()
        self.access = MemoryAccess()

    def load(self) -> dict[str, EndpointState]:
        return dict(self._states)

    def load_gateway(self) -> GatewaySpec:
        return self._gateway

    def save(
        self,
        changed: Iterable[EndpointState],
        deleted: Iterable[str],
        records: Collection[Record] = (),
        gateway: GatewaySpec | None = None,
    ) -> None:
        states = dict(self._states)
        for name in deleted:
            states.pop(name, None)
            self._in_force.pop(name, None)
            self._watched.pop(name, None)
            self._rollouts = {key: it for key, it in self._rollouts.items() if it[0].endpoint != name}
            self._entries = {key: it for key, it in self._entries.items() if it.endpoint != name}
            self._untold = {key: it for key, it in self._untold.items() if it.endpoint != name}
        for state in changed:
            stored = states.get(state.endpoint.name)
            if (stored.revision if stored else 0) != state.revision - 1:
                raise Conflict(f"endpoint {state.endpoint.name!r} is stored at another revision")
            states[state.endpoint.name] = state
        self._states = states
        self._gateway = gateway or self._gateway
        self.access.add(records)

    def load_watched(self) -> tuple[Watched, ...]:
        return tuple(self._watched[name] for name in sorted(self._watched))

    def save_watched(self, watched: Watched) -> None:
        if watched.endpoint in self._states:
            self._watched[watched.endpoint] = watched

    def load_replicas(self) -> tuple[Replica, ...]:
        return self._replicas

    def save_replicas(self, replicas: Iterable[Replica]) -> None:
        self._replicas = tuple(sorted(replicas, key=lambda replica: replica.id))

    def load_in_force(self) -> dict[str, Traffic]:
        return dict(self._in_force)

    def save_in_force(self, endpoint: str, traffic: Traffic) -> None:
        if endpoint in self._states:
            self._in_force[endpoint] = traffic

    def load_rollouts(self) -> tuple[tuple[Rollout, Evidence], ...]:
        return tuple(self._rollouts.values())

    def save_rollout(self, rollout: Rollout, evidence: Evidence, entries: Collection[Announce]) -> None:
        if rollout.endpoint not in self._states:
            return
        self._rollouts[rollout.id] = (rollout, evidence)
        of_endpoint = [key for key, (it, _) in self._rollouts.items() if it.endpoint == rollout.endpoint]
        for forgotten in of_endpoint[:-50]:
            del self._rollouts[forgotten]
        for what in entries:
            if (rollout.id, what.revision) not in self._entries:
                entry = self._entries[rollout.id, what.revision] = Entry(rollout.id, rollout.endpoint, what)
                self._untold |= {(url, rollout.id, what.revision): entry for url in rollout.policy.notify}
                self.access.add([record_of(rollout, what)])

    def trail(self, endpoint: str, limit: int) -> tuple[Entry, ...]:
        return tuple(entry for entry in self._entries.values() if entry.endpoint == endpoint)[-limit:]

    def untold(self) -> tuple[tuple[str, Entry], ...]:
        return tuple((url, entry) for (url, _, _), entry in self._untold.items())

    def settle(self, url: str, entry: Entry) -> None:
        self._untold.pop((url, entry.rollout_id, entry.what.revision), None)


@dataclass
class KnownModels:
    """Implements `ModelSource`: every reference exists, except the missing ones. `content` decides the digest."""

    missing: set[str] = field(default_factory=set)
    content: dict[str, str] = field(default_factory=dict)
    out_of_reach: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    known: dict[str, ResolvedModel] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # reference → why it may have no traffic
    looked_at: list[tuple[str, bool]] = field(default_factory=list)

    async def resolve(self, ref: ModelRef, by: str) -> ResolvedModel:
        self.asked.append(str(ref))
        await asyncio.sleep(0)
        if str(ref) in self.missing:
            raise ModelUnavailable(f"{ref}: there is no such file")
        if str(ref) in self.out_of_reach:
            raise SourceUnavailable(f"{ref}: registry.example: no route")
        if known := self.known.get(str(ref)):
            return known
        digit = self.content.get(str(ref), "a")
        return ResolvedModel(f"/models/{ref.location}", digit * 64)

    async def approve(
        self, deployed: DeployedModel, state: EndpointState | None, *, is_signature_change_allowed: bool
    ) -> None:
        self.looked_at.append((str(deployed.spec.model), is_signature_change_allowed))
        if reason := self.refused.get(str(deployed.spec.model)):
            raise ModelUnavailable(reason)


class ObedientReconciler:
    """Implements `Reconciling`: what is desired is in force at once, unless a failure or a hold says otherwise."""

    def __init__(self, desired: Desired) -> None:
        self._desired = desired
        self.told: list[str] = []
        self.failures: dict[str, str] = {}  # deployment → reason
        self.held: set[str] = set()  # endpoints whose changes do not come into force
        self.late: set[str] = set()
        self.rejections: dict[str, str] = {}  # endpoint → a proxy's words

    def endpoint_changed(self, name: str) -> None:
        self.told.append(name)

    def gateway_changed(self) -> None:
        self.told.append("the gateway")

    def comes_into_force_later(self, name: str) -> None:
        """Not at the first look, but at the next."""
        self.held.add(name)
        self.late.add(name)

    def endpoint_status(self, name: str) -> EndpointStatus:
        state = self._desired.state(name)
        deployments = tuple(self._deployment(item, state) for item in sorted(state.deployments))
        error = self.rejections.get(name, "")
        if name in self.held:
            return EndpointStatus(Traffic(), None, deployments, 0, error)
        return EndpointStatus(state.endpoint.traffic, state.endpoint.mirror, deployments, state.revision, error)

    async def status_changed(self) -> None:
        await asyncio.Event().wait()

    async def wait_listening(self, timeout_s: float) -> Settlement:
        return Failed(self.rejections[""]) if "" in self.rejections else InForce()

    async def wait_settled(self, name: str, revision: int, timeout_s: float) -> Settlement:
        if name not in self._desired.states:
            return InForce()
        status = self.endpoint_status(name)
        failed = [item for item in status.deployments if item.condition is DeploymentCondition.FAILED]
        if failed:
            return Failed(f"deployment {failed[0].name!r} failed: {failed[0].reason}")
        if name in self.held:
            if name in self.late:
                self.held.discard(name)
            await asyncio.sleep(min(timeout_s, 0.01))
            return Pending("blue: 0 of 1 replicas ready")
        return InForce()

    def _deployment(self, name: str, state: EndpointState) -> DeploymentStatus:
        wanted = state.deployments[name].spec.least_instances
        if name in self.failures:
            return DeploymentStatus(name, DeploymentCondition.FAILED, wanted, 0, self.failures[name])
        if wanted == 0:
            return DeploymentStatus(name, DeploymentCondition.STOPPED, 0, 0)
        return DeploymentStatus(name, DeploymentCondition.READY, wanted, wanted)


class MemoryKeys:
    """Implements `KeyStore`."""

    def __init__(self, log: MemoryAccess) -> None:
        self._log = log
        self._keys: dict[str, dict[KeySlot, ApiKey]] = {}

    def load(self) -> dict[str, tuple[ApiKey, ...]]:
        return {
            endpoint: tuple(slots[slot] for slot in sorted(slots)) for endpoint, slots in self._keys.items() if slots
        }

    def put(self, endpoint: str, key: ApiKey, record: Record) -> None:
        self._keys.setdefault(endpoint, {})[key.slot] = key
        self._log.add([record])

    def remove(self, endpoint: str, slot: KeySlot, record: Record) -> None:
        self._keys.get(endpoint, {}).pop(slot, None)
        self._log.add([record])


class Proxies:
    """Implements `Confirming`: all acknowledge at once, or none answers."""

    def __init__(self) -> None:
        self.are_silent = False

    async def applied(self, endpoint: str, timeout_s: float) -> Outcome:
        return Unconfirmed("no answer") if self.are_silent else Acknowledged()


class WayMaker:
    """Implements `MakesWay`: notes whom it was asked to end."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.ends: Callable[[str], None] = lambda endpoint: None

    async def make_way(self, endpoint: str, by: str) -> None:
        self.asked.append((endpoint, by))
        self.ends(endpoint)


class FixedLogs:
    """Implements `Logs`: every deployment has logged ten lines."""

    async def tail(self, endpoint: str, deployment: str, lines: int) -> list[str]:
        return [f"{endpoint}/{deployment} line {number}" for number in range(10)][-lines:]


@dataclass
class FixedTritons:
    """Implements `TritonsKnown`. `reports` are of one deployment, whichever is asked for."""

    reports: tuple[TritonReport, ...] = ()

    def of(self, endpoint: str, deployment: str) -> tuple[TritonReport, ...]:
        return self.reports


@dataclass
class FixedGateway:
    """Implements `Gateway`."""

    scoring_url: str = "http://127.0.0.1:8000"
    proxies: tuple[ProxyStatus, ...] = (ProxyStatus("envoy-1", is_up_to_date=True),)
    ray: RayStatus = field(default_factory=lambda: RayStatus(is_connected=True, address="127.0.0.1:6379"))
    offers: tuple[Offer, ...] = ()

    def info(self) -> GatewayInfo:
        addresses = Addresses(
            self.scoring_url, "127.0.0.1:8001", "http://127.0.0.1:8002/metrics", "http://127.0.0.1:8003"
        )
        return GatewayInfo("0.1.0", NOON, addresses, self.proxies, self.ray, offers=self.offers)


class Bench:
    """An `Operations` on fakes, with the fakes at hand."""

    def __init__(self, store: MemoryStore | None = None, premises: Premises | None = None) -> None:
        self.store = store or MemoryStore()
        self.desired = Desired(self.store.load(), gateway=self.store.load_gateway())
        self.models = KnownModels()
        self.reconciler = ObedientReconciler(self.desired)
        self.events = EventLog(lambda: NOON)
        self.commits = Commits(self.desired, self.store, self.reconciler, self.events)
        self.way = WayMaker()
        self.quotas = Quotas(self.store.access, self.desired, self.events)
        self.oversight = Oversight(Access(TOKEN, self.store.access, lambda: NOON), self.quotas, self.store.access)
        self.operations = Operations(
            self.commits, self.models, self.reconciler, self.way, self.quotas, premises or Premises()
        )
        self.source = ScriptedSource({"m.onnx": b"graph"})
        self.pulled = ModelBench(self.source, self.desired, self.events, lambda: NOON)
        self.proxies = Proxies()
        self.key_store = MemoryKeys(self.store.access)
        self.keys = Keys(self.commits, self.key_store, self.reconciler, self.proxies)
        self.rollouts = MemoryRollouts(self.desired, self.store, NOON)
        self.disk = MemoryDisk(self.source.files)
        self.transfer = Transfer(
            self.pulled.pulling,
            self.pulled.catalogue,
            self.disk,
            SourceLimits(max_files=10, max_bytes=10**6),
        )
        self.watching = MemoryWatching(self.desired, NOON)
        self.tritons = FixedTritons()
        self.way.ends = lambda endpoint: self.rollouts.end(endpoint, self.way.asked[-1][1])

    def services(self, gateway: Gateway, logs: Logs, comparer: Comparer) -> Services:
        """For `create_app`."""
        return Services(
            operations=self.operations,
            rollouts=self.rollouts,
            comparer=comparer,
            catalogue=self.pulled.catalogue,
            gateway=gateway,
            logs=logs,
            oversight=self.oversight,
            watching=self.watching,
            transfer=self.transfer,
            keys=self.keys,
            tritons=self.tritons,
        )
