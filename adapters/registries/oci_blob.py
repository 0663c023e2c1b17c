"""Fetching one blob of a registry: goes on where it ended, counts, and has bounded patience."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from adapters.registries.kept_bytes import Feed
from router.domain.errors import ModelUnavailable
from router.models.onlookers import onlooker
from router.models.ports import Download, SourceUnavailable

Fetch = Callable[[int], AbstractAsyncContextManager[Download]]
"""A blob's bytes from an offset on."""

PAUSES_S = (1.0, 2.0, 4.0)
"""Between attempts that bring nothing; the transport has had its patience in each."""


async def fed(feed: Feed, size: int, fetch: Fetch, where: str, pauses_s: Sequence[float] = PAUSES_S) -> None:
    """Put the blob, from where `feed` wants it to its end at `size`, into `feed`; no byte twice. Who looks on is told.

    Raises `SourceUnavailable` when the link stays broken, `ModelUnavailable` when more comes than there should be.
    """
    progress = onlooker()
    at = await feed.wanted()
    progress.has(at, is_new=False)
    vain = 0
    while at < size:
        before = at
        begins_again = False
        try:
            async with fetch(at) as download:
                begins_again = download.starts_at < at
                skipped = at - download.starts_at
                async for chunk in download.chunks:
                    new = chunk[skipped:] if skipped else chunk
                    skipped -= len(chunk) - len(new)
                    at += len(new)
                    if at > size:
                        raise ModelUnavailable(
                            f"{where}: a layer is larger than the {size} bytes that it claims to have"
                        )
                    if new:
                        progress.has(len(new), is_new=True)
                        await feed.put(new)
            if at < size:
                raise SourceUnavailable(f"{where}: a layer ended after {at} of {size} bytes")
        except SourceUnavailable as error:
            # Who always begins at 0 makes no progress, however much comes.
            vain = vain + 1 if begins_again or at == before else 0
            if vain > len(pauses_s):
                raise
            progress.waits(str(error))
            await asyncio.sleep(pauses_s[vain - 1] if vain else 0.0)
            progress.waits("")
