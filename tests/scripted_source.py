"""A source that does what a test says: files in memory, a link that breaks, bytes that are not those announced."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef
from router.models.ports import Download, RemoteFile, Resolution, SourceUnavailable

CHUNK_BYTES = 64 * 1024


@dataclass
class ScriptedSource:
    """Implements `router.models.ports.Source`: every reference names `files`.

    `breaks_after`: how many bytes each connection lives; 0: it does not break. `has_…`: what kind of source it is.
    `trouble`: what resolving raises; `held`: what it waits for first. `altered`: what bytes become on their way.
    """

    files: Mapping[str, bytes]
    breaks_after: int = 0
    has_ranges: bool = True
    has_sizes: bool = True
    has_digests: bool = True
    trouble: ModelUnavailable | None = None
    revision: str = "r1"
    pinned: str = ""
    held: asyncio.Event | None = None
    altered: Callable[[bytes], bytes] = lambda content: content
    reads: list[tuple[str, int]] = field(default_factory=list)  # file and offset of every connection
    sent: int = 0
    resolved: int = 0

    def listing(self, ref: ModelRef) -> Resolution:
        files = tuple(
            RemoteFile(
                name,
                len(content) if self.has_sizes else -1,
                hashlib.sha256(content).hexdigest() if self.has_digests else "",
                name,
            )
            for name, content in self.files.items()
        )
        return Resolution(ref, self.pinned or f"{ref}@{self.revision}", self.revision, files, lineage={"run_id": "7"})

    async def resolve(self, ref: ModelRef) -> Resolution:
        self.resolved += 1
        if self.held:
            await self.held.wait()
        if self.trouble:
            raise self.trouble
        return self.listing(ref)

    @asynccontextmanager
    async def read(self, resolution: Resolution, file: RemoteFile, offset: int) -> AsyncIterator[Download]:
        self.reads.append((file.path, offset))
        content = self.altered(self.files[file.locator])
        start = offset if self.has_ranges else 0
        if self.has_ranges and offset and offset >= len(content):
            raise ModelUnavailable("416: there is no such range")
        yield Download(start, self._chunks(content[start:]))

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        return revision != self.revision

    async def _chunks(self, content: bytes) -> AsyncIterator[bytes]:
        end = self.breaks_after or len(content)
        for at in range(0, min(end, len(content)), CHUNK_BYTES):
            chunk = content[at : min(at + CHUNK_BYTES, end)]
            self.sent += len(chunk)
            yield chunk
        if end < len(content):
            raise SourceUnavailable("the connection was closed")
