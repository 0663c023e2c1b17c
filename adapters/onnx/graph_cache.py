"""Optimised graphs on disk: optimising is done once for a model on a kind of machine, not at every start.

An optimised graph holds choices for this CPU and this ONNX Runtime (layouts, fused operators), so the key names both.
A file's name ends in the hash of its content: what was cut short or damaged is found out, deleted and made again. It
appears whole, by a rename; two processes that make the same one at the same time both succeed. Trouble with the cache
costs time, never a model. Knows no ONNX Runtime.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

# Together; the oldest go first. What one machine serves rarely has more.
MAX_BYTES = 4 * 1024**3
MAX_FILES = 64
# A bigger model is not kept: reading and hashing its weights takes longer than optimising its graph.
MAX_MODEL_BYTES = 512 * 1024**2

_SUFFIX = ".onnx"
_NOT_WORTH = ".plain"
_UNFINISHED = ".part"
_ABANDONED_AFTER_S = 3600.0


def graph_key(sha256: str, runtime: str, settings: Mapping[str, object], cpu: str) -> str:
    """`runtime`: ONNX Runtime's version and build. `settings`: whatever decides how a graph is optimised."""
    facts = json.dumps([sha256, runtime, dict(settings), cpu], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What kind of CPU this is: architecture, model and instruction sets. (Elsewhere than on Linux: less of it.)"""
    wanted = ("model name", "cpu part", "flags", "features")
    found: dict[str, str] = {}
    try:
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip().lower() in wanted:
                found.setdefault(name.strip().lower(), " ".join(sorted(value.split())))
    except OSError:
        found["processor"] = platform.processor()
    return json.dumps([platform.machine(), found], sort_keys=True)


class GraphCache:
    """One folder. Nothing here raises: what does not work is logged, and there is no cached graph."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str) -> Path | None:
        """The graph that was kept under `key`, its content checked. None: there is none."""
        for path in self._kept(key):
            if _digest(path) == path.stem.partition("-")[2]:
                _touch(path)
                return path
            log.warning("a cached graph is damaged and is made again", extra={"file": path.name})
            _delete(path)
        return None

    def is_known_not_to_pay(self, key: str) -> bool:
        return (self._folder / f"{key}{_NOT_WORTH}").exists()

    def make(self, key: str, write: Callable[[Path], None]) -> Path | None:
        """Keep what `write` writes to the path it is given. Returns where it is kept."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._remove_leftovers()
            descriptor, name = tempfile.mkstemp(_UNFINISHED, f"{key}-", self._folder)
            os.close(descriptor)
            unfinished = Path(name)
            try:
                write(unfinished)
                with unfinished.open("rb") as file:
                    os.fsync(file.fileno())
                kept = self._folder / f"{key}-{_digest(unfinished)}{_SUFFIX}"
                unfinished.replace(kept)
            finally:
                unfinished.unlink(missing_ok=True)
            self._bound(kept)
        except Exception as error:  # a full disk, a read-only folder, a graph that cannot be written
            log.warning("an optimised graph was not kept", extra={"reason": str(error)})
            return None
        return kept

    def drop(self, path: Path) -> None:
        """The graph at `path` is no good."""
        _delete(path)

    def remember_not_to_pay(self, key: str, path: Path) -> None:
        """The graph at `path` loads no faster than its model: do not try again."""
        try:
            (self._folder / f"{key}{_NOT_WORTH}").touch()
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the graph cache cannot be written", extra={"reason": str(error)})

    def _kept(self, key: str) -> list[Path]:
        return sorted(self._folder.glob(f"{key}-*{_SUFFIX}"))

    def _bound(self, newest: Path) -> None:
        """Delete the files that were not used for the longest time, as long as there are too many."""
        files = sorted(self._files(_SUFFIX, _NOT_WORTH))
        total = sum(size for _, size, _ in files)
        while files and (total > MAX_BYTES or len(files) > MAX_FILES):
            _, size, path = files.pop(0)
            total -= size
            if path != newest:
                path.unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        """What processes that were killed while they wrote left behind; another's work of this hour stays."""
        for written_at, _, path in self._files(_UNFINISHED):
            if written_at < time.time() - _ABANDONED_AFTER_S:
                path.unlink(missing_ok=True)

    def _files(self, *suffixes: str) -> Iterator[tuple[float, int, Path]]:
        """When each was used last, its size, its path. Other processes may delete some meanwhile."""
        for path in self._folder.iterdir():
            if path.suffix in suffixes:
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    yield status.st_mtime, status.st_size, path


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("the graph cache cannot be written", extra={"reason": str(error)})


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError as error:
        log.debug("the graph cache cannot be written", extra={"reason": str(error)})
