"""Where the watcher gets models from: the sources, the cache and the gate before traffic, behind one door."""

from __future__ import annotations

import asyncio

from router.domain.deployment import DeployedModel
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef, ResolvedModel
from router.models.cache_ports import NoRoom
from router.models.ports import AccessDenied, Resolution, SourceUnavailable
from router.models.pulling import Pulling, located
from router.models.watch_ports import Spoilt, Wanted
from router.ports import ModelSource

_MAX_AT_ONCE = 2  # models that are fetched or checked although nobody waits for them
_BY = "crossfade"


class CachedSupply:
    """Implements `Supply`. `gate`: says who may serve."""

    def __init__(self, pulling: Pulling, gate: ModelSource) -> None:
        self._pulling = pulling
        self._gate = gate
        self._limit = asyncio.Semaphore(_MAX_AT_ONCE)

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        return await self._pulling.has_moved(ref, revision)

    async def resolve(self, ref: ModelRef) -> Resolution:
        return await self._pulling.look_up(ref)

    async def prepare(self, wanted: Wanted) -> ResolvedModel:
        ref = wanted.deployment.reference
        async with self._limit:
            try:
                model = await self._pulling.pull(ref, _BY)
            except (SourceUnavailable, AccessDenied, NoRoom):
                raise
            except ModelUnavailable as error:
                raise Spoilt(str(error)) from error
            if model.origin.revision != wanted.resolution.revision:
                raise SourceUnavailable(f"{ref}: it names another model by now")
            deployed = DeployedModel(wanted.deployment, model.resolved)
            may_change = wanted.may_change_signature
            await self._gate.approve(deployed, wanted.state, is_signature_change_allowed=may_change)
            return model.resolved

    async def fetched(self, ref: ModelRef, sha256: str) -> ResolvedModel:
        kept = await self._pulling.cache.find(sha256)
        if kept is None:
            raise ModelUnavailable(f"{ref}: its model {sha256[:12]} is not in the cache any more")
        return located(kept, ref)

    def revision_of(self, ref: ModelRef, sha256: str) -> str:
        origin = self._pulling.records.history.origin(sha256, str(ref.whole))
        return origin.revision if origin else ""
