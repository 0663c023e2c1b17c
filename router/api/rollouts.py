"""Routes about rollouts, as the domain keeps them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from router.domain.plain import from_plain, to_plain
from router.domain.rollout import Rollout, RolloutSpec
from router.rollout_ports import Rollouts


def rollout_routes(rollouts: Rollouts) -> APIRouter:
    routes = APIRouter(prefix="/endpoints/{name}/rollout", tags=["rollouts"])
    by = "admin"

    def shown(rollout: Rollout) -> dict[str, Any]:
        plain: dict[str, Any] = to_plain(rollout)
        return plain

    @routes.post("")
    async def start(name: str, spec: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        return shown(await rollouts.start(from_plain(RolloutSpec, {"endpoint": name, **spec}), by))

    @routes.get("")
    async def latest(name: str) -> dict[str, Any]:
        return shown(rollouts.latest(name))

    @routes.get("/trail")
    async def trail(name: str) -> dict[str, Any]:
        return {"entries": [{"rollout": it.rollout_id, **to_plain(it.what)} for it in rollouts.trail(name)]}

    @routes.post("/{command}")
    async def command(name: str, command: str, full: Annotated[bool, Query()] = False) -> dict[str, Any]:
        match command:
            case "pause":
                return shown(await rollouts.pause(name, by))
            case "resume":
                return shown(await rollouts.resume(name, by))
            case "promote":
                return shown(await rollouts.promote(name, by, is_full=full))
            case "abort":
                return shown(await rollouts.abort(name, by))
            case _:
                return shown(await rollouts.undo(name, by))

    return routes
