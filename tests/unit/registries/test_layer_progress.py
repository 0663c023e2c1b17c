"""Who looks on while the layers of an image come sees how many bytes there are, how many came, and how fast."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.registries.oci_layers import LayerSpool
from adapters.registries.oci_manifest import Blob, Packed
from adapters.registries.tar_members import Compression
from router.models.onlookers import looked_on_by
from router.models.ports import SourceLimits
from router.models.progress import PullProgress
from tests.unit.registries.test_layer_spool import ARCHIVE, LAYER, MODEL, Remote


def spool_in(folder: Path) -> LayerSpool:
    return LayerSpool(folder / "spool", SourceLimits())


class Waiting(PullProgress):
    """`begun`: it was told why nothing comes."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        super().__init__(clock_s)
        self.begun = asyncio.Event()

    def waits(self, reason: str) -> None:
        super().waits(reason)
        if reason:
            self.begun.set()


def counted(progress: PullProgress) -> tuple[int, int]:
    """What is here, and what of it came over the line."""
    reading = progress.reading()
    return reading.done_bytes, reading.fetched_bytes


async def test_bytes_are_counted_as_they_come_and_not_again_when_the_layer_is_continued_or_here(tmp_path: Path) -> None:
    remote, first, second, third = Remote(), *(PullProgress(lambda: 0.0) for _ in range(3))
    with looked_on_by(first):
        stopped = asyncio.create_task(spool_in(tmp_path).changes(LAYER, remote.fetch, "m"))
    await asyncio.wait_for(remote.waits.wait(), 30)
    assert counted(first) == (3000, 3000)
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped
    remote.gate.set()
    with looked_on_by(second):
        await spool_in(tmp_path).changes(LAYER, remote.fetch, "m")
    assert counted(second) == (len(ARCHIVE), len(ARCHIVE) - 3000)
    with looked_on_by(third):
        await spool_in(tmp_path).changes(LAYER, remote.fetch, "m")
    assert counted(third) == (len(ARCHIVE), 0)


async def test_a_layer_that_comes_once_more_for_its_files_leaves_the_counting_of_these_to_who_takes_them(
    tmp_path: Path,
) -> None:
    remote, spool, progress = Remote(), spool_in(tmp_path), PullProgress(lambda: 0.0)
    remote.gate.set()
    await spool.changes(LAYER, remote.fetch, "m")
    await spool.drop_files(LAYER)
    with looked_on_by(progress):
        await spool.file(LAYER, 0, MODEL.size, remote.fetch, "m")
    assert counted(progress) == (0, len(ARCHIVE))


async def test_what_an_earlier_try_left_damaged_is_not_counted_twice(tmp_path: Path) -> None:
    content = gzip.compress(ARCHIVE)
    layer = Packed(Blob(hashlib.sha256(content).hexdigest(), len(content)), Compression.GZIP, "models", is_overlay=True)
    remote, progress = Remote(content), PullProgress(lambda: 0.0)
    remote.gate.set()
    spool = spool_in(tmp_path)
    await spool.changes(layer, remote.fetch, "m")
    (listing,) = (tmp_path / "spool").rglob("listing.json")
    listing.unlink()
    (listing.parent / "rest").write_bytes(b"something else")
    with looked_on_by(progress):
        await spool.changes(layer, remote.fetch, "m")
    assert progress.reading().done_bytes == len(content)


async def test_who_waits_for_another_to_fetch_the_layer_is_told_so(tmp_path: Path) -> None:
    remote, waiting = Remote(), Waiting(lambda: 0.0)
    other = asyncio.create_task(spool_in(tmp_path).changes(LAYER, remote.fetch, "m"))
    await asyncio.wait_for(remote.waits.wait(), 30)
    with looked_on_by(waiting):
        mine = asyncio.create_task(spool_in(tmp_path).changes(LAYER, remote.fetch, "m"))
    await asyncio.wait_for(waiting.begun.wait(), 30)
    assert waiting.reading().waiting == "another download of it"
    remote.gate.set()
    assert await other == await mine
    assert (waiting.reading().waiting, *counted(waiting)) == ("", len(ARCHIVE), 0)
