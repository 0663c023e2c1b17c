"""Routes about watched references: how it is with them, and an operator's yes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Body, Depends
from pydantic import Field

from router.api.operator import Asking, Caller
from router.api.shape import Shape
from router.api.visibility import only_visible, visible_names
from router.desired import Desired
from router.domain.watching import Barred, Consent, Known, Moved, Ready, Rolling, Stopped, Watched, WatchPolicy
from router.models.watch_ports import Standing, Watching


class KnownView(Shape):
    pinned: str = Field(description="As its source names it for good.")
    version: str
    revision: str = Field(description="The source's word for it; compared for equality only.")
    sha256: str = Field(description="Empty until it was fetched.")


class BarredView(Shape):
    model: KnownView
    reason: str
    at: datetime


class WatchView(Shape):
    endpoint: str
    ref: str = Field(description="The reference of the deployment that has the traffic.")
    policy: WatchPolicy
    stage: str = Field(description="unseen, current, moved, ready, rolling or stopped.")
    in_service: KnownView
    model: KnownView | None = Field(description="What the reference names, when it is another model.")
    waits_for: str = Field(description="Why that has no traffic yet, in words; empty when it waits for nothing.")
    accepted_by: str
    rollout: str = Field(description="The id of the rollout to it, while that is under way.")
    barred: list[BarredView] = Field(description="Models that are not tried again by themselves, oldest first.")
    answered_at: datetime | None = Field(description="When the source last said anything.")
    staleness_s: float | None
    next_at: datetime = Field(description="When the source is asked next.")
    failures: int = Field(description="Of asking and fetching, in a row.")
    trouble: str = Field(description="Why the last try failed; empty when it did not.")


class WatchesView(Shape):
    watches: list[WatchView]


class AcceptRequest(Shape):
    allow_signature_change: bool = Field(
        default=False, strict=True, description="Also when it takes or gives something else than what answers now."
    )


_PLAIN_YES = AcceptRequest()


def watch_routes(desired: Desired, watching: Watching) -> APIRouter:
    routes = APIRouter(tags=["watches"])
    visible = [Depends(only_visible(desired))]

    @routes.get("/watches")
    async def watches(operator: Asking) -> WatchesView:
        """Every reference that is watched."""
        names = visible_names(desired, operator)
        found = [watch_view(item) for item in watching.standings() if item.watched.endpoint in names]
        return WatchesView(watches=found)

    @routes.get("/endpoints/{endpoint}/watch", dependencies=visible)
    async def watch(endpoint: str) -> WatchView:
        """The reference of one endpoint. 409 when it is not watched."""
        return watch_view(watching.standing(endpoint))

    @routes.post("/endpoints/{endpoint}/watch/accept", dependencies=visible)
    async def accept(endpoint: str, by: Caller, request: Annotated[AcceptRequest, Body()] = _PLAIN_YES) -> WatchView:
        """Roll out what the reference names now: at once, also outside the window, also when it was barred.

        It is fetched and checked first where it has not been. Refused with 409 when there is nothing to accept.
        """
        return watch_view(await watching.accept(endpoint, Consent(by, request.allow_signature_change)))

    return routes


def watch_view(standing: Standing) -> WatchView:
    watched, staleness_s = standing.watched, standing.staleness_s
    return WatchView(
        endpoint=watched.endpoint,
        ref=watched.ref,
        policy=standing.terms.watch.policy,
        stage=type(watched.stage).__name__.lower(),
        in_service=_known_view(watched.service),
        model=_other_model(watched),
        waits_for=standing.waits_for,
        accepted_by=_accepted_by(watched),
        rollout=watched.stage.rollout if isinstance(watched.stage, Rolling) else "",
        barred=[_barred_view(bar) for bar in watched.barred],
        answered_at=watched.answered_at,
        staleness_s=None if staleness_s is None else round(staleness_s, 1),
        next_at=watched.next_at,
        failures=watched.failures,
        trouble=watched.trouble,
    )


def _other_model(watched: Watched) -> KnownView | None:
    match watched.stage:
        case Moved(model) | Ready(model) | Rolling(model) | Stopped(model):
            return _known_view(model)
        case _:
            return None


def _accepted_by(watched: Watched) -> str:
    match watched.stage:
        case Moved(consent=consent) | Ready(consent=consent) if consent is not None:
            return consent.by
        case _:
            return ""


def _known_view(known: Known) -> KnownView:
    return KnownView(pinned=known.pinned, version=known.version, revision=known.revision, sha256=known.digest)


def _barred_view(bar: Barred) -> BarredView:
    return BarredView(model=_known_view(bar.model), reason=bar.reason, at=bar.at)
