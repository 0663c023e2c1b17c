"""Routes about the rollouts of an endpoint."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from router.api import rollout_shapes as shapes
from router.api.operator import Asking, Caller
from router.api.rollout_views import differences_view, entry_view, rollout_view, version_of
from router.api.visibility import check_rollouts
from router.desired import Desired
from router.rollout_ports import Comparer, Rollouts
from router.spec.changes import read_rollout

_START = Body(
    description="kind: Rollout as in a spec; kind and endpoint may be left out.",
    examples=[
        {"to": "green", "strategy": "canary"},
        {"to": "green", "steps": [{"set_weight": 10}, {"pause": "until_promoted"}, {"set_weight": 100}]},
    ],
)
_NEXT_STEP = shapes.PromoteRequest()
_NO_REASON = shapes.AbortRequest()


def rollout_routes(desired: Desired, rollouts: Rollouts, comparer: Comparer) -> APIRouter:
    routes = APIRouter(prefix="/endpoints/{endpoint}", tags=["rollouts"])

    @routes.post("/rollouts")
    async def start(
        endpoint: str, request: Annotated[dict[str, Any], _START], operator: Asking, by: Caller
    ) -> shapes.RolloutView:
        """Begin to move the endpoint's traffic. Replies when the rollout is durable; it goes on by itself.

        Refused with 409 while another one is under way, or when the traffic is not all with one other deployment.
        """
        state, spec = desired.state(endpoint), read_rollout(endpoint, request)
        state.deployment(spec.candidate)
        check_rollouts((spec,), operator)
        return rollout_view(await rollouts.start(spec, by))

    @routes.get("/rollouts")
    async def history(endpoint: str) -> shapes.RolloutsView:
        """All rollouts that are remembered, the latest first."""
        desired.state(endpoint)
        return shapes.RolloutsView(rollouts=[rollout_view(rollout) for rollout in rollouts.history(endpoint)])

    @routes.get("/rollout")
    async def latest(endpoint: str) -> shapes.RolloutView:
        """The endpoint's present or last rollout: steps, weights, evidence, replicas."""
        desired.state(endpoint)
        return rollout_view(rollouts.latest(endpoint))

    @routes.get("/rollout/changed")
    async def changed(
        endpoint: str,
        seen: Annotated[str, Query(max_length=64, description="The version of an earlier reply.")] = "",
        timeout_s: Annotated[float, Query(ge=0, le=60)] = 10.0,
    ) -> shapes.RolloutView:
        """The latest rollout: at once when it is not at version `seen`, else when it changes or the time is over."""
        desired.state(endpoint)
        present = rollouts.latest(endpoint)
        if version_of(present) == seen:
            present = await rollouts.changed(endpoint, present, timeout_s)
        return rollout_view(present)

    @routes.post("/rollout/pause")
    async def pause(endpoint: str, by: Caller) -> shapes.RolloutView:
        """Stay at the present weights. Verdicts still roll back meanwhile."""
        desired.state(endpoint)
        return rollout_view(await rollouts.pause(endpoint, by))

    @routes.post("/rollout/resume")
    async def resume(endpoint: str, by: Caller) -> shapes.RolloutView:
        """Go on after a pause."""
        desired.state(endpoint)
        return rollout_view(await rollouts.resume(endpoint, by))

    @routes.post("/rollout/promote")
    async def promote(
        endpoint: str, by: Caller, request: Annotated[shapes.PromoteRequest, Body()] = _NEXT_STEP
    ) -> shapes.RolloutView:
        """Take the next step without waiting for evidence, or all of them."""
        desired.state(endpoint)
        return rollout_view(await rollouts.promote(endpoint, by, is_full=request.full))

    @routes.post("/rollout/abort")
    async def abort(
        endpoint: str, by: Caller, request: Annotated[shapes.AbortRequest, Body()] = _NO_REASON
    ) -> shapes.RolloutView:
        """Return all traffic to the stable deployment."""
        desired.state(endpoint)
        return rollout_view(await rollouts.abort(endpoint, by, request.reason))

    @routes.post("/rollout/undo")
    async def undo(endpoint: str, by: Caller) -> shapes.RolloutView:
        """After a rollout that succeeded: back to where the traffic was before, at once. A new rollout."""
        desired.state(endpoint)
        return rollout_view(await rollouts.undo(endpoint, by))

    @routes.get("/rollout/trail")
    async def trail(endpoint: str, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000) -> shapes.TrailView:
        """The audit trail of the endpoint's rollouts, oldest first: who, when, what and why."""
        desired.state(endpoint)
        return shapes.TrailView(entries=[entry_view(entry) for entry in rollouts.trail(endpoint, limit)])

    @routes.get("/rollout/differences")
    async def differences(endpoint: str, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> shapes.DifferencesView:
        """Requests that stable and candidate answered differently while one was mirrored to the other."""
        desired.state(endpoint)
        return differences_view(endpoint, comparer.pairs(endpoint), comparer.differences(endpoint, limit))

    return routes
