"""Blobs of model archives on the disk: read as they lie, and gathered in a folder that goes when it is left."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO

from router.domain.errors import ModelUnavailable
from router.domain.model_tree import checked_digest
from router.models.cache_ports import NoRoom

_CHUNK_BYTES = 1024 * 1024
_KEEP_FREE_BYTES = 512 * 1024**2
_ABANDONED_AFTER_S = 86400.0


class ArchiveDisk:
    """Implements `router.models.cache_ports.Disk`. Stages are made in `folder`, beside the cache and on its disk."""

    def __init__(self, folder: Path, keep_free_bytes: int = _KEEP_FREE_BYTES) -> None:
        self._folder = folder
        self._keep_free_bytes = keep_free_bytes

    @asynccontextmanager
    async def stage(self) -> AsyncIterator[BlobStage]:
        with _translated(self._folder):
            place = await asyncio.to_thread(self._new_place)
        try:
            stage = BlobStage(place, self._keep_free_bytes)
            try:
                yield stage
            finally:
                stage.close()
        finally:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)

    def read(self, path: str) -> AsyncIterator[bytes]:
        return _chunks(Path(path), 0)

    def _new_place(self) -> Path:
        """Also takes away what a process that was killed has left."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._folder.iterdir():
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=self._folder))


class BlobStage:
    """Implements `router.models.cache_ports.Stage`. A blob is seen under its digest, which it has."""

    def __init__(self, place: Path, keep_free_bytes: int) -> None:
        self._place = place
        self._keep_free_bytes = keep_free_bytes
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()

    async def begin(self, size: int) -> None:
        with _translated(self._place):
            free = shutil.disk_usage(self._place).free
            if free - 2 * size < self._keep_free_bytes:  # it is copied into the cache
                raise NoRoom(f"no room on the disk of {self._place.parent}: {free} bytes are free: free some space")
            self.close()
            self._hash = hashlib.sha256()
            self._file = (self._place / "part").open("wb", buffering=0)

    async def write(self, data: bytes) -> None:
        with _translated(self._place):
            await asyncio.to_thread(self._write, data)

    async def end(self) -> str:
        with _translated(self._place):
            self.close()
            digest = self._hash.hexdigest()
            (self._place / "part").rename(self._place / digest)
            return digest

    def read(self, sha256: str, offset: int) -> AsyncIterator[bytes]:
        return _chunks(self._place / checked_digest(sha256), offset)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]


async def _chunks(path: Path, offset: int) -> AsyncIterator[bytes]:
    with _translated(path), await asyncio.to_thread(path.open, "rb", 0) as file:
        os.lseek(file.fileno(), offset, os.SEEK_SET)
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom(f"the disk of {path} is full: free some space (crossfade model gc), try again") from error
        raise ModelUnavailable(f"{path} cannot be used: {error.strerror or error}") from error
