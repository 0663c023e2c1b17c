"""Layers that are tar archives: fetched whole, checked, and only then unpacked, into a spool of this machine.

A source lists a model's files before anybody reads them. Of a compressed archive that takes the whole archive, and no
byte of it can be trusted before the last one is here, for only the whole has a digest. So a layer is
1. fetched to `blob.part`, which a broken link or a killed process leaves for the next attempt to go on with,
2. checked against its digest,
3. read as a stream: the regular files below the root that is asked for are written as `files/<sha256>`, and listed.
The spool then has each file with its size and sha256, which is what `Source` promises; the cache reads it from there.
The names that an archive uses never become names on this machine's disk.

    spool/<key>/lock · blob.part · listing.json · files/<sha256>

The listing stays for a month: who resolves the same image again transfers nothing. The files stay until they were read.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypeVar

from adapters.registries.oci_blob import Fetch, fetched
from adapters.registries.oci_manifest import Packed
from adapters.registries.tar_members import Damaged, Kind, Member, Readable, TarStream, Unpacked
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_tree import checked_digest, checked_path
from router.models.ports import SourceLimits

_T = TypeVar("_T")

_WHITEOUT = ".wh."  # opencontainers/image-spec, layer.md, "Whiteouts"
_OPAQUE = ".wh..wh..opq"

_LOCK_PAUSE_S = 0.2
_FILES_ARE_KEPT_S = 24 * 3600.0
_LISTING_IS_KEPT_S = 30 * 24 * 3600.0
_FREE_RESERVE = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Put:
    """A file. `path` is relative to the root."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Remove:
    """What earlier layers have at `path` ("": everything), and below it, is gone."""

    path: str


Change = Put | Remove


def overlaid(layers: Iterable[Iterable[Change]]) -> dict[str, tuple[int, Put]]:
    """What is there when every layer has been put over the earlier ones: path → (number of the layer, file)."""
    files: dict[str, tuple[int, Put]] = {}
    folders: set[str] = {""}  # all that there ever were, so that few paths need a look at every file
    for number, changes in enumerate(layers):
        # Whiteouts hide what is below this layer, wherever in the layer they stand.
        for change in sorted(changes, key=lambda change: isinstance(change, Put)):
            files.pop(change.path, None)
            if change.path in folders:
                below = f"{change.path}/" if change.path else ""
                for path in [path for path in files if path.startswith(below)]:
                    del files[path]
            if isinstance(change, Put):
                for above in _folders_of(change.path):
                    files.pop(above, None)
                    folders.add(above)
                files[change.path] = (number, change)
    return files


