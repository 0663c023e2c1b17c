"""Domain → the JSON shapes of the admin API. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from router.admin_ports import (
    DeploymentCondition,
    DeploymentStatus,
    EndpointStatus,
    Failed,
    GatewayInfo,
    InForce,
    Pending,
    Settlement,
)
from router.api import shapes
from router.api.model_views import asked_view
from router.api.rollout_views import line_view
from router.api.visibility import visible_names
from router.applying import Applied, latest_of
from router.commits import Done
from router.domain.access import Operator
from router.domain.endpoint import AuthMode, EndpointState
from router.domain.listening import Offer
from router.domain.rollout import Rollout
from router.domain.tls import CertificateStatus
from router.domain.tokens import KeySetStatus
from router.domain.traffic import Mirror
from router.domain.triton_report import TritonReport
from router.events import Event
from router.models.freshness import Asked
from router.operations import Operations
from router.plan import Change
from router.ports import ProxyStatus
from router.rollout_ports import Rollouts
from router.rules import overheard
from router.spec import to_plain


def endpoint_view(state: EndpointState, status: EndpointStatus, rollout: Rollout | None = None) -> shapes.EndpointView:
    """`rollout`: the endpoint's latest."""
    endpoint = state.endpoint
    return shapes.EndpointView(
        name=endpoint.name,
        revision=state.revision,
        state=summary(state, status),
        auth_mode=str(endpoint.auth_mode),
        allow_anonymous=endpoint.allow_anonymous,
        client_names=list(endpoint.client_names),
        jwt=to_plain(endpoint).get("jwt", {}),
        sticky=to_plain(endpoint).get("sticky", {}),
        limits=to_plain(endpoint)["limits"],
        watch=to_plain(endpoint).get("watch", {}),
        group=endpoint.group,
        traffic=endpoint.traffic.as_dict(),
        mirror_traffic=_mirror(endpoint.mirror),
        in_force=shapes.InForceView(
            revision=status.revision, traffic=status.traffic.as_dict(), mirror_traffic=_mirror(status.mirror)
        ),
        error=status.error,
        deployments=[deployment_view(state, status, name) for name in sorted(state.deployments)],
        rollout=line_view(rollout),
    )


def deployment_view(state: EndpointState, status: EndpointStatus, name: str) -> shapes.DeploymentView:
    """Raises `NotFound`."""
    deployed = state.deployment(name)
    spec, mirror = deployed.spec, state.endpoint.mirror
    plain = to_plain(spec)
    unseen = DeploymentStatus(name, DeploymentCondition.LOADING, spec.least_instances, 0)
    live = next((item for item in status.deployments if item.name == name), unseen)
    return shapes.DeploymentView(
        name=name,
        endpoint=spec.endpoint,
        model=str(spec.model),
        model_version=deployed.model_version,
        model_sha256=deployed.model_sha256,
        backend=str(spec.backend),
        instance_count=plain.get("instance_count"),
        scale_settings=plain.get("scale_settings"),
        resources=plain["resources"],
        batching=plain["batching"],
        request_settings=plain["request_settings"],
        traffic=state.endpoint.traffic.percent(name),
        mirror_traffic=mirror.percent if mirror and mirror.deployment == name else 0,
        state=live.condition,
        reason=live.reason,
        replicas_wanted=live.replicas_wanted,
        replicas_ready=live.replicas_ready,
    )


def summary(state: EndpointState, status: EndpointStatus) -> str:
    """The endpoint in one word, the worst news first."""
    conditions = {item.condition for item in status.deployments}
    if status.error:
        return "rejected"
    if DeploymentCondition.FAILED in conditions:
        return "failed"
    if status.revision < state.revision or DeploymentCondition.LOADING in conditions:
        return "updating"
    return "idle" if state.endpoint.traffic.is_empty else "ready"


def every_endpoint(operations: Operations, rollouts: Rollouts, operator: Operator) -> list[shapes.EndpointView]:
    """Every one that the operator sees."""
    states, names = operations.desired.states, visible_names(operations.desired, operator)
    return [endpoint_view(states[name], operations.status(name), latest_of(rollouts, name)) for name in names]


def done_view(done: Done) -> shapes.DoneView:
    return applied_view(Applied(done, (), ()))


def applied_view(applied: Applied, *, is_dry_run: bool = False) -> shapes.DoneView:
    changes = [_change_view(change) for change in applied.done.changes]
    changes += [
        shapes.ChangeView(
            kind="rollout", endpoint=change.endpoint, name=change.candidate, action=change.action, fields=[]
        )
        for change in applied.rollouts
    ]
    revisions = dict(applied.done.revisions)
    return shapes.DoneView(dry_run=is_dry_run, changes=changes, revisions=revisions, notes=list(applied.notes))


