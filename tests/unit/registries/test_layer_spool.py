"""The spool of archives: fetched once however many want them, tidied, and left in order by who was stopped."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from adapters.registries.oci_layers import LayerSpool
from adapters.registries.oci_manifest import Blob, Packed
from adapters.registries.oci_overlay import Change, Put, Remove
from adapters.registries.tar_members import Compression
from router.domain.errors import ModelUnavailable
from router.models.ports import Download, SourceLimits
from tests.registries.oci.archives import member, packed, tar_of

DAY_S = 24 * 3600.0
ARCHIVE = tar_of({"models/a/m.onnx": b"model", "models/.wh.b": b"", "etc/passwd": b"x"})
BLOB = Blob(hashlib.sha256(ARCHIVE).hexdigest(), len(ARCHIVE))
LAYER = Packed(BLOB, Compression.NONE, root="models", is_overlay=True)
MODEL = Put("a/m.onnx", 5, hashlib.sha256(b"model").hexdigest())


@dataclass
class Remote:
    """A blob somewhere, and from where on it was asked for. `waits`: it does, after the first part, for the `gate`."""

    content: bytes = ARCHIVE
    offsets: list[int] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waits: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def fetch(self, offset: int) -> AsyncIterator[Download]:
        self.offsets.append(offset)
        yield Download(offset, self._chunks(offset))

    async def _chunks(self, offset: int) -> AsyncIterator[bytes]:
        yield self.content[offset : offset + 3000]
        self.waits.set()
        await self.gate.wait()
        yield self.content[offset + 3000 :]


@pytest.fixture
def remote() -> Remote:
    made = Remote()
    made.gate.set()
    return made


@pytest.fixture
def spool(tmp_path: Path) -> LayerSpool:
    return LayerSpool(tmp_path / "spool", SourceLimits())


def files_in(folder: Path, name: str = "*") -> list[Path]:
    return [path for path in (folder / "spool").rglob(name) if path.is_file() and path.name != "lock"]


async def test_two_that_want_the_same_layer_fetch_it_once(tmp_path: Path, remote: Remote) -> None:
    spools = [LayerSpool(tmp_path / "spool", SourceLimits()) for _ in range(2)]  # as two processes have it
    both = await asyncio.gather(*(spool.changes(LAYER, remote.fetch, "m") for spool in spools))
    expected: tuple[Change, ...] = (MODEL, Remove("b"))
    assert both == [expected, expected]
    assert len(remote.offsets) == 1


async def test_who_is_stopped_leaves_what_came_for_the_next(tmp_path: Path, spool: LayerSpool, remote: Remote) -> None:
    remote.gate.clear()
    stopped = asyncio.create_task(spool.changes(LAYER, remote.fetch, "m"))
    await asyncio.wait_for(remote.waits.wait(), 30)
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped
    remote.gate.set()
    assert await spool.changes(LAYER, remote.fetch, "m") == (MODEL, Remove("b"))
    assert remote.offsets == [0, 3000]


async def test_a_file_is_there_after_it_was_listed_and_comes_back_when_it_was_dropped(
    tmp_path: Path, spool: LayerSpool, remote: Remote
) -> None:
    await spool.changes(LAYER, remote.fetch, "m")
    assert (await spool.file(LAYER, 0, MODEL.size, remote.fetch, "m")).read_bytes() == b"model"
    assert len(remote.offsets) == 1
    await spool.drop_files(LAYER)
    assert [path.name for path in files_in(tmp_path)] == ["listing.json"]
    assert (await spool.file(LAYER, 0, MODEL.size, remote.fetch, "m")).read_bytes() == b"model"
    assert len(remote.offsets) == 2
    with pytest.raises(ModelUnavailable, match="has no such file"):
        await spool.file(LAYER, 1, 5, remote.fetch, "m")


async def test_files_go_after_a_day_and_listings_after_a_month(
    tmp_path: Path, spool: LayerSpool, remote: Remote
) -> None:
    await spool.changes(LAYER, remote.fetch, "m")
    made_s = max(path.stat().st_mtime for path in files_in(tmp_path))
    spool.tidy(made_s + DAY_S - 60)
    assert len(files_in(tmp_path)) == 2
    spool.tidy(made_s + DAY_S + 60)
    assert [path.name for path in files_in(tmp_path)] == ["listing.json"]
    spool.tidy(made_s + 31 * DAY_S)
    assert files_in(tmp_path) == []


async def test_a_listing_that_cannot_be_read_is_made_again(tmp_path: Path, spool: LayerSpool, remote: Remote) -> None:
    await spool.changes(LAYER, remote.fetch, "m")
    (listing,) = files_in(tmp_path, "listing.json")
    for spoiled in (b"", b"[[1]]", b'[["a", 1]]', b"{}x"):
        listing.write_bytes(spoiled)
        assert await spool.changes(LAYER, remote.fetch, "m") == (MODEL, Remove("b"))


async def test_a_disk_without_room_is_told_before_anything_is_fetched(spool: LayerSpool, remote: Remote) -> None:
    with pytest.raises(ModelUnavailable, match="bytes free, which are too few"):
        await spool.changes(Packed(Blob("0" * 64, 1 << 60), Compression.NONE, "models"), remote.fetch, "m")
    assert len(remote.offsets) == 0


async def test_names_of_the_archive_never_become_names_on_the_disk(tmp_path: Path, spool: LayerSpool) -> None:
    archive = packed(member("models/very-special-name", b"x"), member("models/..hidden", b"y"))
    layer = Packed(Blob(hashlib.sha256(archive).hexdigest(), len(archive)), Compression.NONE, "models", True)
    remote = Remote(archive)
    remote.gate.set()
    await spool.changes(layer, remote.fetch, "m")
    names = {name for _, folders, files in os.walk(tmp_path) for name in (*folders, *files)}
    assert not [name for name in names if "special" in name or "hidden" in name]
