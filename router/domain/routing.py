"""Routing: what the data plane must know about an endpoint, derived from what was asked for and what is alive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from router.domain.endpoint import DeployedModel, EndpointState
from router.domain.sticky import Sticky
from router.domain.traffic import Mirror, Traffic


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


Address = UnixAddress | TcpAddress


class ReplicaState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Replica:
    """One process serving one deployment, as it announced itself.

    `generation` is `DeployedModel.generation` of what it was started with.
    """

    id: str
    endpoint: str
    deployment: str
    generation: str
    address: Address
    state: ReplicaState
    reason: str = ""  # why it failed, in words for the operator


@dataclass(frozen=True, slots=True)
class Upstream:
    """One deployment as the data plane knows it."""

    deployment: str
    model_version: str
    addresses: tuple[Address, ...]  # sorted; ready replicas only
    request_timeout_ms: int
    max_requests: int  # in flight, over all replicas
    max_request_bytes: int


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

    `shield` names two of them.
    """

    endpoint: str
    traffic: Traffic
    mirror: Mirror | None
    upstreams: tuple[Upstream, ...]
    shield: Shield | None = None
    sticky: Sticky | None = None

    def upstream(self, deployment: str) -> Upstream:
        """Raises `KeyError`."""
        return {upstream.deployment: upstream for upstream in self.upstreams}[deployment]


def serving_replicas(deployed: DeployedModel, replicas: Iterable[Replica]) -> tuple[Replica, ...]:
    """The ready replicas that should answer for a deployment.

    Those of its present generation; while none of them is ready, those of an older one, so that changing a
    deployment in place never leaves it empty.
    """
    spec = deployed.spec
    ready = [
        replica
        for replica in replicas
        if replica.endpoint == spec.endpoint and replica.deployment == spec.name and replica.state is ReplicaState.READY
    ]
    present = [replica for replica in ready if replica.generation == deployed.generation]
    return tuple(sorted(present or ready, key=lambda replica: replica.id))


def routing_for(
    state: EndpointState, traffic: Traffic, replicas: Iterable[Replica], shield: Shield | None = None
) -> Routing:
    """The routing that puts `traffic` in force over the replicas that are ready.

    A shield that names a deployment that is gone is left out.
    """
    of_endpoint = [replica for replica in replicas if replica.endpoint == state.endpoint.name]
    upstreams = tuple(
        Upstream(
            deployment=name,
            model_version=deployed.model_version,
            addresses=tuple(sorted((r.address for r in serving_replicas(deployed, of_endpoint)), key=str)),
            request_timeout_ms=deployed.spec.request_settings.request_timeout_ms,
            max_requests=deployed.spec.request_settings.max_concurrent_requests_per_instance
            * max(1, deployed.spec.instance_count),
            max_request_bytes=deployed.spec.request_settings.max_request_bytes,
        )
        for name, deployed in sorted(state.deployments.items())
    )
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
    )