def _change_view(change: Change) -> shapes.ChangeView:
    return shapes.ChangeView(
        kind=change.kind,
        endpoint=change.endpoint,
        name=change.deployment or change.endpoint or "gateway",
        action=change.action,
        fields=[shapes.FieldChangeView(key=field.key, old=field.old, new=field.new) for field in change.fields],
    )


def settlement_view(settlement: Settlement) -> shapes.SettlementView:
    match settlement:
        case InForce():
            return shapes.SettlementView(outcome="in_force", reason="")
        case Failed(reason):
            return shapes.SettlementView(outcome="failed", reason=reason)
        case Pending(reason):
            return shapes.SettlementView(outcome="pending", reason=reason)


def triton_view(report: TritonReport) -> shapes.TritonView:
    counts = report.answer.counts
    return shapes.TritonView(
        address=f"{report.address.ip}:{report.address.http_port}",
        version=report.answer.version,
        successes=counts.successes,
        failures=counts.failures,
        executions=counts.executions,
        queue_s=counts.queue_s,
        compute_input_s=counts.input_s,
        compute_infer_s=counts.infer_s,
        compute_output_s=counts.output_s,
    )


def event_view(event: Event) -> shapes.EventView:
    return shapes.EventView(
        id=event.id,
        at=event.at,
        kind=event.kind,
        message=event.message,
        endpoint=event.endpoint,
        deployment=event.deployment,
    )


def status_view(
    info: GatewayInfo, endpoints: list[shapes.EndpointView], asked: Iterable[Asked], now: datetime
) -> shapes.StatusView:
    where = info.addresses
    return shapes.StatusView(
        version=info.version,
        started_at=info.started_at,
        uptime_s=round((now - info.started_at).total_seconds(), 1),
        addresses=shapes.AddressesView(
            scoring_url=where.scoring_url,
            grpc_address=where.grpc_address,
            metrics_url=where.metrics_url,
            admin_url=where.admin_url,
        ),
        listeners=[listener_view(offer) for offer in info.offers],
        proxies=[_proxy_view(proxy) for proxy in info.proxies],
        ray=shapes.RayView(is_connected=info.ray.is_connected, address=info.ray.address, reason=info.ray.reason),
        certificates=[_certificate_view(status, now) for status in info.certificates],
        key_sets=_key_set_views(info.key_sets, {endpoint.name for endpoint in endpoints}),
        endpoints=endpoints,
        warnings=[
            text
            for endpoint in endpoints
            for text in overheard(info.offers, endpoint.name, endpoint.group, AuthMode(endpoint.auth_mode))
        ],
        sources=[asked_view(item) for item in asked],
    )


def listener_view(offer: Offer) -> shapes.ListenerView:
    return shapes.ListenerView(
        name=offer.name,
        address=offer.address,
        ports=list(offer.ports),
        tls=offer.is_tls,
        is_open=not offer.is_loopback,
        shows_everything=offer.shows_everything,
    )


def _certificate_view(status: CertificateStatus, now: datetime) -> shapes.CertificateView:
    facts = status.facts
    return shapes.CertificateView(
        file=status.files.certificate,
        names=list(facts.names) if facts else [],
        not_after=facts.not_after if facts else None,
        fingerprint=facts.fingerprint if facts else "",
        warning=status.refused or (facts.warning(now) if facts else ""),
    )


def _key_set_views(statuses: Iterable[KeySetStatus], visible: Collection[str]) -> list[shapes.KeySetView]:
    """Those of visible endpoints, and of their endpoints the visible ones."""
    return [
        shapes.KeySetView(
            source=str(status.source),
            endpoints=endpoints,
            key_ids=list(status.keys.ids) if status.keys else [],
            taken_at=status.taken_at,
            warning=status.warning,
        )
        for status in statuses
        if (endpoints := [name for name in status.endpoints if name in visible])
    ]


def _proxy_view(status: ProxyStatus) -> shapes.ProxyView:
    rejected = [shapes.RejectionView(resource=resource, reason=reason) for resource, reason in status.rejected]
    return shapes.ProxyView(proxy=status.proxy, is_up_to_date=status.is_up_to_date, rejected=rejected)


def _mirror(mirror: Mirror | None) -> dict[str, int]:
    return {mirror.deployment: mirror.percent} if mirror else {}
