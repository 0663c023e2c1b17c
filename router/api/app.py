"""Puts the admin API together: routes, guards, error replies."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp

from router.admin_ports import Gateway, Logs, TritonsKnown
from router.api.deployments import deployment_routes
from router.api.endpoints import endpoint_routes
from router.api.errors import add_error_replies
from router.api.gateway import gateway_routes
from router.api.guards import Guards
from router.api.keys import key_routes
from router.api.models import lineage_routes, model_routes
from router.api.oversight import Oversight, oversight_routes
from router.api.rollouts import rollout_routes
from router.api.shapes import ErrorView
from router.api.transfers import transfer_routes
from router.api.visibility import only_visible
from router.api.watches import watch_routes
from router.keys import Keys
from router.models.catalogue import Catalogue
from router.models.transfer import Transfer
from router.models.watch_ports import Watching
from router.operations import Operations
from router.rollout_ports import Comparer, Rollouts

_DESCRIPTION = """The admin API of a Crossfade gateway.

Every call needs `Authorization: Bearer <token>`, except `/api/v1/live`. Errors are
`{"error": {"code", "message", "hint", …}}`. Changes may carry `If-Match: "<revision>"`, the `ETag` of an earlier reply;
when the endpoint has moved on, they are refused with 409 and change nothing. `X-Crossfade-By: <name>` says who asks,
for the audit log, beside the name of the token. A viewer's token may look, an operator's change, an admin's everything;
one that is limited to groups of endpoints sees no others."""

_REFUSALS: dict[int | str, str] = {
    "4XX": "What was asked for is refused; nothing was changed.",
    "5XX": "It cannot be done now; nothing was changed.",
}


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes ask."""

    operations: Operations
    rollouts: Rollouts
    comparer: Comparer
    catalogue: Catalogue
    gateway: Gateway
    logs: Logs
    oversight: Oversight
    watching: Watching
    transfer: Transfer
    keys: Keys
    tritons: TritonsKnown


def create_app(services: Services) -> ASGIApp:
    """The ASGI application."""
    operations, rollouts, catalogue = services.operations, services.rollouts, services.catalogue
    app = FastAPI(
        title="Crossfade admin API",
        version=services.gateway.info().version,
        description=_DESCRIPTION,
        openapi_url="/api/openapi.json",
        responses={kind: {"model": ErrorView, "description": words} for kind, words in _REFUSALS.items()},
        docs_url=None,  # both pages would load scripts from a CDN
        redoc_url=None,
    )
    add_error_replies(app, operations, rollouts)
    app.include_router(gateway_routes(operations, services.gateway, rollouts, catalogue), prefix="/api")
    app.include_router(oversight_routes(services.oversight), prefix="/api/v1")
    app.include_router(model_routes(catalogue, operations.desired, services.oversight), prefix="/api/v1")
    app.include_router(transfer_routes(services.transfer), prefix="/api/v1")
    app.include_router(watch_routes(operations.desired, services.watching), prefix="/api/v1")
    visible = [Depends(only_visible(operations.desired))]
    for routes in (
        endpoint_routes(operations, rollouts),
        rollout_routes(operations.desired, rollouts, services.comparer),
        deployment_routes(operations, services.logs, services.tritons),
        lineage_routes(catalogue, operations.desired),
        key_routes(services.keys),
    ):
        app.include_router(routes, prefix="/api/v1", dependencies=visible)
    return Guards(app, services.oversight.access, services.oversight.audit)
