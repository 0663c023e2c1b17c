"""`crossfade deployment list|show|scale|delete|logs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from router.cli.changes import conclude
from router.cli.endpoint import EndRollout, deployment_table
from router.cli.model import origin_facts
from router.cli.output import listing
from router.cli.session import Session, command
from router.cli.waiting import DEFAULT_TIMEOUT_S, IfRevision, Timeout, Wait

Endpoint = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint it stands behind.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The deployment.", show_default=False)]
OnlyEndpoint = Annotated[str | None, typer.Option("--endpoint", metavar="NAME", help="Only those of this endpoint.")]
InstanceCount = Annotated[
    int, typer.Option("--instance-count", min=0, max=1000, metavar="N", help="How many replicas shall run.")
]
Lines = Annotated[int, typer.Option("--lines", "-n", min=1, max=10_000, help="How many lines at most.")]


def register(app: typer.Typer) -> None:
    command(app, "list", list_all)
    command(app, "show", show)
    command(app, "scale", scale)
    command(app, "delete", delete)
    command(app, "logs", logs)


def list_all(session: Session, endpoint: OnlyEndpoint = None) -> None:
    """List the deployments of one endpoint, or of all.

    \b
      crossfade deployment list
      crossfade deployment list --endpoint filetype
    """
    with session.client() as client:
        endpoints = client.endpoints() if endpoint is None else [client.endpoint(endpoint)]
    deployments = [deployment for item in endpoints for deployment in item["deployments"]]
    session.show({"deployments": deployments}, lambda: deployment_table(deployments))


def show(session: Session, endpoint: Endpoint, name: Name) -> None:
    """Show one deployment: its model, settings and replicas.

    \b
      crossfade deployment show filetype blue
    """
    with session.client() as client:
        deployment = client.deployment(endpoint, name)
        lineage = client.lineage(endpoint, name)
        tritons = client.tritons(endpoint, name) if deployment["backend"] == "triton" else []
    shown = {**deployment, "lineage": lineage, "tritons": tritons}
    session.show(shown, lambda: _text(deployment, lineage, tritons))


def scale(
    session: Session,
    endpoint: Endpoint,
    name: Name,
    instance_count: InstanceCount,
    if_revision: IfRevision = None,
    wait: Wait = True,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> int:
    """Change how many replicas run. 0 stops a deployment; that is refused while it has live traffic.

    A deployment with scale_settings scales by itself: change those in its spec, and apply it.

    \b
      crossfade deployment scale filetype blue --instance-count 2
    """
    with session.client() as client:
        done = client.scale(endpoint, name, instance_count, if_revision)
        return conclude(session, client, done, timeout if wait else None)


def delete(
    session: Session,
    endpoint: Endpoint,
    name: Name,
    force: EndRollout = False,
    if_revision: IfRevision = None,
    wait: Wait = True,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> int:
    """Delete a deployment. Refused while it has live or mirrored traffic, or, unless forced, a part in a rollout.

    \b
      crossfade endpoint update filetype --traffic "green=100"
      crossfade deployment delete filetype blue
    """
    with session.client() as client:
        done = client.delete_deployment(endpoint, name, if_revision, is_forced=force)
        return conclude(session, client, done, timeout if wait else None)


def logs(session: Session, endpoint: Endpoint, name: Name, lines: Lines = 100) -> None:
    """Print the last log lines of a deployment's replicas, oldest first.

    \b
      crossfade deployment logs filetype green --lines 20
    """
    with session.client() as client:
        found = client.logs(endpoint, name, lines)
    session.show({"lines": found}, lambda: "\n".join(found) or "(nothing logged yet)")


def _text(deployment: Mapping[str, Any], lineage: Mapping[str, Any], tritons: Sequence[Mapping[str, Any]]) -> str:
    origin = lineage["origin"]
    shown = {
        "endpoint": deployment["endpoint"],
        "name": deployment["name"],
        "state": deployment["state"],
        "reason": deployment["reason"],
        "replicas": f"{deployment['replicas_ready']} ready of {deployment['replicas_wanted']}",
        "scale_settings": deployment["scale_settings"],
        "traffic": f"{deployment['traffic']}%",
        "mirror_traffic": f"{deployment['mirror_traffic']}%",
        "model": deployment["model"],
        "model_version": deployment["model_version"],
        "model_sha256": deployment["model_sha256"],
        **(
            {"pulled": f"{origin['pulled_at']} by {origin['pulled_by']}", **dict(origin_facts(origin))}
            if origin
            else {}
        ),
        "signer": lineage["signer"],
        **{f"  {check}": found for check, found in lineage["checks"]},
        "backend": deployment["backend"],
        **{f"  {one['address']}": _counted(one) for one in tritons},
        "resources": deployment["resources"],
        "batching": deployment["batching"],
        "request_settings": deployment["request_settings"],
    }
    return listing(shown.items())


def _counted(triton: Mapping[str, Any]) -> str:
    answered, failed = triton["successes"], triton["failures"]
    text = f"Triton {triton['version']}: {answered} answered, {failed} failed, {triton['executions']} batches"
    if not answered:
        return text
    queue, infer = (1000 * triton[what] / answered for what in ("queue_s", "compute_infer_s"))
    return f"{text}; a request waits {queue:.2f} ms and computes {infer:.2f} ms"
