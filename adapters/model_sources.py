"""One `ModelSource` out of many: asks the source that is responsible for a reference's scheme."""

from __future__ import annotations

from collections.abc import Mapping

from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef, ResolvedModel
from router.ports import ModelSource


class ModelSources:
    """Scheme → source. Implements `router.ports.ModelSource`."""

    def __init__(self, by_scheme: Mapping[str, ModelSource]) -> None:
        self._by_scheme = dict(by_scheme)

    async def resolve(self, ref: ModelRef) -> ResolvedModel:
        """Raises `ModelUnavailable`, also when nobody is responsible for the scheme."""
        source = self._by_scheme.get(ref.scheme)
        if source is None:
            raise ModelUnavailable(f"{ref}: this gateway has no source for {ref.scheme!r} models")
        return await source.resolve(ref)
