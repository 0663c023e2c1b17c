"""Routes about models: what is in the cache, and how it gets there."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

from fastapi import APIRouter, Query

from router.api import model_shapes as shapes
from router.api.model_views import lineage_view, model_view, pull_view, resolution_view
from router.api.operator import Asking, Caller
from router.api.oversight import Oversight
from router.desired import Desired
from router.domain.audit import Record
from router.domain.errors import Invalid
from router.domain.model_ref import ModelRef
from router.models.cache_ports import Corrupt
from router.models.catalogue import Catalogue
from router.models.pulls import PullState

_WAIT = Query(ge=0, le=60, description="Reply when it has ended, or after so many seconds.")


def model_routes(catalogue: Catalogue, desired: Desired, oversight: Oversight) -> APIRouter:
    routes = APIRouter(tags=["models"])
    pulls = catalogue.pulls

    async def note(by: str, action: str, subject: str, detail: str) -> None:
        record = Record(oversight.access.now(), by, action, subject, detail)
        await asyncio.to_thread(oversight.audit.add, (record,))

    @routes.get("/models")
    async def models(operator: Asking) -> shapes.ModelsView:
        """Every model in the cache."""
        return shapes.ModelsView(models=[model_view(entry, desired, operator) for entry in await catalogue.entries()])

    @routes.post("/models/resolve")
    async def resolve(request: shapes.ReferenceRequest) -> shapes.ResolutionView:
        """Ask a source what a reference names now. Nothing is fetched, but of an image the layers that hold its model:
        they say which files it has. Those take their time: a pull with `only_resolve` tells how far they are."""
        resolution, kept = await catalogue.resolve(_reference(request))
        return resolution_view(resolution, kept)

    @routes.post("/models/collect")
    async def collect(request: shapes.CollectRequest, by: Caller) -> shapes.CollectedView:
        """Remove models that nobody needs: no deployment serves them, or would go back to them."""
        collected = await catalogue.collect(request.keep_last, request.unused_for_s)
        if collected.digests:
            await note(by, "models_collected", "model cache", f"digests {', '.join(collected.digests)}")
        return shapes.CollectedView(digests=list(collected.digests), freed_bytes=collected.freed_bytes)

    @routes.get("/models/pulls")
    async def all_pulls() -> shapes.PullsView:
        """Pulls that are under way, and the last ones that ended. Oldest first."""
        return shapes.PullsView(pulls=[pull_view(pull) for pull in pulls.all()])

    @routes.post("/models/pulls")
    async def start_pull(
        request: shapes.PullRequest, by: Caller, timeout_s: Annotated[float, _WAIT] = 0.0
    ) -> shapes.PullView:
        """Begin to fetch a model into the cache. It goes on when the caller leaves."""
        pull = pulls.start(_reference(request), by, is_look_up=request.only_resolve)
        await pulls.ended(pull, timeout_s)
        return pull_view(pull)

    @routes.get("/models/pulls/{pull_id}")
    async def one_pull(pull_id: str, timeout_s: Annotated[float, _WAIT] = 0.0) -> shapes.PullView:
        """How far a pull is."""
        pull = pulls.find(pull_id)
        await pulls.ended(pull, timeout_s)
        return pull_view(pull)

    @routes.delete("/models/pulls/{pull_id}")
    async def cancel_pull(pull_id: str, by: Caller) -> shapes.PullView:
        """End a pull. What came so far is kept for the next try."""
        was_running = pulls.find(pull_id).state is PullState.RUNNING
        pull = await pulls.cancel(pull_id)
        if was_running:
            await note(by, "pull_cancelled", str(pull.ref), f"pull {pull_id}")
        return pull_view(pull)

    @routes.get("/models/{digest}")
    async def model(digest: str, operator: Asking) -> shapes.ModelView:
        """One model; the first digits of its digest are enough."""
        return model_view(await catalogue.find(digest), desired, operator)

    @routes.post("/models/{digest}/verify")
    async def verify(digest: str) -> shapes.VerifiedView:
        """Read a model again (about 1 GB/s). One that was damaged is put aside, and can be pulled anew."""
        whole = (await catalogue.find(digest)).kept.tree.digest
        try:
            await catalogue.verify(whole)
        except Corrupt as error:
            return shapes.VerifiedView(digest=whole, is_intact=False, reason=str(error))
        return shapes.VerifiedView(digest=whole, is_intact=True, reason="")

    return routes


def _reference(request: shapes.ReferenceRequest) -> ModelRef:
    """Raises `Invalid`."""
    ref = ModelRef.parse(request.reference)
    if ref.scheme == "file" and not os.path.isabs(ref.location):
        raise Invalid("reference", f"{ref} is a relative path", "write the absolute path: file:/srv/models/m.onnx")
    return ref


def lineage_routes(catalogue: Catalogue, desired: Desired) -> APIRouter:
    routes = APIRouter(tags=["models"])

    @routes.get("/endpoints/{endpoint}/deployments/{name}/lineage")
    async def lineage(endpoint: str, name: str) -> shapes.LineageView:
        """Where a deployment's model came from, and what was looked at before it got traffic."""
        deployed = desired.state(endpoint).deployment(name)
        return lineage_view(deployed.model_sha256, catalogue.lineage(deployed))

    return routes
