"""Routes about the keys of endpoints."""

from __future__ import annotations

from fastapi import APIRouter

from router.api import shapes
from router.api.operator import Caller
from router.domain.callers import ApiKey, KeySlot
from router.keys import Issued, Keys


def key_routes(keys: Keys) -> APIRouter:
    routes = APIRouter(tags=["keys"])

    @routes.get("/endpoints/{name}/keys")
    async def list_keys(name: str) -> shapes.KeysView:
        """The keys of an endpoint. A key itself is shown once, when it is made."""
        return shapes.KeysView(keys=[_view(key) for key in keys.of(name)])

    @routes.post("/endpoints/{name}/keys")
    async def create_key(name: str, by: Caller) -> shapes.IssuedKeyView:
        """Make the endpoint's primary key; or, when it has one, the secondary. Refused with 409 when it has both."""
        return _issued(await keys.create(name, by))

    @routes.post("/endpoints/{name}/keys/{slot}/regenerate")
    async def regenerate_key(name: str, slot: KeySlot, by: Caller) -> shapes.IssuedKeyView:
        """Replace a key. The old one stops at once; callers that use the other one notice nothing."""
        return _issued(await keys.regenerate(name, slot, by))

    @routes.delete("/endpoints/{name}/keys/{slot}")
    async def revoke_key(name: str, slot: KeySlot, by: Caller) -> shapes.RevokedKeyView:
        """Take a key away. Replies when no proxy accepts it any more, or says that one has not answered."""
        return shapes.RevokedKeyView(endpoint=name, slot=slot, in_force=await keys.revoke(name, slot, by))

    return routes


def _issued(issued: Issued) -> shapes.IssuedKeyView:
    return shapes.IssuedKeyView(key=issued.key, kept=_view(issued.kept), in_force=issued.is_in_force)


def _view(key: ApiKey) -> shapes.KeyView:
    return shapes.KeyView(
        slot=key.slot, fingerprint=key.fingerprint, created_at=key.created_at, created_by=key.created_by
    )
