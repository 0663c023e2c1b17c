"""Fetching one blob of a registry to a file: goes on where it ended, counts, and believes only the digest."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from io import BufferedRandom
from pathlib import Path

from adapters.registries.oci_manifest import Blob
from router.domain.errors import ModelUnavailable
from router.models.ports import Download, SourceUnavailable

Fetch = Callable[[int], AbstractAsyncContextManager[Download]]
"""A blob's bytes from an offset on."""

PAUSES_S = (1.0, 2.0, 4.0)
"""Between attempts that bring nothing; the transport has had its patience in each."""


async def fetched(part: Path, blob: Blob, fetch: Fetch, where: str, pauses_s: Sequence[float] = PAUSES_S) -> None:
    """Bring the blob to `part`, whole and checked; what is there of an earlier attempt is not fetched again.

    Raises `SourceUnavailable` when the link stays broken, with `part` kept for the next time; `ModelUnavailable` when
    something else came than the digest says; `OSError`.
    """
    with await asyncio.to_thread(part.open, "a+b") as file:
        if _size(file) > blob.size:
            _cut(file, 0)
        vain = 0
        while (before := _size(file)) < blob.size:
            begins_again = False
            try:
                async with fetch(before) as download:
                    begins_again = download.starts_at < before
                    _cut(file, download.starts_at)
                    await _append(file, download.chunks, blob.size, where)
            except SourceUnavailable:
                # Who always begins at 0 makes no progress, however much comes.
                vain = vain + 1 if begins_again or _size(file) <= before else 0
                if vain > len(pauses_s):
                    raise
                await asyncio.sleep(pauses_s[vain - 1] if vain else 0.0)
        found = await asyncio.to_thread(_sha256, file)
        if found != blob.digest:
            _cut(file, 0)
            raise ModelUnavailable(
                f"{where}: the registry sent something else than it announced: sha256:{found[:12]}… came for "
                f"sha256:{blob.digest[:12]}…"
            )


async def _append(file: BufferedRandom, chunks: AsyncIterator[bytes], size: int, where: str) -> None:
    async for chunk in chunks:
        await asyncio.to_thread(file.write, chunk)
        if file.tell() > size:
            _cut(file, 0)
            raise ModelUnavailable(f"{where}: a layer is larger than the {size} bytes that it claims to have")
    if _size(file) < size:
        raise SourceUnavailable(f"{where}: a layer ended after {_size(file)} of {size} bytes")


def _cut(file: BufferedRandom, size: int) -> None:
    file.truncate(size)
    file.seek(size)  # `tell` would go on counting from where it was


def _size(file: BufferedRandom) -> int:
    file.flush()
    return os.fstat(file.fileno()).st_size


def _sha256(file: BufferedRandom) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()
