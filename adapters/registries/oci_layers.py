"""Layers that are tar archives, unpacked while they come, into a spool of this machine.

A source lists a model's files before anybody reads them. Of a compressed archive that takes the whole archive, and no
byte of it can be trusted before the last one is here, for only the whole has a digest. So a layer is read as a stream,
once: its bytes are hashed; the regular files below the root that is asked for are hashed as well, and written to
`files/<number>`, counted in the order of the archive; all its other bytes are written to `rest` (a compressed one goes
there whole: what it was cannot be told from what came out of it). A broken link or a killed process leaves both for the
next attempt, which goes through them and on from there (`kept_bytes`). When the digest is right, the files are listed,
and `rest` is deleted.

Why not the archive first, and then its files: every byte would be written twice, and a model needs twice its room.

The spool then has each file with its size and sha256, which is what `Source` promises; whoever wants one takes it away.
The names that an archive uses never become names on this machine's disk.

    spool/<key>/lock · rest · listing.json · files/<number>

The listing stays for a month: who resolves the same image again transfers nothing. The files stay until they were read.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

from adapters.registries.kept_bytes import Feed, KeptBytes, Stopped
from adapters.registries.oci_blob import Fetch, fed
from adapters.registries.oci_manifest import Packed
from adapters.registries.oci_overlay import Change, Put, Remove, meant
from adapters.registries.tar_members import CHUNK, Damaged, TarStream, Unpacked
from router.domain.errors import ModelUnavailable
from router.models.cache_ports import NoRoom
from router.models.onlookers import Counted, looked_on_by, onlooker
from router.models.ports import SourceLimits

_LOCK_PAUSE_S = 0.2
_FILES_ARE_KEPT_S = 24 * 3600.0
_LISTING_IS_KEPT_S = 30 * 24 * 3600.0
_FREE_RESERVE = 256 * 1024 * 1024


class LayerSpool:
    """`folder` is this spool's alone; several processes may share it."""

    def __init__(self, folder: Path, limits: SourceLimits) -> None:
        self._folder = folder
        self._limits = limits

    async def changes(self, layer: Packed, fetch: Fetch, where: str) -> tuple[Change, ...]:
        """What the layer does below its root; its files are numbered in this order. Raises `ModelUnavailable`."""
        place = self._place(layer)
        async with _locked(place):
            listing = await asyncio.to_thread(_listing, place)
            if listing is None:
                return await self._filled(place, layer, fetch, where)
            onlooker().has(layer.blob.size, is_new=False)
            return listing

    async def file(self, layer: Packed, number: int, size: int, fetch: Fetch, where: str) -> Path:
        """Where a file of the layer lies, which may be taken away; fetched again if it has gone.

        Raises `ModelUnavailable`.
        """
        place = self._place(layer)
        path = place / "files" / str(number)
        async with _locked(place):
            if not await asyncio.to_thread(_is_whole, path, size):
                told = Counted(onlooker())
                with looked_on_by(told):
                    await self._filled(place, layer, fetch, where)
                told.take_back()  # whoever takes the files away counts them
        if not await asyncio.to_thread(_is_whole, path, size):
            raise ModelUnavailable(f"{where}: the layer {layer.blob.digest[:12]} has no such file")
        return path

    async def drop_files(self, layer: Packed) -> None:
        """They have been read. The listing stays."""
        with _try_lock(self._place(layer)) as is_mine:
            if is_mine:
                await asyncio.to_thread(shutil.rmtree, self._place(layer) / "files", ignore_errors=True)

    def tidy(self, now_s: float) -> None:
        """Remove what nobody has come back for: files and halves after a day, listings after a month. Done before
        anything is fetched; what is being worked on is left alone.

        `now_s`: seconds since the epoch, as files have them.
        """
        for place in self._folder.glob("*/"):
            with _try_lock(place) as is_mine:
                if is_mine:
                    _tidy(place, now_s)

    def _place(self, layer: Packed) -> Path:
        name = f"{layer.blob.digest} {layer.root} {layer.is_overlay}"
        return self._folder / hashlib.sha256(name.encode()).hexdigest()

    async def _filled(self, place: Path, layer: Packed, fetch: Fetch, where: str) -> tuple[Change, ...]:
        await asyncio.to_thread(self.tidy, time.time())
        was_begun = (place / "rest").exists()
        self._check_room(place, layer, where)
        told = Counted(onlooker())
        try:
            try:
                with looked_on_by(told):
                    return await self._received(place, layer, fetch, where)
            except Damaged:
                _forget(place)
                if not was_begun:
                    raise
                told.take_back()
                # What lay here from an earlier try may be what is wrong: once more, from the start.
                return await self._received(place, layer, fetch, where)
        except Damaged as damage:
            _forget(place)
            raise ModelUnavailable(f"{where}: the layer sha256:{layer.blob.digest[:12]}… {damage}") from None
        except OSError as error:
            _forget(place)
            message = f"{where}: cannot be unpacked to {self._folder}: {error.strerror}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise NoRoom(f"{message}: free some space (crossfade model gc) and try again") from None
            raise ModelUnavailable(message) from None

    def _check_room(self, place: Path, layer: Packed, where: str) -> None:
        here = sum(path.stat().st_size for path in (place / "rest", *place.glob("files/*")) if path.exists())
        free = shutil.disk_usage(place).free
        if free < layer.blob.size - here + _FREE_RESERVE:
            raise NoRoom(
                f"{where}: the disk of {self._folder} has {free} bytes free, which are too few: free some space"
            )

    async def _received(self, place: Path, layer: Packed, fetch: Fetch, where: str) -> tuple[Change, ...]:
        """Raises `Damaged` for what is no archive of a model, or another one than its digest says; `OSError`; and what
        `fed` raises, with what came so far left for the next attempt."""
        feed = Feed()
        with ThreadPoolExecutor(1, "layer") as thread:  # one of its own: it waits for the network
            working = asyncio.get_running_loop().run_in_executor(thread, self._unpacked, place, layer, feed)
            feeding = asyncio.ensure_future(fed(feed, layer.blob.size, fetch, where))
            both: set[asyncio.Future[Any]] = {working, feeding}
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if not working.done() and feeding.exception() is None:
                    await asyncio.wait({working})
            finally:
                feed.stop()
                feeding.cancel()
                await asyncio.wait(both)
                trouble = None if feeding.cancelled() else feeding.exception()
                stopped = working.exception()
        if trouble is not None and isinstance(stopped, Stopped):
            raise trouble
        return working.result()

    def _unpacked(self, place: Path, layer: Packed, feed: Feed) -> tuple[Change, ...]:
        files = place / "files"
        files.mkdir(exist_ok=True)
        changes: list[Change] = []
        put: set[str] = set()
        with closing(KeptBytes(place / "rest", layer.blob.size, feed)) as kept:
            archive = TarStream(Unpacked(kept, layer.compression, self._limits.max_bytes))
            for member in archive:
                what = meant(member, layer)
                if what is None:
                    continue
                if (path := what.path if isinstance(what, Remove) else what) in put:
                    raise Damaged(f"has {path!r} twice")
                if len(changes) == self._limits.max_files:
                    raise Damaged(f"has more than {self._limits.max_files} files")
                if isinstance(what, Remove):
                    changes.append(what)
                    continue
                keep = _written if layer.compression else _kept_apart
                changes.append(Put(path, member.size, keep(archive, kept, files / str(len(put)))))
                put.add(path)
            while kept.read(CHUNK):
                pass
        if kept.sha256 != layer.blob.digest:
            raise Damaged(f"is something else than was announced: sha256:{kept.sha256[:12]}… came")
        _write_listing(place, changes)
        (place / "rest").unlink()
        return tuple(changes)


