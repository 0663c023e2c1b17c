"""A blob while it comes: every byte is hashed once and kept once, so that who was killed goes on where he was.

Where the bytes are kept: in one file, `rest`; but those of a file that a tar archive holds as it is, in a file of its
own. Nothing is written twice, and what was recognised need not be copied out later. Whoever comes after reads it all
again from the same places, in the same order (the archive says which) and the first byte that is missing is the first
that is fetched. Should a power cut have left something else there, the digest of the whole tells.

A thread reads, for reading decompresses, hashes and writes; the event loop brings what comes from the network.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

_MOST_CHUNKS = 4  # on their way to the thread; of about a megabyte each


class Stopped(Exception):
    """Nobody waits for the blob any more."""


class Feed:
    """From an event loop to one thread: chunks, a few at a time. Made in the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun = asyncio.Event()
        self._offset = 0
        self._room = asyncio.Semaphore(_MOST_CHUNKS)
        self._chunks: deque[bytes] = deque()
        self._ready = threading.Semaphore(0)
        self._is_stopped = False

    # -- in the event loop

    async def wanted(self) -> int:
        """The offset of the first byte that is not here; waits until the thread has got so far."""
        await self._begun.wait()
        return self._offset

    async def put(self, chunk: bytes) -> None:
        await self._room.acquire()
        self._chunks.append(chunk)
        self._ready.release()

    def stop(self) -> None:
        """The thread gets what was put, and then `Stopped`."""
        self._is_stopped = True
        self._ready.release()

    # -- in the thread

    def check(self) -> None:
        if self._is_stopped:
            raise Stopped

    def begin(self, offset: int) -> None:
        self._offset = offset
        self._loop.call_soon_threadsafe(self._begun.set)

    def take(self) -> bytes:
        """The next chunk, when it is there."""
        self._ready.acquire()
        if not self._chunks:
            raise Stopped
        self._loop.call_soon_threadsafe(self._room.release)
        return self._chunks.popleft()


class KeptBytes:
    """The blob's bytes, in order, `size` of them. Everything here blocks. Raises `Stopped` and `OSError`."""

    def __init__(self, rest: Path, size: int, feed: Feed) -> None:
        self._left = size
        self._feed = feed
        self._rest = self._file = _opened(rest)
        self._is_fed = False
        self._pending = b""
        self._hash = hashlib.sha256()
        self._read = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def tell(self) -> int:
        return self._read

    def read(self, most: int) -> bytes:
        """Some of what comes next, empty at the end."""
        most = min(most, self._left)
        if most == 0:
            return b""
        data = b""
        if not self._is_fed:
            self._feed.check()
            data = self._file.read(most) or b""
        if not data:
            data = self._fetched(most)
            _write(self._file, data)
        self._hash.update(data)
        self._read += len(data)
        self._left -= len(data)
        return data

    @contextmanager
    def apart(self, path: Path) -> Iterator[None]:
        """What is read meanwhile is kept at `path`, and is all that is there afterwards."""
        if self._is_fed:
            path.unlink(missing_ok=True)  # somebody may have it open
        with _opened(path) as self._file:
            try:
                yield
                self._file.truncate()
            finally:
                self._file = self._rest

    def close(self) -> None:
        self._rest.close()

    def _fetched(self, most: int) -> bytes:
        if not self._is_fed:
            self._is_fed = True
            # What lies behind the first gap was written by somebody who had other bytes before it.
            self._rest.truncate()
            self._feed.begin(self._read)
        data = self._pending or self._feed.take()
        if len(data) > most:
            data, self._pending = data[:most], data[most:]
        else:
            self._pending = b""
        return data


def _opened(path: Path) -> FileIO:
    """For reading what is there, and for writing behind it."""
    path.touch(0o600)
    return path.open("r+b", buffering=0)


def _write(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
