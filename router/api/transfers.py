"""Routes by which models leave and enter in a file. Both are streams: nothing is held in memory."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from router.api.operator import Caller
from router.api.shape import Shape
from router.domain.errors import CrossfadeError
from router.models.transfer import Transfer

ARCHIVE_PATH = "/api/v1/model-archive"  # its body is not gathered before the route is asked

_MODELS = Query(alias="model", min_length=1, max_length=1000, description="A reference that was pulled, or a digest.")
_NAME = Query(max_length=4096, description="What the only model is called here, instead of what the archive says.")


class ArrivedView(Shape):
    digest: str
    ref: str
    pinned: str
    size: int


class ArrivedModelsView(Shape):
    models: list[ArrivedView]


def transfer_routes(transfer: Transfer) -> APIRouter:
    routes = APIRouter(tags=["models"])

    @routes.get("/model-archive", response_class=StreamingResponse)
    async def export(models: Annotated[list[str], _MODELS]) -> StreamingResponse:
        """An OCI image layout in a tar, for networks with no line to any registry. Equal models give equal bytes."""
        archive = await transfer.export(models)
        headers = {"content-length": str(archive.size)}
        return StreamingResponse(archive.chunks, media_type="application/x-tar", headers=headers)

    @routes.post("/model-archive")
    async def take_in(request: Request, by: Caller, name: Annotated[str, _NAME] = "") -> ArrivedModelsView:
        """Keep every model of an OCI image layout, which is the body (a tar). All of it is verified first."""
        chunks = request.stream()
        try:
            arrived = await transfer.take_in(chunks, name, by)
        except CrossfadeError:
            async for _ in chunks:  # who still sends would not read the answer
                pass
            raise
        views = [
            ArrivedView(digest=it.kept.tree.digest, ref=it.ref, pinned=it.pinned, size=it.kept.tree.size)
            for it in arrived
        ]
        return ArrivedModelsView(models=views)

    return routes