def _kept_apart(archive: TarStream, kept: KeptBytes, path: Path) -> str:
    """Have the present member's content kept at `path`, and return its sha256."""
    digest = hashlib.sha256()
    with kept.apart(path):
        for chunk in archive.chunks():
            digest.update(chunk)
    return digest.hexdigest()


def _written(archive: TarStream, kept: KeptBytes, path: Path) -> str:
    """The same, of an archive that is kept as it came."""
    del kept
    digest = hashlib.sha256()
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        for chunk in archive.chunks():
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _is_whole(path: Path, size: int) -> bool:
    """As far as its size tells; whoever takes it looks at its digest."""
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _forget(place: Path) -> None:
    shutil.rmtree(place / "files", ignore_errors=True)
    (place / "rest").unlink(missing_ok=True)


def _tidy(place: Path, now_s: float) -> None:
    for part, kept_s in (
        (place / "files", _FILES_ARE_KEPT_S),
        (place / "rest", _FILES_ARE_KEPT_S),
        (place / "blob.part", _FILES_ARE_KEPT_S),  # of version 0.1
        (place / "listing.json", _LISTING_IS_KEPT_S),
    ):
        if part.exists() and max(map(_touched_s, (part, *place.glob(f"{part.name}/*")))) < now_s - kept_s:
            shutil.rmtree(part) if part.is_dir() else part.unlink()
    if [path.name for path in place.iterdir()] == ["lock"]:
        shutil.rmtree(place)


def _touched_s(path: Path) -> float:
    return path.stat().st_mtime


def _write_listing(place: Path, changes: Iterable[Change]) -> None:
    lines = [list(astuple(change)) for change in changes]
    part = place / "listing.part"
    with part.open("w") as file:
        json.dump(lines, file)
        file.flush()
        os.fsync(file.fileno())
    part.rename(place / "listing.json")


def _listing(place: Path) -> tuple[Change, ...] | None:
    """None when there is none, or none that can be read."""
    try:
        changes = tuple(map(_change_of, json.loads((place / "listing.json").read_bytes())))
        os.utime(place / "listing.json")
    except (OSError, ValueError, TypeError):
        return None
    return changes


def _change_of(line: list[Any]) -> Change:
    match line:
        case [str(path), int(size), str(sha256)]:
            return Put(path, size, sha256)
        case [str(path)]:
            return Remove(path)
    raise ValueError("is not a change")


@contextmanager
def _try_lock(place: Path) -> Iterator[bool]:
    """Whether the layer's place is ours until the end of the block. Processes that die let go of it."""
    place.mkdir(parents=True, exist_ok=True)
    try:
        lock = (place / "lock").open("w")
    except FileNotFoundError:  # it was tidied away a moment ago
        yield False
        return
    with lock:
        yield _is_held(place / "lock", lock.fileno())


def _is_held(path: Path, descriptor: int) -> bool:
    """Also false when another file has that name by now: the place was tidied away, and made again."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


@asynccontextmanager
async def _locked(place: Path) -> AsyncIterator[None]:
    """Waits as long as another process works on the layer, which then is here."""
    while True:
        with _try_lock(place) as is_mine:
            if is_mine:
                onlooker().waits("")
                yield
                return
        onlooker().waits("another download of it")
        await asyncio.sleep(_LOCK_PAUSE_S)
