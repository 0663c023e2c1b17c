"""Routes about the deployments of an endpoint."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response

from router.admin_ports import Logs, TritonsKnown
from router.api import shapes
from router.api.operator import CROSSES, Caller
from router.api.preconditions import ExpectedRevision, set_etag
from router.api.views import deployment_view, done_view, triton_view
from router.operations import Operations
from router.spec.changes import read_scale

_SCALE = Body(description="instance_count as in a spec.", examples=[{"instance_count": 2}])


def deployment_routes(operations: Operations, logs: Logs, tritons: TritonsKnown) -> APIRouter:
    routes = APIRouter(prefix="/endpoints/{endpoint}/deployments", tags=["deployments"])

    @routes.get("")
    async def deployments(endpoint: str) -> shapes.DeploymentsView:
        """Every deployment of an endpoint."""
        state, status = operations.desired.state(endpoint), operations.status(endpoint)
        views = [deployment_view(state, status, name) for name in sorted(state.deployments)]
        return shapes.DeploymentsView(deployments=views)

    @routes.get("/{name}")
    async def deployment(endpoint: str, name: str, response: Response) -> shapes.DeploymentView:
        """One deployment. The ETag is its endpoint's revision."""
        state = operations.desired.state(endpoint)
        set_etag(response, state.revision)
        return deployment_view(state, operations.status(endpoint), name)

    @routes.patch("/{name}")
    async def scale(
        endpoint: str,
        name: str,
        change: Annotated[dict[str, Any], _SCALE],
        expected: ExpectedRevision,
        response: Response,
        by: Caller,
    ) -> shapes.DoneView:
        """Change the number of replicas."""
        done = await operations.scale(endpoint, name, read_scale(change), expected, by=by)
        set_etag(response, done.revisions[endpoint])
        return done_view(done)

    @routes.delete("/{name}")
    async def delete(
        endpoint: str,
        name: str,
        expected: ExpectedRevision,
        response: Response,
        by: Caller,
        force: Annotated[bool, Query(description=CROSSES)] = False,
    ) -> shapes.DoneView:
        """Delete a deployment. Refused with 409 while it has live or mirrored traffic, or a part in a rollout."""
        done = await operations.delete_deployment(endpoint, name, expected, is_forced=force, by=by)
        set_etag(response, done.revisions[endpoint])
        return done_view(done)

    @routes.get("/{name}/tritons")
    async def tritons_of(endpoint: str, name: str) -> shapes.TritonsView:
        """What the Tritons that serve the deployment tell of it; those that have answered, a few seconds old."""
        operations.desired.state(endpoint).deployment(name)
        return shapes.TritonsView(tritons=[triton_view(report) for report in tritons.of(endpoint, name)])

    @routes.get("/{name}/logs")
    async def tail(endpoint: str, name: str, lines: Annotated[int, Query(ge=1, le=10_000)] = 100) -> shapes.LogsView:
        """The last log lines of the deployment's replicas, oldest first."""
        operations.desired.state(endpoint).deployment(name)
        return shapes.LogsView(lines=await logs.tail(endpoint, name, lines))

    return routes
