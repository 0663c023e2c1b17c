"""What operations and the admin API need from the rest of the control plane: who is told, who knows what is true."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from router.domain.listening import Offer
from router.domain.tls import CertificateStatus
from router.domain.tokens import KeySetStatus
from router.domain.traffic import Mirror, Traffic
from router.domain.triton_report import TritonReport
from router.ports import ProxyStatus


class DeploymentCondition(StrEnum):
    LOADING = "loading"  # replicas are wanted and none is ready yet
    READY = "ready"  # at least one replica answers
    FAILED = "failed"  # no replica is ready, and `reason` says why
    STOPPED = "stopped"  # no replica is wanted
    ASLEEP = "asleep"  # no replica runs because nobody asks; the first request starts one


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """What runs behind one deployment. `reason` is for the operator; empty when all is well."""

    name: str
    condition: DeploymentCondition
    replicas_wanted: int
    replicas_ready: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """What is true of one endpoint now, beside what was asked for.

    `revision` is the last one that is wholly in force (0: none yet); `error` is a proxy's last refusal, in its words.
    """

    traffic: Traffic
    mirror: Mirror | None
    deployments: tuple[DeploymentStatus, ...]
    revision: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class InForce:
    """Everything that was asked for is true: replicas ready, and every connected proxy has acknowledged."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It will not come true without another change: a deployment failed, or a proxy refused the configuration."""

    reason: str


@dataclass(frozen=True, slots=True)
class Pending:
    """Not yet. `reason` says what is missing ("blue: 0 of 1 replicas ready")."""

    reason: str


Settlement = InForce | Failed | Pending


class Changes(Protocol):
    """Told after a change is durable and published in `Desired`. Must return at once. Implemented by the reconciler."""

    def endpoint_changed(self, name: str) -> None:
        """The endpoint was created, changed or deleted."""

    def gateway_changed(self) -> None:
        """What scoring is offered through has changed."""


class Observer(Protocol):
    """Knows what is true now. Implemented by the reconciler."""

    def endpoint_status(self, name: str) -> EndpointStatus:
        """Of an endpoint that exists in `Desired`; one that was not looked at yet has nothing in force."""

    async def wait_settled(self, name: str, revision: int, timeout_s: float) -> Settlement:
        """Wait until at least `revision` is in force or has failed; `Pending` when `timeout_s` ran out.

        For an endpoint that no longer exists: until no proxy knows it.
        """

    async def wait_listening(self, timeout_s: float) -> Settlement:
        """Wait until every proxy has the gateway's listeners, or one refuses them; `Pending` when time ran out."""

    async def status_changed(self) -> None:
        """Wait until the status of any endpoint has changed, or may have."""


class Reconciling(Changes, Observer, Protocol):
    """Both sides of the reconciler: it is told what is wanted and knows what is true."""


class Logs(Protocol):
    """The log lines of replicas. Implemented over Ray's log files."""

    async def tail(self, endpoint: str, deployment: str, lines: int) -> list[str]:
        """The last `lines` lines of all replicas of a deployment, oldest first."""


class TritonsKnown(Protocol):
    """What Tritons tell of themselves. Implemented by router/triton_reports.py."""

    def of(self, endpoint: str, deployment: str) -> tuple[TritonReport, ...]:
        """Those of a deployment that have answered; none where no Triton serves it."""


@dataclass(frozen=True, slots=True)
class RayStatus:
    """`reason` says why it is not connected."""

    is_connected: bool
    address: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where this gateway answers, as URLs that a client on this machine can use."""

    scoring_url: str
    grpc_address: str
    metrics_url: str
    admin_url: str


@dataclass(frozen=True, slots=True)
class GatewayInfo:
    """The gateway beside its endpoints."""

    version: str
    started_at: datetime
    addresses: Addresses
    proxies: tuple[ProxyStatus, ...]
    ray: RayStatus
    certificates: tuple[CertificateStatus, ...] = ()
    key_sets: tuple[KeySetStatus, ...] = ()
    offers: tuple[Offer, ...] = ()


class Gateway(Protocol):
    def info(self) -> GatewayInfo: ...
