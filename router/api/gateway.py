"""Routes about the gateway as a whole: live, status, schema, events, apply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from router.admin_ports import Gateway
from router.api import shapes
from router.api.operator import Asking, Caller
from router.api.views import (
    applied_view,
    event_view,
    every_endpoint,
    listener_view,
    settlement_view,
    status_view,
)
from router.api.visibility import check_documents, check_unlimited, is_for
from router.applying import apply_documents
from router.domain.access import Operator
from router.models.catalogue import Catalogue
from router.operations import Operations
from router.rollout_ports import Rollouts
from router.spec import json_schema, read_documents, to_plain


def gateway_routes(operations: Operations, gateway: Gateway, rollouts: Rollouts, catalogue: Catalogue) -> APIRouter:
    routes = APIRouter(tags=["gateway"])

    @routes.get("/v1/live")
    async def live() -> shapes.LiveView:
        """The control plane answers. Needs no token."""
        return shapes.LiveView(live=True, name="crossfade", version=gateway.info().version)

    @routes.get("/v1/status")
    async def status(operator: Asking) -> shapes.StatusView:
        """Version, addresses, proxies, Ray, and every endpoint that the token may see, with its state."""
        endpoints = every_endpoint(operations, rollouts, operator)
        return status_view(gateway.info(), endpoints, catalogue.asked(operator), datetime.now(UTC))

    @routes.get("/v1/gateway")
    async def described(operator: Asking) -> shapes.GatewayView:
        """What is asked of the gateway as a whole, and the listeners that come of it. Not for a token that is limited
        to groups: listeners name endpoints of all of them."""
        check_unlimited(operator)
        desired = operations.desired
        return shapes.GatewayView(
            spec=to_plain(desired.gateway), listeners=[listener_view(offer) for offer in desired.offers]
        )

    @routes.get("/v1/gateway/settled")
    async def settled(timeout_s: Annotated[float, Query(ge=0, le=60)] = 10.0) -> shapes.SettlementView:
        """Wait until every proxy has the listeners, one cannot have them, or the time is over."""
        return settlement_view(await operations.wait_listening(timeout_s))

    @routes.get("/v1/schema")
    async def schema() -> dict[str, Any]:
        """The JSON Schema of one spec document."""
        return json_schema()

    @routes.post("/v1/apply")
    async def apply(request: shapes.ApplyRequest, operator: Asking, by: Caller) -> shapes.DoneView:
        """Make spec documents true, all or nothing. Idempotent.

        A rollout starts once everything else that its endpoint needs is in force. Until then its change is `waiting`:
        apply the same documents again when /settled says so.
        """
        documents = await asyncio.to_thread(read_documents, request.documents)
        check_documents(documents, operations.desired, operator)
        applied = await apply_documents(
            operations,
            rollouts,
            documents,
            by,
            is_dry_run=request.dry_run,
            is_forced=request.force,
            is_signature_change_allowed=request.allow_signature_change,
            expected=request.revisions,
        )
        return applied_view(applied, is_dry_run=request.dry_run)

    @routes.get(
        "/v1/events",
        response_model=shapes.EventsView,
        responses={200: {"content": {"application/x-ndjson": {}}, "description": "JSON, or NDJSON when following"}},
    )
    async def events(
        operator: Asking,
        after: Annotated[int, Query(ge=0, description="Only events with a greater id.")] = 0,
        follow: Annotated[bool, Query(description="Stay connected: one JSON object a line, as they come.")] = False,
    ) -> Any:
        """What happened, oldest first. Events are kept in memory, up to a limit."""
        if follow:
            return StreamingResponse(_lines(operations, operator, after), media_type="application/x-ndjson")
        kept = [
            event_view(event) for event in operations.events.after(after) if is_for(operator, event, operations.desired)
        ]
        return shapes.EventsView(events=kept, last_id=operations.events.last_id)

    return routes


async def _lines(operations: Operations, operator: Operator, after: int) -> AsyncIterator[str]:
    async for event in operations.events.follow(after):
        if is_for(operator, event, operations.desired):
            yield event_view(event).model_dump_json() + "\n"
