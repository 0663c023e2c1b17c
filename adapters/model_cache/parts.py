"""A file while it is being fetched: bytes are hashed as they are written. Everything here blocks: call it in threads.

sha256 runs at about 1 GB/s, writing into the page cache faster than that; both let go of the interpreter's lock.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from router.models.cache_ports import NoRoom

_READ_BYTES = 1024 * 1024
_LOOK_EVERY_BYTES = 64 * 1024 * 1024  # how far a download goes between looks at the free space


class Part:
    """`size` bytes of the file are on the disk, and hashed. Raises `OSError`, and what `guard` raises.

    `is_found`: some of them were not written here, but lay on this machine already.
    `guard` is called with how many bytes are about to be written, before the first and every now and then.
    """

    def __init__(self, path: Path, guard: Callable[[int], None]) -> None:
        self.path = path
        self.size = 0
        self.is_found = False
        self._guard = guard
        self._looked_at = -_LOOK_EVERY_BYTES
        self._hash = hashlib.sha256()
        self._file = path.open("ab", buffering=0)

    def resume(self, most: int) -> None:
        """Read and hash what an earlier try left. More than `most` bytes cannot be of this file: begin again."""
        with self.path.open("rb", buffering=0) as file:
            if 0 <= most < os.fstat(file.fileno()).st_size:
                self.restart()
                return
            buffer = bytearray(_READ_BYTES)
            while count := file.readinto(buffer):
                self._hash.update(memoryview(buffer)[:count])
                self.size += count
        self.is_found = self.size > 0

    def take(self, path: Path, most: int) -> bool:
        """Have the file at `path` instead of what is here; what it is now is not what somebody said it was, so it is
        read and hashed. False when that cannot be: it lies on another file system, or has gone. `most`: as `resume`."""
        try:
            path.replace(self.path)
        except OSError:
            return False
        self._file.close()
        self._file = self.path.open("ab", buffering=0)
        self._hash = hashlib.sha256()
        self.size = 0
        self.resume(most)
        return True

    def append(self, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            if self.size - self._looked_at >= _LOOK_EVERY_BYTES:
                self._guard(len(chunk))
                self._looked_at = self.size
            self._hash.update(chunk)
            self.size += len(chunk)
            view = memoryview(chunk)
            while view:
                view = view[self._file.write(view) :]

    def restart(self) -> None:
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size = 0
        self.is_found = False
        self._looked_at = -_LOOK_EVERY_BYTES

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def finish(self, target: Path) -> None:
        """Durable, read-only, and at `target` under its own name."""
        os.fchmod(self._file.fileno(), 0o444)
        os.fsync(self._file.fileno())
        self._file.close()
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path.replace(target)

    def close(self) -> None:
        self._file.close()


def room_guard(folder: Path, keep_free_bytes: int) -> Callable[[int], None]:
    """Raises `NoRoom` when so many bytes more would leave less than `keep_free_bytes` for everybody else."""

    def look(byte_count: int) -> None:
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        if free - byte_count < keep_free_bytes:
            raise NoRoom(
                f"no room on the disk of {folder}: {in_words(byte_count)} are to come, {in_words(free)} are free, and "
                f"{in_words(keep_free_bytes)} stay free for the rest: free some space (crossfade model gc), try again"
            )

    return look


def is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def in_words(byte_count: int) -> str:
    """Such as 1.5 GB."""
    amount = float(byte_count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "bytes" or amount >= 100 else f"{amount:.1f} {unit}"
