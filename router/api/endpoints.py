"""Routes about endpoints."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response

from router.api import shapes
from router.api.operator import CROSSES, Asking, Caller
from router.api.preconditions import ExpectedRevision, set_etag
from router.api.views import done_view, endpoint_view, every_endpoint, settlement_view
from router.applying import latest_of
from router.operations import Operations
from router.rollout_ports import Rollouts
from router.spec.changes import read_traffic_change

_CHANGE = Body(
    description="traffic and mirror_traffic as in a spec; a key that is left out stays as it is.",
    examples=[{"traffic": {"blue": 90, "green": 10}, "mirror_traffic": {}}],
)


def endpoint_routes(operations: Operations, rollouts: Rollouts) -> APIRouter:
    routes = APIRouter(tags=["endpoints"])

    @routes.get("/endpoints")
    async def endpoints(operator: Asking) -> shapes.EndpointsView:
        """Every endpoint that the token may see, with its deployments."""
        return shapes.EndpointsView(endpoints=every_endpoint(operations, rollouts, operator))

    @routes.get("/endpoints/{name}")
    async def endpoint(name: str, response: Response) -> shapes.EndpointView:
        """One endpoint: what was asked for, and what is in force. The ETag is its revision."""
        state = operations.desired.state(name)
        set_etag(response, state.revision)
        return endpoint_view(state, operations.status(name), latest_of(rollouts, name))

    @routes.patch("/endpoints/{name}")
    async def change_traffic(
        name: str,
        change: Annotated[dict[str, Any], _CHANGE],
        expected: ExpectedRevision,
        response: Response,
        by: Caller,
        force: Annotated[bool, Query(description=CROSSES)] = False,
    ) -> shapes.DoneView:
        """Change traffic, mirror or both. Replies when the change is durable; /settled tells when it is in force.

        Refused with 409 while a rollout is under way, unless forced.
        """
        change_asked = read_traffic_change(change)
        done = await operations.change_traffic(name, change_asked, expected, is_forced=force, by=by)
        set_etag(response, done.revisions[name])
        return done_view(done)

    @routes.delete("/endpoints/{name}")
    async def delete(
        name: str,
        expected: ExpectedRevision,
        by: Caller,
        force: Annotated[bool, Query(description="Also while it has live traffic.")] = False,
    ) -> shapes.DoneView:
        """Delete an endpoint and all its deployments. Refused with 409 while it has live traffic."""
        return done_view(await operations.delete_endpoint(name, is_forced=force, expected=expected, by=by))

    @routes.get("/endpoints/{name}/settled")
    async def settled(
        name: str,
        revision: Annotated[int, Query(ge=0)],
        timeout_s: Annotated[float, Query(ge=0, le=60)] = 10.0,
    ) -> shapes.SettlementView:
        """Wait until the revision is in force, has failed, or the time is over. Also for an endpoint just deleted."""
        return settlement_view(await operations.wait_settled(name, revision, timeout_s))

    return routes
