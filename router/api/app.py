"""Puts the admin API together: routes, guards, error replies."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from router.admin_ports import Gateway, Logs
from router.api.deployments import deployment_routes
from router.api.endpoints import endpoint_routes
from router.api.errors import add_error_replies
from router.api.gateway import gateway_routes
from router.api.guards import Guards
from router.api.rollouts import rollout_routes
from router.operations import Operations
from router.rollout_ports import Comparer, Rollouts

_DESCRIPTION = """The admin API of a Crossfade gateway.

Every call needs `Authorization: Bearer <token>`, except `/api/v1/live`. Errors are
`{"error": {"code", "message", "hint", …}}`. Changes may carry `If-Match: "<revision>"`, the `ETag` of an earlier reply;
when the endpoint has moved on, they are refused with 409 and change nothing. `X-Crossfade-By: <name>` says who asks,
for the audit trail."""


def create_app(
    operations: Operations, rollouts: Rollouts, comparer: Comparer, gateway: Gateway, logs: Logs, token: str
) -> ASGIApp:
    """The ASGI application. `token` is what callers must show; it may not be empty."""
    if not token:
        raise ValueError("the admin API needs a token")
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
    app.include_router(endpoint_routes(operations, rollouts), prefix="/api/v1")
    app.include_router(rollout_routes(operations.desired, rollouts, comparer), prefix="/api/v1")
    app.include_router(deployment_routes(operations, logs), prefix="/api/v1")
    return Guards(app, token)
