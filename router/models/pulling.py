"""From a reference to a model in the cache: resolve, fetch what is not here, record. No I/O of its own.

Who is asked: nobody, for a reference that always names the same (its pinned form is what was written) and whose model
is here; else its source. What the source then names is not fetched when it is here under any name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.model_tree import entry_of
from router.domain.provenance import Pulled
from router.models.cache_ports import Cache, Kept, Progress, Read, Records
from router.models.freshness import Freshness
from router.models.onlookers import Silent, looked_on_by
from router.models.ports import Resolution, Source


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is here. `is_fetched`: it was not before."""

    resolved: ResolvedModel
    kept: Kept
    origin: Pulled
    is_fetched: bool


class Pulling:
    """Implements `router.ports.ModelSource`. `now` returns aware UTC."""

    def __init__(
        self, source: Source, cache: Cache, records: Records, freshness: Freshness, now: Callable[[], datetime]
    ) -> None:
        self.source = source
        self.cache = cache
        self.records = records
        self.freshness = freshness
        self._now = now

    async def resolve(self, ref: ModelRef, by: str) -> ResolvedModel:
        """Raises `ModelUnavailable`."""
        return (await self.pull(ref, by)).resolved

    async def look_up(self, ref: ModelRef, progress: Progress | None = None) -> Resolution:
        """What the reference names now, as its source says. Raises `ModelUnavailable`.

        `progress`: told by a source that has to fetch something to know, such as the layers of an image.
        """
        try:
            with looked_on_by(progress or Silent()):
                resolution = await self.source.resolve(ref)
        except ModelUnavailable as error:
            self.freshness.failed(str(ref.whole), str(error), self._now())
            raise
        self.freshness.answered(str(ref.whole), self._now())
        return resolution

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        """Whether it names something else than `revision` by now. Raises `ModelUnavailable`."""
        try:
            has_moved = await self.source.has_moved(ref, revision)
        except ModelUnavailable as error:
            self.freshness.failed(str(ref.whole), str(error), self._now())
            raise
        self.freshness.answered(str(ref.whole), self._now())
        return has_moved

    async def pull(self, ref: ModelRef, by: str, progress: Progress | None = None) -> Model:
        """Have the model here, and record where it came from. Raises `ModelUnavailable`, `StoreFailed`."""
        origin = self.records.history.named_for_good(str(ref.whole))
        if origin and (kept := await self.cache.find(origin.digest)):
            return Model(located(kept, ref), kept, origin, is_fetched=False)
        return await self._keep(await self.look_up(ref, progress), ref, by, progress or Silent())

    async def take_in(self, resolution: Resolution, read: Read, by: str) -> Kept:
        """Keep a model that came another way than from its source, under the names that it came with.

        Whoever names it by its pinned form gets it from here on without asking anybody. Raises as `pull` does.
        """
        kept = await self.cache.known(resolution)
        if kept is None:
            kept = await self.cache.fetch(resolution, read, Silent())
        await self._recorded(resolution, kept.tree.digest, by)
        with contextlib.suppress(Invalid):  # its source has words of its own for it
            pinned = replace(resolution, ref=ModelRef.parse(resolution.pinned))
            await self._recorded(pinned, kept.tree.digest, by)
        return kept

    async def pull_again(self, origin: Pulled, by: str, progress: Progress | None = None) -> Kept:
        """Have exactly this model here once more. Raises `ModelUnavailable`, also when another one came."""
        try:
            ref = ModelRef.parse(origin.pinned)
        except Invalid:  # its source has words of its own for it
            ref = ModelRef.parse(origin.ref)
        kept = (await self._keep(await self.look_up(ref, progress), ref, by, progress or Silent())).kept
        if kept.tree.digest != origin.digest:
            raise ModelUnavailable(f"{ref}: is another model by now")
        return kept

    async def _keep(self, resolution: Resolution, ref: ModelRef, by: str, progress: Progress) -> Model:
        kept = await self.cache.known(resolution)
        is_fetched = kept is None
        if kept is None:
            with looked_on_by(progress):
                kept = await self.cache.fetch(
                    resolution, lambda file, at: self.source.read(resolution, file, at), progress
                )
        resolved = located(kept, ref)
        return Model(resolved, kept, await self._recorded(resolution, resolved.sha256, by), is_fetched)

    async def _recorded(self, resolution: Resolution, digest: str, by: str) -> Pulled:
        pulled = Pulled(
            self._now(),
            by,
            str(resolution.ref),
            resolution.pinned,
            resolution.revision,
            digest,
            resolution.version,
            tuple(sorted(resolution.lineage.items())),
        )
        latest = next(iter(self.records.history.pulls_by(pulled.ref)), None)
        if latest and _same(latest, pulled):
            return latest
        await self.records.append(pulled)
        return pulled


def _same(one: Pulled, other: Pulled) -> bool:
    """But for who asked, and when."""
    return (one.pinned, one.revision, one.digest, one.version, one.lineage) == (
        other.pinned,
        other.revision,
        other.digest,
        other.version,
        other.lineage,
    )


def located(kept: Kept, ref: ModelRef) -> ResolvedModel:
    """What a backend is given of it. Raises `ModelUnavailable` when no file of it can be that."""
    try:
        entry = entry_of(kept.tree, ref.entry)
    except Invalid as error:
        hint = f"; {error.hint}" if error.hint else ""
        raise ModelUnavailable(f"{ref}: {error.message}{hint}") from None
    return ResolvedModel(f"{kept.folder}/{entry}" if entry else kept.folder, kept.tree.digest)
