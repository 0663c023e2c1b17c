"""What the pulling of models needs of this machine: the cache, the records, and somebody who is told how far it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from router.domain.errors import ModelUnavailable
from router.domain.model_tree import ModelTree
from router.domain.provenance import History, Record
from router.models.ports import Download, RemoteFile, Resolution

# The file's bytes from an offset on: `Source.read` of one resolution.
Read = Callable[[RemoteFile, int], AbstractAsyncContextManager[Download]]


class Corrupt(ModelUnavailable):
    """A model in the cache is not what it was. It was put aside, and is no longer found."""

    def __init__(self, digest: str, found: str) -> None:
        super().__init__(f"model {digest[:12]} in the cache is damaged and was put aside: {found}")
        self.digest = digest


class NoRoom(ModelUnavailable):
    """The disk is full, or would be."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A model in the cache: a read-only folder that holds exactly the files of `tree`. `used_at`: when last found."""

    folder: str
    tree: ModelTree
    added_at: datetime
    used_at: datetime


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed: digests of models, and bytes in all, with what unfinished and damaged ones took."""

    digests: tuple[str, ...]
    freed_bytes: int


class Progress(Protocol):
    """Told how far a pull is. Every call returns at once."""

    def expects(self, total_bytes: int) -> None:
        """How much there is in all; -1 when nobody knows. The count begins again: what a source had to fetch to know
        what there is has been counted before, against a total of its own."""

    def has(self, byte_count: int, *, is_new: bool) -> None:
        """So many more bytes are here; not `is_new`: they lay here already from an earlier try."""

    def lost(self, byte_count: int) -> None:
        """So many bytes are to be fetched again."""

    def waits(self, reason: str) -> None:
        """Nothing comes for a while; empty when it goes on."""


class Cache(Protocol):
    """Models by digest. Several processes may use the same one. Everything raises `ModelUnavailable` for trouble with
    the disk."""

    async def find(self, digest: str) -> Kept | None:
        """Looks at names, sizes and kinds of the files; whoever loads the model verifies its digest."""

    async def known(self, resolution: Resolution) -> Kept | None:
        """What was fetched for a resolution before, or is here with the digests that its source vouches for."""

    async def fetch(self, resolution: Resolution, read: Read, progress: Progress) -> Kept:
        """Fetch what is not here yet, and keep it. Raises `NoRoom`, `SourceUnavailable` after bounded tries, and
        `ModelUnavailable` for what is larger, other or worse named than it may be. What came so far is kept for the
        next try."""

    async def verify(self, digest: str) -> Kept | None:
        """Read everything. Raises `Corrupt`. None: there is no such model."""

    async def entries(self) -> tuple[Kept, ...]:
        """All models, by digest."""

    async def collect(self, keep: Collection[str], unused_for_s: float) -> Collected:
        """Remove the models that are not in `keep` and that nobody looked for, for so long; and what is left over of
        downloads that nobody continues."""


class Records(Protocol):
    """Durable, append-only."""

    @property
    def history(self) -> History: ...

    async def append(self, record: Record) -> None:
        """Returns when it is durable. Raises `StoreFailed`."""


class Stage(Protocol):
    """A folder that is filled with blobs and goes when it is left. Raises `ModelUnavailable`, `NoRoom`."""

    async def begin(self, size: int) -> None:
        """A blob of so many bytes is to come."""

    async def write(self, data: bytes) -> None: ...

    async def end(self) -> str:
        """The blob is whole. Returns its sha256."""

    def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        """A blob that is whole."""


class Disk(Protocol):
    """Files as they lie, for what enters and leaves the cache in an archive."""

    def stage(self) -> AbstractAsyncContextManager[Stage]: ...

    def read(self, path: str) -> AsyncIterator[bytes]:
        """Raises `ModelUnavailable`."""
