"""Models → the JSON shapes of the admin API. Pure."""

from __future__ import annotations

from router.api import model_shapes as shapes
from router.desired import Desired
from router.domain.access import Operator
from router.domain.provenance import Pulled
from router.models.cache_ports import Kept
from router.models.catalogue import Entry, Lineage
from router.models.freshness import Asked
from router.models.ports import Resolution
from router.models.pulls import Pull


def resolution_view(resolution: Resolution, kept: Kept | None) -> shapes.ResolutionView:
    return shapes.ResolutionView(
        reference=str(resolution.ref),
        pinned=resolution.pinned,
        revision=resolution.revision,
        version=resolution.version,
        lineage=dict(resolution.lineage),
        files=[shapes.FileView(path=it.path, size=it.size, sha256=it.sha256) for it in resolution.files],
        digest=kept.tree.digest if kept else "",
    )


def model_view(entry: Entry, desired: Desired, operator: Operator) -> shapes.ModelView:
    """Who uses it is told as far as the operator may see."""
    tree = entry.kept.tree
    users = [(name, it) for name, it in entry.users if operator.sees(desired.state(name).endpoint.group)]
    return shapes.ModelView(
        digest=tree.digest,
        size=tree.size,
        files=[shapes.FileView(path=it.path, size=it.size, sha256=it.sha256) for it in tree.files],
        added_at=entry.kept.added_at,
        used_at=entry.kept.used_at,
        origins=[origin_view(origin) for origin in entry.origins],
        used_by=[f"{endpoint}/{deployment}" for endpoint, deployment in users],
    )


def origin_view(origin: Pulled) -> shapes.OriginView:
    return shapes.OriginView(
        reference=origin.ref,
        pinned=origin.pinned,
        version=origin.version,
        revision=origin.revision,
        lineage=dict(origin.lineage),
        pulled_at=origin.at,
        pulled_by=origin.by,
    )


def pull_view(pull: Pull) -> shapes.PullView:
    reading = pull.reading
    return shapes.PullView(
        id=pull.id,
        reference=str(pull.ref),
        by=pull.by,
        started_at=pull.started_at,
        state=pull.state,
        reason=pull.reason,
        waiting=reading.waiting,
        done_bytes=reading.done_bytes,
        total_bytes=reading.total_bytes,
        fetched_bytes=reading.fetched_bytes,
        bytes_per_s=reading.bytes_per_s,
        left_s=reading.left_s,
        digest=pull.model.resolved.sha256 if pull.model else "",
        path=pull.model.resolved.path if pull.model else "",
    )


def lineage_view(digest: str, lineage: Lineage) -> shapes.LineageView:
    approval = lineage.approval
    return shapes.LineageView(
        digest=digest,
        origin=origin_view(lineage.origin) if lineage.origin else None,
        approved_at=approval.at if approval else None,
        signer=approval.signer if approval else "",
        checks=[list(check) for check in approval.checks] if approval else [],
    )


def asked_view(asked: Asked) -> shapes.AskedView:
    return shapes.AskedView(
        reference=asked.ref,
        answered_at=asked.answered_at,
        trouble=asked.trouble,
        trouble_since=asked.trouble_since,
    )
