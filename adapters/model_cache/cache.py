"""The cache itself: find, fetch, verify, collect. What blocks runs in threads; a disk's errors are translated here."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from adapters.model_cache.download import Patience, download
from adapters.model_cache.folders import Folders, remove, reopen
from adapters.model_cache.locks import exclusive, release, try_exclusive
from adapters.model_cache.parts import Part, in_words, is_full, room_guard
from adapters.model_folder import read_tree
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_tree import ModelTree, TreeFile, check_names, checked_path
from router.models.cache_ports import Collected, Corrupt, Kept, NoRoom, Progress, Read
from router.models.ports import RemoteFile, Resolution, SourceLimits, SourceUnavailable

KEEP_FREE_BYTES = 512 * 1024**2  # for logs, the database and everybody else on the disk
_ABANDONED_AFTER_S = 7 * 86400.0  # then a download that nobody continued is left over

T = TypeVar("T")


class ModelCache:
    """Implements `router.models.cache_ports.Cache` in a folder that several processes may share."""

    def __init__(
        self,
        root: Path,
        limits: SourceLimits | None = None,
        patience: Patience | None = None,
        keep_free_bytes: int = KEEP_FREE_BYTES,
    ) -> None:
        self._folders = Folders(root)
        self._limits = limits or SourceLimits()
        self._patience = patience or Patience()
        self._guard = room_guard(root, keep_free_bytes)

    async def find(self, digest: str) -> Kept | None:
        return await self._blocking(lambda: self._folders.find(digest))

    async def known(self, resolution: Resolution) -> Kept | None:
        def look() -> Kept | None:
            key, expected = _key_of(resolution)
            digest = expected or self._folders.digest_of_key(key)
            return self._folders.find(digest) if digest else None

        with _refusing(resolution):
            return await self._blocking(look)

    async def fetch(self, resolution: Resolution, read: Read, progress: Progress) -> Kept:
        with _refusing(resolution):
            _check(resolution, self._limits)
            key, expected = _key_of(resolution)
            await self._blocking(self._folders.prepare)
            with _translated(self._folders.root):
                async with exclusive(self._folders.lock(key), lambda: progress.waits("another download of it")):
                    progress.waits("")
                    if kept := await self.known(resolution):
                        return kept
                    tree = await self._download(resolution, key, read, progress)
                    if expected and tree.digest != expected:
                        raise ModelUnavailable("the files came with other digests than were announced")
                    if tree.digest == key:  # its lock is ours already
                        await self._blocking(lambda: self._folders.publish(key, tree))
                    else:
                        async with exclusive(self._folders.lock(tree.digest)):
                            await self._blocking(lambda: self._folders.publish(key, tree))
                    kept = await self.find(tree.digest)
                    assert kept is not None
                    return kept

    async def verify(self, digest: str) -> Kept | None:
        def look() -> Kept | None:
            kept = self._folders.find(digest, is_used=False)
            if kept is None and not self._folders.tree(digest).exists():
                return None
            try:
                if read_tree(self._folders.tree(digest)).digest == digest and kept is not None:
                    return kept
                found = "its files have other digests" if kept else "files are missing, or have other sizes or kinds"
            except ModelUnavailable as error:
                found = str(error)
            raise Corrupt(digest, found)

        try:
            return await self._blocking(look)
        except Corrupt:
            # Or somebody removed it, or put another one there, while it was read: look again when nobody does.
            with _translated(self._folders.root):
                async with exclusive(self._folders.lock(digest)):
                    try:
                        return await self._blocking(look)
                    except Corrupt:
                        await self._blocking(lambda: self._folders.put_aside(digest))
                        raise

    async def entries(self) -> tuple[Kept, ...]:
        def look() -> tuple[Kept, ...]:
            found = (self._folders.find(digest, is_used=False) for digest in self._folders.digests())
            return tuple(kept for kept in found if kept is not None)

        return await self._blocking(look)

    async def collect(self, keep: Collection[str], unused_for_s: float) -> Collected:
        await self._blocking(self._folders.prepare)
        with _translated(self._folders.root):
            async with exclusive(self._folders.root / "collect.lock"):
                return await self._blocking(lambda: self._collect(frozenset(keep), unused_for_s))

    # -- fetching

    async def _download(self, resolution: Resolution, key: str, read: Read, progress: Progress) -> ModelTree:
        files = sorted(resolution.files, key=lambda file: file.path)
        sizes = [file.size for file in files]
        total = -1 if -1 in sizes else sum(sizes)
        progress.expects(total)
        here = await self._blocking(lambda: self._resume(key, files))
        left = sum(file.size for file in files if file.path not in here and file.size > 0 and not file.is_spooled)
        had = sum(file.size for file in here.values())
        if had:
            progress.has(had, is_new=False)
        done = dict(here)
        left -= await self._blocking(lambda: self._part_bytes(key, files, done))
        await self._blocking(lambda: self._guard(max(0, left)))
        with ThreadPoolExecutor(1, "model-writer") as writer:
            for number, file in enumerate(files):
                if file.path not in done:
                    most = self._limits.max_bytes - sum(item.size for item in done.values())
                    done[file.path] = await self._fetch_file(key, number, file, most, read, progress, writer)
        return ModelTree.of(done.values())

    async def _fetch_file(
        self,
        key: str,
        number: int,
        file: RemoteFile,
        most: int,
        read: Read,
        progress: Progress,
        writer: ThreadPoolExecutor,
    ) -> TreeFile:
        part = await self._blocking(lambda: self._opened(key, number, file, progress))
        try:
            await download(read, file, part, most, self._patience, progress, writer)
            if file.sha256 and part.sha256 != file.sha256 and part.is_found:
                # What lay here from an earlier try may be what is wrong: once more, from the start.
                progress.lost(part.size)
                await self._blocking(part.restart)
                await download(read, file, part, most, self._patience, progress, writer)
            if file.sha256 and part.sha256 != file.sha256:
                await self._blocking(part.restart)
                raise ModelUnavailable(
                    f"{file.path}: sha256 {part.sha256} came, where {file.sha256} was announced: "
                    "it was changed on its way, or while it was read"
                )
            fetched = TreeFile(file.path, part.size, part.sha256)
            await self._blocking(lambda: part.finish(self._folders.unfinished_tree(key) / file.path))
            return fetched
        except OSError as error:
            if is_full(error):
                # The disk is full for everybody: what came so far makes room.
                await self._blocking(lambda: self._forget(key))
            raise
        finally:
            part.close()

    def _opened(self, key: str, number: int, file: RemoteFile, progress: Progress) -> Part:
        part = Part(self._folders.part_folder(key) / str(number), self._guard)
        try:
            part.resume(file.size)
        except BaseException:
            part.close()
            raise
        if part.size:
            progress.has(part.size, is_new=False)
        return part

    def _resume(self, key: str, files: Collection[RemoteFile]) -> dict[str, TreeFile]:
        """The files that an earlier try finished, hashed again."""
        parts, tree = self._folders.part_folder(key), self._folders.unfinished_tree(key)
        boot = parts / "boot"
        if any(not file.sha256 for file in files) and parts.exists() and _text(boot) != _boot_id():
            # After a power cut, a file may have holes where nothing was written yet, and nobody vouches for its digest.
            remove(parts)
            remove(tree)
        parts.mkdir(mode=0o700, exist_ok=True)
        boot.write_text(_boot_id())
        tree.mkdir(mode=0o700, exist_ok=True)
        reopen(tree)
        try:
            found = {file.path: file for file in read_tree(tree).files} if any(tree.iterdir()) else {}
        except ModelUnavailable:
            found = {}
        here = {}
        for file in files:
            have = found.get(file.path)
            if have and file.size in (-1, have.size) and file.sha256 in ("", have.sha256):
                here[file.path] = have
        if len(here) != len(found) or not here:
            for path in found.keys() - here.keys():
                (tree / path).unlink()
            if not here:
                remove(tree)
                tree.mkdir(mode=0o700)
        return here

    def _part_bytes(self, key: str, files: Collection[RemoteFile], done: Collection[str]) -> int:
        """What lies here of files that are not finished."""
        total = 0
        for number, file in enumerate(files):
            if file.path not in done:
                with contextlib.suppress(FileNotFoundError):
                    total += min(max(file.size, 0), (self._folders.part_folder(key) / str(number)).stat().st_size)
        return total

    def _forget(self, key: str) -> None:
        remove(self._folders.part_folder(key))
        remove(self._folders.unfinished_tree(key))

    # -- collecting

    def _collect(self, keep: frozenset[str], unused_for_s: float) -> Collected:
        """Others fetch meanwhile, and put aside what is damaged."""
        folders, now = self._folders, time.time()
        removed, freed = [], 0
        for digest in list(folders.digests()):
            with self._held(digest) as is_ours:
                is_unused = now - _touched_at(folders.manifest(digest)) >= unused_for_s
                if is_ours and digest not in keep and is_unused:
                    folders.put_aside(digest)
                    removed.append(digest)
        for place in (*folders.parts.iterdir(), *folders.trees.glob(".*")):
            key = place.name.removeprefix(".")
            if now - max(map(_touched_at, _all_in(place))) < _ABANDONED_AFTER_S:
                continue
            if len(key) != 64:  # the beginning of a manifest
                freed += remove(place)
                continue
            with self._held(key) as is_ours:
                freed += remove(place) if is_ours else 0
        for path in folders.keys.iterdir():
            if _text(path) in removed:
                path.unlink(missing_ok=True)
        freed += folders.empty_quarantine()
        return Collected(tuple(removed), freed)

    @contextmanager
    def _held(self, name: str) -> Iterator[bool]:
        """Whether the lock could be had at once; whoever has it is at work there."""
        path = self._folders.lock(name)
        descriptor = try_exclusive(path)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                release(path, descriptor)

    async def _blocking(self, work: Callable[[], T]) -> T:
        def run() -> T:
            with _translated(self._folders.root):
                return work()

        return await asyncio.to_thread(run)


def _check(resolution: Resolution, limits: SourceLimits) -> None:
    """Raises `ModelUnavailable` or `Invalid` for what may not even be begun."""
    files = resolution.files
    if not files:
        raise ModelUnavailable("it has no files")
    if len(files) > limits.max_files:
        raise ModelUnavailable(f"it has {len(files)} files, and {limits.max_files} are allowed")
    size = sum(max(0, file.size) for file in files)
    if size > limits.max_bytes:
        raise ModelUnavailable(f"it has {in_words(size)}, and {in_words(limits.max_bytes)} are allowed")
    check_names(checked_path(file.path) for file in files)


def _key_of(resolution: Resolution) -> tuple[str, str]:
    """What is fetched, and the digest that it must have; empty when the source does not vouch for every file."""
    files = resolution.files
    if files and all(file.sha256 and file.size >= 0 for file in files):
        digest = ModelTree.of(TreeFile(file.path, file.size, file.sha256) for file in files).digest
        return digest, digest
    facts = [resolution.ref.scheme, resolution.pinned, resolution.revision, sorted(file.path for file in files)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest(), ""


@contextmanager
def _refusing(resolution: Resolution) -> Iterator[None]:
    """Errors name the reference, and keep their kind."""
    try:
        yield
    except SourceUnavailable as error:
        raise SourceUnavailable(_named(resolution, error), error.retry_after_s) from error
    except NoRoom as error:
        raise NoRoom(_named(resolution, error)) from error
    except (ModelUnavailable, Invalid) as error:
        if type(error) not in (ModelUnavailable, Invalid):
            raise
        raise ModelUnavailable(_named(resolution, error)) from error


def _named(resolution: Resolution, error: Exception) -> str:
    words, name = str(error), str(resolution.ref)
    return words if words.startswith(name) else f"{name}: {words}"


@contextmanager
def _translated(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise NoRoom(f"the disk of {root} is full: free some space (crossfade model gc) and try again") from error
        raise ModelUnavailable(f"the model cache at {root} cannot be used: {error.strerror or error}") from error


def _all_in(place: Path) -> Iterator[Path]:
    yield place
    for parent, folders, names in os.walk(place):  # which passes over what goes meanwhile
        for name in (*folders, *names):
            yield Path(parent, name)


def _touched_at(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:  # gone meanwhile, so somebody is there
        return time.time()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _boot_id() -> str:
    """Another one after every start of the machine; empty where that is not told."""
    return _text(Path("/proc/sys/kernel/random/boot_id")).strip()
