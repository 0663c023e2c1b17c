"""One `Source` out of many: asks the one that is responsible for a reference's scheme."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef
from router.models.ports import Download, RemoteFile, Resolution, Source


class ModelSources:
    """Scheme → source. Implements `router.models.ports.Source`. Sources never see which file of a model is chosen."""

    def __init__(self, by_scheme: Mapping[str, Source]) -> None:
        self._by_scheme = dict(by_scheme)

    async def resolve(self, ref: ModelRef) -> Resolution:
        """Raises `ModelUnavailable`, also when nobody is responsible for the scheme."""
        return await self._source(ref).resolve(ref.whole)

    def read(self, resolution: Resolution, file: RemoteFile, offset: int) -> AbstractAsyncContextManager[Download]:
        return self._source(resolution.ref).read(resolution, file, offset)

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        return await self._source(ref).has_moved(ref.whole, revision)

    def _source(self, ref: ModelRef) -> Source:
        source = self._by_scheme.get(ref.scheme)
        if source is None:
            raise ModelUnavailable(f"{ref}: this gateway has no source for {ref.scheme!r} models")
        return source
