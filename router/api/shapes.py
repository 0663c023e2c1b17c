"""The JSON of the admin API. Keys are only ever added: scripts read this."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from router.admin_ports import DeploymentCondition
from router.api.model_shapes import AskedView
from router.api.operator import CROSSES
from router.api.rollout_shapes import RolloutLineView
from router.api.shape import Shape
from router.domain.callers import KeySlot
from router.plan import Action


class ApplyRequest(Shape):
    documents: list[Any] = Field(
        description="Spec documents, as in a spec file; their JSON Schema is at /api/v1/schema.",
        examples=[[{"kind": "Endpoint", "name": "fraud"}]],
    )
    dry_run: bool = Field(default=False, strict=True, description="Only say what would change.")
    force: bool = Field(default=False, strict=True, description=CROSSES)
    allow_signature_change: bool = Field(
        default=False, strict=True, description="Also a model that takes or gives something else than the live one."
    )
    revisions: dict[str, int] = Field(
        default_factory=dict,
        description="Endpoint to the revision it must be at (0: must not exist), else 409.",
    )


class FieldChangeView(Shape):
    key: str
    old: Any
    new: Any


class ChangeView(Shape):
    kind: Literal["gateway", "endpoint", "deployment", "rollout"]
    endpoint: str = Field(description="Empty when the gateway itself has changed.")
    name: str
    action: Action
    fields: list[FieldChangeView]


class DoneView(Shape):
    dry_run: bool
    changes: list[ChangeView]
    revisions: dict[str, int] = Field(description="Endpoint to its revision now; 0: it does not exist.")
    notes: list[str] = Field(description="What was asked for and is not so, why, and what to beware of, in words.")


class DeploymentView(Shape):
    name: str
    endpoint: str
    model: str
    model_version: str
    model_sha256: str
    backend: str
    instance_count: int | None = Field(description="null: scale_settings decide.")
    scale_settings: dict[str, Any] | None
    resources: dict[str, Any]
    batching: dict[str, Any]
    request_settings: dict[str, Any]
    traffic: int = Field(description="Percent asked for.")
    mirror_traffic: int = Field(description="Percent asked for.")
    state: DeploymentCondition
    reason: str
    replicas_wanted: int
    replicas_ready: int


class InForceView(Shape):
    revision: int
    traffic: dict[str, int]
    mirror_traffic: dict[str, int]


class EndpointView(Shape):
    name: str
    revision: int
    state: str = Field(description="ready, updating, failed, rejected or idle (no traffic asked for).")
    auth_mode: str
    allow_anonymous: bool
    client_names: list[str] = Field(description="With auth_mode mtls.")
    jwt: dict[str, Any] = Field(description="With auth_mode jwt, as in a spec; else empty.")
    group: str
    sticky: dict[str, str | bool] = Field(description="As in a spec; empty when every request is drawn anew.")
    limits: dict[str, Any] = Field(description="As in a spec; empty when nothing is limited.")
    watch: dict[str, Any] = Field(description="As in a spec; empty when nobody looks. /watch tells how it is.")
    traffic: dict[str, int] = Field(description="Asked for.")
    mirror_traffic: dict[str, int] = Field(description="Asked for.")
    in_force: InForceView = Field(description="What the proxies have acknowledged.")
    error: str = Field(description="The last refusal by a proxy, in its words; empty when there is none.")
    deployments: list[DeploymentView]
    rollout: RolloutLineView | None = Field(description="The one that is under way, or that still keeps the old one.")


class EndpointsView(Shape):
    endpoints: list[EndpointView]


class DeploymentsView(Shape):
    deployments: list[DeploymentView]


class SettlementView(Shape):
    outcome: Literal["in_force", "failed", "pending"]
    reason: str


class TritonView(Shape):
    address: str
    version: str = Field(description="The server's own.")
    successes: int = Field(description="Requests for the model since that server started, as it counts them.")
    failures: int
    executions: int = Field(description="Batches that it ran.")
    queue_s: float = Field(description="In total, over all successful requests, as the others.")
    compute_input_s: float
    compute_infer_s: float
    compute_output_s: float


class TritonsView(Shape):
    tritons: list[TritonView]


class LogsView(Shape):
    lines: list[str]


class KeyView(Shape):
    slot: KeySlot
    fingerprint: str = Field(description="The first 12 hex digits of the key's sha256.")
    created_at: datetime
    created_by: str


class KeysView(Shape):
    keys: list[KeyView]


class IssuedKeyView(Shape):
    key: str = Field(description="Shown this once.")
    kept: KeyView
    in_force: bool = Field(description="Every proxy has acknowledged it.")


class RevokedKeyView(Shape):
    endpoint: str
    slot: KeySlot
    in_force: bool = Field(description="Every proxy has acknowledged that it is gone.")


class EventView(Shape):
    id: int
    at: datetime
    kind: str
    message: str
    endpoint: str
    deployment: str


class EventsView(Shape):
    events: list[EventView]
    last_id: int


class RejectionView(Shape):
    resource: str
    reason: str


class ProxyView(Shape):
    proxy: str
    is_up_to_date: bool
    rejected: list[RejectionView]


class RayView(Shape):
    is_connected: bool
    address: str
    reason: str


class AddressesView(Shape):
    scoring_url: str
    grpc_address: str
    metrics_url: str
    admin_url: str


class CertificateView(Shape):
    file: str
    names: list[str]
    not_after: datetime | None = Field(description="null: it has not been read since the control plane started.")
    fingerprint: str = Field(description="sha256, in hex.")
    warning: str = Field(description="What an operator should know: it runs out, or its files cannot be used.")


class KeySetView(Shape):
    source: str = Field(description="The file or URL.")
    endpoints: list[str]
    key_ids: list[str] = Field(description="Of the keys that tokens are verified with; none: nobody gets in.")
    taken_at: datetime | None = Field(description="Since when these keys are in force.")
    warning: str = Field(description="What an operator should know: the source cannot be read, and what follows.")


class ListenerView(Shape):
    name: str
    address: str
    ports: list[int]
    tls: bool
    is_open: bool = Field(description="Other machines can reach it.")
    shows_everything: bool = Field(description="Every endpoint exists here.")


class GatewayView(Shape):
    spec: dict[str, Any] = Field(description="A document of kind Gateway.")
    listeners: list[ListenerView]


class StatusView(Shape):
    version: str
    started_at: datetime
    uptime_s: float
    addresses: AddressesView
    listeners: list[ListenerView] = Field(description="Where scoring is offered.")
    proxies: list[ProxyView]
    ray: RayView
    certificates: list[CertificateView] = Field(
        description="Of the gateway's ports, and with a joined Ray the internal CAs, which are named `internal CA`; "
        "empty without either."
    )
    key_sets: list[KeySetView] = Field(description="Keys of identity providers, of endpoints with auth_mode jwt.")
    endpoints: list[EndpointView]
    sources: list[AskedView] = Field(description="How well the sources of the deployments' models can be asked.")
    warnings: list[str] = Field(description="What an operator should know of how endpoints are offered.")


class LiveView(Shape):
    live: bool
    name: str
    version: str


class ProblemView(Shape):
    key: str = Field(description="The path of what is wrong, such as limits.burst.")
    message: str
    hint: str = Field(description="What to do, where that is known.")
    document: int | None = Field(description="The number of the document of a spec, from 1.")


class FailureView(Shape):
    code: str = Field(description="Stable, such as not_found or revision_conflict.")
    message: str
    hint: str = Field(description="What to do, where that is known.")
    problems: list[ProblemView] = Field(default=[], description="All that is wrong in what was sent.")
    known: list[str] = Field(default=[], description="With not_found: what there is instead.")
    current: EndpointView | None = Field(default=None, description="With revision_conflict: how it is now.")


class ErrorView(Shape):
    error: FailureView
