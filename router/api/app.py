"""Puts the admin API together: routes, guards, error replies."""

from __future__ import annotations

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp

from router.admin_ports import Gateway, Logs
from router.api.deployments import deployment_routes
from router.api.endpoints import endpoint_routes
from router.api.errors import add_error_replies
from router.api.gateway import gateway_routes
from router.api.guards import Guards
from router.api.keys import key_routes
from router.api.oversight import Oversight, oversight_routes
from router.api.rollouts import rollout_routes
from router.api.visibility import only_visible
from router.keys import Keys
from router.operations import Operations
from router.rollout_ports import Comparer, Rollouts

_DESCRIPTION = """The admin API of a Crossfade gateway.

Every call needs `Authorization: Bearer <token>`, except `/api/v1/live`. Errors are
`{"error": {"code", "message", "hint", …}}`. Changes may carry `If-Match: "<revision>"`, the `ETag` of an earlier reply;
when the endpoint has moved on, they are refused with 409 and change nothing. `X-Crossfade-By: <name>` says who asks,
for the audit log, beside the name of the token. A viewer's token may look, an operator's change, an admin's everything;
one that is limited to groups of endpoints sees no others."""


def create_app(
    operations: Operations,
    rollouts: Rollouts,
    comparer: Comparer,
    gateway: Gateway,
    logs: Logs,
    oversight: Oversight,
    keys: Keys,
) -> ASGIApp:
    """The ASGI application."""
    app = FastAPI(
        title="Crossfade admin API",
        version=gateway.info().version,
        description=_DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,  # both pages would load scripts from a CDN
        redoc_url=None,
    )
    add_error_replies(app, operations, rollouts)
    app.include_router(gateway_routes(operations, gateway, rollouts), prefix="/api")
    app.include_router(oversight_routes(oversight), prefix="/api/v1")
    visible = [Depends(only_visible(operations.desired))]
    for routes in (
        endpoint_routes(operations, rollouts),
        rollout_routes(operations.desired, rollouts, comparer),
        deployment_routes(operations, logs),
        key_routes(keys),
    ):
        app.include_router(routes, prefix="/api/v1", dependencies=visible)
    return Guards(app, oversight.access, oversight.audit)
