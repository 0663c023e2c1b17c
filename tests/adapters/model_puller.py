"""Processes that pull models for ever, to be killed: `python -m tests.adapters.model_puller CACHE SECONDS_PER_CHUNK`
starts one for every line that it reads, and answers with its process id.

Their source is made of numbers: every model is some files whose bytes follow from their names.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from adapters.model_cache import ModelCache, Patience
from router.domain.model_ref import ModelRef
from router.models.ports import Download, RemoteFile, Resolution
from router.models.progress import PullProgress

MODELS = 6
_CHUNK_BYTES = 16 * 1024


def content_of(locator: str) -> bytes:
    return random.Random(locator).randbytes(40_000 + len(locator) * 1000)


def resolution(model: int) -> Resolution:
    """Every other model's source does not vouch for digests."""
    names = (f"model{model}.onnx", "weights/a.bin", "weights/deep/b.bin")
    files = []
    for name in names:
        content = content_of(f"{model}/{name}")
        sha256 = hashlib.sha256(content).hexdigest() if model % 2 else ""
        files.append(RemoteFile(name, len(content), sha256, f"{model}/{name}"))
    ref = ModelRef("models", f"/m{model}/1")
    return Resolution(ref, str(ref), "1", tuple(files))


@asynccontextmanager
async def read_slowly(file: RemoteFile, offset: int, pause_s: float = 0.0) -> AsyncIterator[Download]:
    content = content_of(file.locator)

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(offset, len(content), _CHUNK_BYTES):
            await asyncio.sleep(pause_s)
            yield content[at : at + _CHUNK_BYTES]

    yield Download(offset, chunks())


async def pull_for_ever(root: Path, pause_s: float) -> None:
    """One model after the other; each is thrown away now and then, so that there is always something to do."""
    cache = ModelCache(root, patience=Patience(tries=3, first_pause_s=0.01), keep_free_bytes=0)
    for turn in itertools.count():
        wanted = resolution(turn % MODELS)
        await cache.fetch(wanted, lambda file, offset: read_slowly(file, offset, pause_s), PullProgress(time.monotonic))
        if turn % MODELS == MODELS - 1:
            await cache.collect((), 0.0)


def main(root: Path, pause_s: float) -> None:
    for _ in sys.stdin:
        if (pid := os.fork()) == 0:
            asyncio.run(pull_for_ever(root, pause_s))
        print(pid, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    main(Path(sys.argv[1]), float(sys.argv[2]))
