"""Memory that a Triton on the same host shares with a replica: POSIX regions, leased to one call at a time.

A region is registered with each Triton once, and used again and again. Its file is private to this user and locked for
as long as its owner lives; so whoever finds one that is not locked may take it away: its owner was killed.

Triton's side: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_shared_memory.md
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from time import monotonic

FOLDER = Path("/dev/shm")  # where Linux keeps POSIX shared memory
PREFIX = "crossfade-bridge-"
_SMALLEST = 1 << 20
_STRIDE = 16 << 20
_MOST_SET_ASIDE = 8
_SET_ASIDE_S = 600.0  # by then whoever may still have used it has done so


class Region:
    """Mapped memory under a name of its own. Raises `OSError` when there is no room for it, or no such memory."""

    def __init__(self, size: int) -> None:
        self.name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        self.size = size
        self._path = FOLDER / self.name
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Not ftruncate: what is written beyond a full file system would end the process.
            os.posix_fallocate(self._file, 0, size)
            self._map = mmap.mmap(self._file, size)
        except BaseException:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            raise
        self.memory = memoryview(self._map)

    @property
    def key(self) -> str:
        """What Triton opens."""
        return f"/{self.name}"

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        self.memory.release()
        self._map.close()
        os.close(self._file)


class Regions:
    """Leases regions to calls that run side by side. Thread-safe."""

    def __init__(self, forget: Callable[[str], None]) -> None:
        """`forget` takes a region's name from the Tritons that know it; called before the region goes."""
        self._forget = forget
        self._lock = Lock()
        self._free: list[Region] = []
        self._set_aside: list[tuple[float, Region, object]] = []
        self._no_room_for = math.inf  # so many bytes

    def lease(self, size: int) -> Region | None:
        """At least `size` bytes, whose content is anything; None when there is no room."""
        with self._lock:
            if size >= self._no_room_for:
                return None
            region = self._free.pop() if self._free else None
            is_full = len(self._set_aside) >= _MOST_SET_ASIDE
        if is_full:
            self._end_set_aside(lambda since_s, _: since_s < monotonic() - _SET_ASIDE_S)
        if region is not None and region.size >= size:
            return region
        if region is not None:
            self._end(region)
        if is_full and len(self._set_aside) >= _MOST_SET_ASIDE:
            return None
        try:
            return Region(_rounded(size))
        except OSError:
            with self._lock:
                self._no_room_for = min(size, self._no_room_for)
            return None

    def give_back(self, region: Region) -> None:
        with self._lock:
            self._free.append(region)

    def set_aside(self, region: Region, user: object) -> None:
        """Nobody knows whether `user`, a Triton, still reads or writes it: it is leased no more."""
        with self._lock:
            self._set_aside.append((monotonic(), region, user))

    def forgotten_by(self, user: object) -> None:
        """`user` has been started again: what was set aside because of it can go."""
        self._end_set_aside(lambda _, by: by is user)

    def close(self) -> None:
        """Nothing is leased any more."""
        with self._lock:
            ended, self._free = self._free, []
        for region in ended:
            self._end(region)
        self._end_set_aside(lambda *_: True)

    def _end_set_aside(self, is_over: Callable[[float, object], bool]) -> None:
        with self._lock:
            ended = [region for since_s, region, by in self._set_aside if is_over(since_s, by)]
            self._set_aside = [it for it in self._set_aside if not is_over(it[0], it[2])]
        for region in ended:
            self._end(region)

    def _end(self, region: Region) -> None:
        self._forget(region.name)
        region.close()


def _rounded(size: int) -> int:
    """So that a region is seldom too small for the next batch, and never much too large."""
    power = 1 << (size - 1).bit_length()
    return max(_SMALLEST, power) if power <= _STRIDE else -(-size // _STRIDE) * _STRIDE


def left_over() -> list[str]:
    """Takes away the regions whose owners were killed. Returns their names, which Tritons may still know."""
    names = []
    with contextlib.suppress(OSError):
        for path in sorted(FOLDER.glob(f"{PREFIX}*")):
            with contextlib.suppress(OSError):
                file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)
                    names.append(path.name)
                finally:
                    os.close(file)
    return names
