"""Routing: what the data plane must know about an endpoint, derived from what was asked for and what is alive."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from router.domain.callers import Access, Anyone, ApiKey, access_of
from router.domain.deployment import DeployedModel
from router.domain.endpoint import EndpointState
from router.domain.limits import NO_LIMITS, Limits
from router.domain.listening import Clients
from router.domain.sticky import Sticky
from router.domain.traffic import Mirror, Traffic
from router.domain.triton import RunningTriton
from router.domain.triton_managed import ManagedModel
from router.domain.triton_tls import TritonTls
from router.domain.triton_token import TritonToken


@dataclass(frozen=True, slots=True, order=True)
class UnixAddress:
    """A replica on the same host as Envoy."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True, order=True)
class TcpAddress:
    """A replica on a private address."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True, order=True)
class TritonAddress:
    """A Triton, which has a port for each protocol."""

    ip: str
    http_port: int
    grpc_port: int

    def __str__(self) -> str:
        return f"triton:{self.ip}:{self.http_port}:{self.grpc_port}"


Address = UnixAddress | TcpAddress | TritonAddress


class ReplicaState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    TROUBLED = "troubled"  # it was ready, and what it asks for answers does not answer at present
    DRAINING = "draining"
    FAILED = "failed"
    ASLEEP = "asleep"  # nobody runs: the waiting room stands in, and holds requests until somebody does


@dataclass(frozen=True, slots=True)
class Replica:
    """One process serving one deployment, as it announced itself; or a Triton, as it was found.

    `generation` is `DeployedModel.generation` of what it was started with.
    """

    id: str
    endpoint: str
    deployment: str
    generation: str
    address: Address
    state: ReplicaState
    reason: str = ""  # why it failed or is not ready yet, in words for the operator
    is_idle: bool = False  # nobody has asked for its deployment's idle_timeout_s


@dataclass(frozen=True, slots=True)
class Upstream:
    """One deployment as the data plane knows it."""

    deployment: str
    model_version: str
    addresses: tuple[Address, ...]  # sorted; ready replicas only, or the waiting room's, or all Tritons
    request_timeout_ms: int
    max_requests: int  # in flight, over all replicas
    max_request_bytes: int
    is_held: bool = False  # the one address is the waiting room's
    triton: RunningTriton | ManagedModel | None = None  # what the addresses are asked for; None: replicas of ours
    tls: TritonTls | None = None  # how the addresses are reached; None: in plain text
    keeps_sequences: bool = False  # requests of the same sequence go to the same address
    token: TritonToken | None = None  # what the addresses want to see

    @property
    def is_grpc_only(self) -> bool:
        """Whether it has no port for HTTP."""
        return self.tls is not None and not self.tls.has_http

    @property
    def ports(self) -> tuple[bool, ...]:
        """Of each port that requests go to, whether it is for gRPC alone."""
        if self.triton is None:
            return (False,)
        return (True,) if self.is_grpc_only else (False, True)


@dataclass(frozen=True, slots=True)
class Shield:
    """A request that goes to `candidate` by weight and fails there is answered by `stable`; the failure still counts.

    Requests that are pinned to the candidate are not shielded: whoever pins wants that one's answer. A request that is
    under way when the shield goes away may lose it: keep the shield for the length of a request after the candidate's
    last live traffic.
    """

    candidate: str
    stable: str

    def __post_init__(self) -> None:
        if self.candidate == self.stable:
            raise ValueError(f"{self.candidate!r} cannot shield itself")


@dataclass(frozen=True, slots=True)
class Routing:
    """One endpoint as the data plane knows it. `upstreams` are sorted by deployment.

    `shield` names two of them. `group` counts for the listeners that show groups.
    """

    endpoint: str
    traffic: Traffic
    mirror: Mirror | None
    upstreams: tuple[Upstream, ...]
    shield: Shield | None = None
    sticky: Sticky | None = None
    access: Access = field(default_factory=Anyone)
    limits: Limits = NO_LIMITS
    group: str = ""
    clients: Clients = field(default_factory=Clients)

    @property
    def ways(self) -> tuple[bool, ...]:
        """Whether it is gRPC, of each way that requests take: one for all, unless a deployment tells them apart."""
        return (True, False) if self.has_triton else (False,)

    @property
    def has_triton(self) -> bool:
        return any(upstream.triton is not None for upstream in self.upstreams)

    def upstream(self, deployment: str) -> Upstream:
        """Raises `KeyError`."""
        return {upstream.deployment: upstream for upstream in self.upstreams}[deployment]


def serving_replicas(deployed: DeployedModel, replicas: Iterable[Replica]) -> tuple[Replica, ...]:
    """The ready replicas that should answer for a deployment, or what stands in for them while it sleeps.

    Those of its present generation; while none of them is ready, those of an older one, so that changing a
    deployment in place never leaves it empty.
    """
    spec = deployed.spec
    ready, asleep = [], []
    for replica in replicas:
        if replica.endpoint == spec.endpoint and replica.deployment == spec.name:
            if replica.state is ReplicaState.READY:
                ready.append(replica)
            elif replica.state is ReplicaState.ASLEEP:
                asleep.append(replica)
    for group in (asleep, ready):
        if present := [replica for replica in group if replica.generation == deployed.generation]:
            return tuple(sorted(present, key=lambda replica: replica.id))
    return tuple(sorted(ready or asleep, key=lambda replica: replica.id))


def is_asleep(deployed: DeployedModel, replicas: Iterable[Replica]) -> bool:
    """Whether the waiting room stands in for the deployment."""
    return any(replica.state is ReplicaState.ASLEEP for replica in serving_replicas(deployed, replicas))


def routing_for(
    state: EndpointState,
    traffic: Traffic,
    replicas: Iterable[Replica],
    shield: Shield | None = None,
    keys: Iterable[ApiKey] = (),
    key_set: str = "",
) -> Routing:
    """The routing that puts `traffic` in force over the replicas that are ready.

    A shield that names a deployment that is gone is left out. `keys` are those of the endpoint, `key_set` those of its
    identity provider.
    """
    of_endpoint = [replica for replica in replicas if replica.endpoint == state.endpoint.name]
    upstreams = tuple(_upstream(deployed, of_endpoint) for _, deployed in sorted(state.deployments.items()))
    # A mirror that cannot answer would only cost Envoy failed requests.
    alive = {upstream.deployment for upstream in upstreams if upstream.addresses}
    mirror = state.endpoint.mirror
    return Routing(
        endpoint=state.endpoint.name,
        traffic=traffic,
        mirror=mirror if mirror and mirror.deployment in alive else None,
        upstreams=upstreams,
        shield=shield if shield and {shield.candidate, shield.stable} <= state.deployments.keys() else None,
        sticky=state.endpoint.sticky,
        access=access_of(state.endpoint, keys, key_set),
        limits=state.endpoint.limits,
        group=state.endpoint.group,
        clients=state.endpoint.clients,
    )


def _upstream(deployed: DeployedModel, replicas: Collection[Replica]) -> Upstream:
    spec, serving = deployed.spec, serving_replicas(deployed, replicas)
    is_held = any(replica.state is ReplicaState.ASLEEP for replica in serving)
    start_timeout_s = spec.scale_settings.start_timeout_s if is_held and spec.scale_settings else 0
    addresses = tuple(sorted({replica.address for replica in _balanced(deployed, serving, replicas)}, key=str))
    asked = _asked_of_triton(deployed, addresses)
    running = asked if isinstance(asked, RunningTriton) else None
    # For the most replicas that there may be: Envoy builds the cluster anew when it changes. Each replica has its own
    # bound as well.
    can_hold = spec.request_settings.max_concurrent_requests_per_instance * max(1, spec.most_answering)
    return Upstream(
        deployment=spec.name,
        model_version=deployed.model_version,
        addresses=addresses,
        request_timeout_ms=spec.request_settings.request_timeout_ms + 1000 * start_timeout_s,
        max_requests=can_hold,
        max_request_bytes=spec.request_settings.max_request_bytes,
        is_held=is_held,
        triton=asked,
        tls=running.tls if running else None,
        keeps_sequences=running is not None and running.has_sequences,
        token=running.restricted if running else None,
    )


def _asked_of_triton(deployed: DeployedModel, addresses: tuple[Address, ...]) -> RunningTriton | ManagedModel | None:
    """What is behind `addresses`, which may still be of before the deployment was given to Tritons, or taken from them:
    replicas of ours go on being asked as such, and Tritons of ours for the one model that they have."""
    of_tritons = [isinstance(address, TritonAddress) for address in addresses]
    if deployed.direct is None:
        is_asked = any(of_tritons) if addresses else deployed.spec.managed is not None
        return ManagedModel(deployed.spec.endpoint) if is_asked else None
    return deployed.direct if all(of_tritons) else None


def _balanced(
    deployed: DeployedModel, serving: tuple[Replica, ...], replicas: Collection[Replica]
) -> Iterable[Replica]:
    """Whom Envoy balances over: replicas that are ready; but every Triton that there is.

    Replicas announce what they are, while Tritons are asked, from here, where the way to them may be another than
    Envoy's, or from an overloaded network that calls all of them dead at once. So Envoy asks them as well, by its own
    health checks, and heeds what it is told itself.
    """
    if deployed.direct is None:
        return serving
    generation = serving[0].generation if serving else deployed.generation
    return (
        replica
        for replica in replicas
        if replica.deployment == deployed.spec.name
        and replica.generation == generation
        and replica.state is not ReplicaState.FAILED  # nobody knows where it is
    )
