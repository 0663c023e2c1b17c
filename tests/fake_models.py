"""Models without a disk: a cache and records in memory. The cache passes the same contract suite as the real one."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

from router.desired import Desired
from router.domain.model_tree import ModelTree, TreeFile
from router.domain.provenance import History, Record
from router.events import EventLog
from router.models.cache_ports import Collected, Corrupt, Kept, Progress, Read
from router.models.catalogue import Catalogue
from router.models.freshness import Freshness
from router.models.ports import Resolution, Source
from router.models.pulling import Pulling
from router.models.pulls import Pulls


class MemoryCache:
    """Implements `Cache`: what is fetched is counted and hashed, and forgotten. `damaged`: digests."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._kept: dict[str, Kept] = {}
        self._fetched: dict[tuple[str, str], str] = {}
        self.damaged: set[str] = set()

    async def find(self, digest: str) -> Kept | None:
        return self._kept.get(digest)

    async def known(self, resolution: Resolution) -> Kept | None:
        digest = self._fetched.get((resolution.pinned, resolution.revision), "")
        if not digest and all(file.sha256 for file in resolution.files):
            digest = ModelTree.of(TreeFile(it.path, it.size, it.sha256) for it in resolution.files).digest
        return self._kept.get(digest)

    async def fetch(self, resolution: Resolution, read: Read, progress: Progress) -> Kept:
        progress.expects(sum(file.size for file in resolution.files))
        files = []
        for file in resolution.files:
            content = b""
            async with read(file, 0) as download:
                async for chunk in download.chunks:
                    progress.has(len(chunk), is_new=True)
                    content += chunk
            files.append(TreeFile(file.path, len(content), hashlib.sha256(content).hexdigest()))
        tree = ModelTree.of(files)
        self._kept[tree.digest] = Kept(f"/models/trees/{tree.digest}", tree, self._now(), self._now())
        self._fetched[resolution.pinned, resolution.revision] = tree.digest
        return self._kept[tree.digest]

    async def verify(self, digest: str) -> Kept | None:
        if digest in self.damaged:
            self.damaged.discard(digest)
            self._kept.pop(digest, None)
            raise Corrupt(digest, "its files have other digests")
        return self._kept.get(digest)

    async def entries(self) -> tuple[Kept, ...]:
        return tuple(self._kept[digest] for digest in sorted(self._kept))

    async def collect(self, keep: Collection[str], unused_for_s: float) -> Collected:
        gone = [digest for digest in sorted(self._kept) if digest not in keep]
        freed = sum(self._kept.pop(digest).tree.size for digest in gone)
        return Collected(tuple(gone), freed)


class MemoryRecords:
    """Implements `Records`, without durability."""

    def __init__(self) -> None:
        self._history = History()

    @property
    def history(self) -> History:
        return self._history

    async def append(self, record: Record) -> None:
        self._history = self._history.with_(record)


class MemoryDisk:
    """Implements `Disk`. `files`: by the last part of their paths."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files

    @asynccontextmanager
    async def stage(self) -> AsyncIterator[MemoryStage]:
        yield MemoryStage()

    def read(self, path: str) -> AsyncIterator[bytes]:
        return _halves(self.files[path.rpartition("/")[2]])


class MemoryStage:
    """Implements `Stage`."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._part = b""

    async def begin(self, size: int) -> None:
        self._part = b""

    async def write(self, data: bytes) -> None:
        self._part += data

    async def end(self) -> str:
        digest = hashlib.sha256(self._part).hexdigest()
        self._blobs[digest] = self._part
        return digest

    def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        return _halves(self._blobs[sha256][offset:])


async def _halves(content: bytes) -> AsyncIterator[bytes]:
    middle = len(content) // 2
    yield content[:middle]
    yield content[middle:]


class ModelBench:
    """Pulling, and the catalogue over it, on fakes."""

    def __init__(self, source: Source, desired: Desired, events: EventLog, now: Callable[[], datetime]) -> None:
        self.cache = MemoryCache(now)
        self.records = MemoryRecords()
        self.pulling = Pulling(source, self.cache, self.records, Freshness(), now)
        self.catalogue = Catalogue(self.pulling, Pulls(self.pulling, events, now), desired, events)
