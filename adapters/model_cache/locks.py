"""One writer at a time, over processes: flock on a file of its own. The kernel lets go for whoever dies."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

_POLL_S = 0.05


@asynccontextmanager
async def exclusive(path: Path, waits: Callable[[], None] | None = None) -> AsyncIterator[None]:
    """Hold the lock file at `path`. `waits` is called once when somebody else has it.

    Whoever holds it deletes it at the end. So one who waited for it looks whether it is still the file of that name.
    """
    descriptor = await _acquired(path, waits)
    try:
        yield
    finally:
        release(path, descriptor)


def try_exclusive(path: Path) -> int | None:
    """The descriptor that holds the lock, or None when somebody else has it. To be ended with `release`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def release(path: Path, descriptor: int) -> None:
    path.unlink(missing_ok=True)
    os.close(descriptor)


async def _acquired(path: Path, waits: Callable[[], None] | None) -> int:
    # A blocking flock in a thread could not be cancelled.
    while (descriptor := try_exclusive(path)) is None:
        if waits:
            waits()
            waits = None
        await asyncio.sleep(_POLL_S)
    return descriptor