def _folders_of(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


class LayerSpool:
    """`folder` is this spool's alone; several processes may share it."""

    def __init__(self, folder: Path, limits: SourceLimits) -> None:
        self._folder = folder
        self._limits = limits

    async def changes(self, layer: Packed, fetch: Fetch, where: str) -> tuple[Change, ...]:
        """What the layer does below its root. Raises `ModelUnavailable`."""
        place = self._place(layer)
        async with _locked(place):
            listing = await asyncio.to_thread(_listing, place)
            return listing if listing is not None else await self._filled(place, layer, fetch, where)

    async def file(self, layer: Packed, sha256: str, fetch: Fetch, where: str) -> Path:
        """Where the file lies, fetched again if it has gone. Raises `ModelUnavailable`."""
        place = self._place(layer)
        path = place / "files" / checked_digest(sha256)
        async with _locked(place):
            if not await asyncio.to_thread(path.is_file):
                await self._filled(place, layer, fetch, where)
        if not await asyncio.to_thread(path.is_file):
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
                    for part, kept_s in (
                        (place / "files", _FILES_ARE_KEPT_S),
                        (place / "blob.part", _FILES_ARE_KEPT_S),
                        (place / "listing.json", _LISTING_IS_KEPT_S),
                    ):
                        if part.exists() and part.stat().st_mtime < now_s - kept_s:
                            shutil.rmtree(part) if part.is_dir() else part.unlink()

    def _place(self, layer: Packed) -> Path:
        name = f"{layer.blob.digest} {layer.root} {layer.is_overlay}"
        return self._folder / hashlib.sha256(name.encode()).hexdigest()

    async def _filled(self, place: Path, layer: Packed, fetch: Fetch, where: str) -> tuple[Change, ...]:
        part = place / "blob.part"
        await asyncio.to_thread(self.tidy, time.time())
        try:
            free = shutil.disk_usage(place).free
            if free < layer.blob.size + _FREE_RESERVE:
                raise ModelUnavailable(f"{where}: the disk of {self._folder} has {free} bytes free, which are too few")
            await fetched(part, layer.blob, fetch, where)
            changes = await _in_thread(lambda stop: self._unpacked(place, part, layer, stop))
        except Damaged as damage:
            _forget(place)
            raise ModelUnavailable(f"{where}: the layer sha256:{layer.blob.digest[:12]}… {damage}") from None
        except OSError as error:
            _forget(place)
            raise ModelUnavailable(f"{where}: cannot be unpacked to {self._folder}: {error.strerror}") from None
        await asyncio.to_thread(part.unlink)
        return changes

    def _unpacked(self, place: Path, part: Path, layer: Packed, stop: threading.Event) -> tuple[Change, ...]:
        files = place / "files"
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir()
        changes: dict[str, Change] = {}
        with part.open("rb") as raw:
            archive = TarStream(_Stoppable(Unpacked(raw, layer.is_gzip, self._limits.max_bytes), stop))
            for member in archive:
                change = _change(member, archive, layer, files)
                if change is not None:
                    if isinstance(changes.get(change.path), Put):
                        raise Damaged(f"has {change.path!r} twice")
                    changes[change.path] = change
                if len(changes) > self._limits.max_files:
                    raise Damaged(f"has more than {self._limits.max_files} files")
        _write_listing(place, changes.values())
        return tuple(changes.values())


def _change(member: Member, archive: TarStream, layer: Packed, files: Path) -> Change | None:
    """What a member does to the model; a file's content is written. Raises `Damaged` for what a model may not have."""
    folder, _, name = member.name.rpartition("/")
    if layer.is_overlay and name.startswith(_WHITEOUT):
        hidden = folder if name == _OPAQUE else f"{folder}/{name.removeprefix(_WHITEOUT)}".lstrip("/")
        if _is_at_or_below(layer.root, hidden):
            return Remove("")
        return Remove(hidden[len(layer.root) + 1 :]) if _is_at_or_below(hidden, layer.root) else None
    if member.kind is Kind.FOLDER:
        return None
    if _is_at_or_below(layer.root, member.name) and layer.root:
        raise Damaged(f"has {member.name!r} as {member.kind.value}, where the model's folder should be")
    if not _is_at_or_below(member.name, layer.root):
        return None
    if member.kind is not Kind.FILE:
        raise Damaged(f"has {member.name!r} as {member.kind.value}: a model has plain files only")
    path = member.name[len(layer.root) + 1 :] if layer.is_overlay else member.name
    try:
        checked_path(path)
    except Invalid as error:
        raise Damaged(f"has a file whose {error}") from None
    return Put(path, member.size, _written(archive, files))


def _is_at_or_below(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(f"{folder}/")


def _written(archive: TarStream, files: Path) -> str:
    """Write the present member's content under its sha256, and return that."""
    part, digest = files / "part", hashlib.sha256()
    with part.open("wb") as file:
        for chunk in archive.chunks():
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    part.rename(files / digest.hexdigest())
    return digest.hexdigest()


def _forget(place: Path) -> None:
    shutil.rmtree(place / "files", ignore_errors=True)
    (place / "blob.part").unlink(missing_ok=True)


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


class _Stoppable:
    """A stream that ends with `Damaged` when whoever wanted it has gone."""

    def __init__(self, stream: Readable, stop: threading.Event) -> None:
        self._stream = stream
        self._stop = stop

    def read(self, size: int) -> bytes:
        if self._stop.is_set():
            raise Damaged("was not read to its end")
        return self._stream.read(size)


async def _in_thread(work: Callable[[threading.Event], _T]) -> _T:
    """Run it in a thread; when cancelled, tell it to stop and wait until it did, for it holds a lock."""
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([running])
        running.exception()
        raise


@contextmanager
def _try_lock(place: Path) -> Iterator[bool]:
    """Whether the layer's place is ours until the end of the block. Processes that die let go of it."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@asynccontextmanager
async def _locked(place: Path) -> AsyncIterator[None]:
    """Waits as long as another process works on the layer, which then is here."""
    while True:
        with _try_lock(place) as is_mine:
            if is_mine:
                yield
                return
        await asyncio.sleep(_LOCK_PAUSE_S)
