"""Models that are files on this machine already: `file:` paths (also on NFS), and files inside installed packages
(`package://`). A file is a model, and so is a folder with everything in it.

A package is never imported to find its file: a model reference must not run code. Files are hashed to be resolved
(about 1 GB/s); as long as nobody touches one, its digest is remembered.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib.metadata
import importlib.util
import os
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from adapters.model_folder import file_sha256
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_ref import ModelRef
from router.domain.model_tree import ModelTree, TreeFile
from router.models.ports import Download, RemoteFile, Resolution

_CHUNK_BYTES = 2 * 1024 * 1024
_PIN = "#sha256="

# A file system's clock may stand still for so long: a change within the same tick would leave no trace.
_RACY_S = 2.0


class FileSource:
    """`file:/srv/models/fraud.onnx`, `file:/srv/models/fraud` (a folder), or either with `#sha256=…` to pin it.

    Implements `router.models.ports.Source`. Symbolic links are followed once, here: what is recorded is the real path.
    """

    def __init__(self) -> None:
        self._digests = _Digests()

    async def resolve(self, ref: ModelRef) -> Resolution:
        """Raises `ModelUnavailable`."""
        location, _, pin = ref.location.partition(_PIN)
        return await asyncio.to_thread(self._digests.resolve, ref, Path(location), pin)

    @asynccontextmanager
    async def read(self, resolution: Resolution, file: RemoteFile, offset: int) -> AsyncIterator[Download]:
        """Raises `ModelUnavailable` when the file cannot be read any more."""
        try:
            source = await asyncio.to_thread(open, file.locator, "rb", 0)
        except OSError as error:
            raise ModelUnavailable(f"{resolution.ref}: cannot be read: {error.strerror}") from error
        try:
            yield Download(offset, _chunks(source, offset, resolution))
        finally:
            source.close()

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        return (await self.resolve(ref)).revision != revision


class PackageSource(FileSource):
    """`package://magika/models/standard_v3_3/model.onnx`: an import package or a distribution, then a path inside."""

    async def resolve(self, ref: ModelRef) -> Resolution:
        """Raises `ModelUnavailable`."""
        location, _, pin = ref.location.partition(_PIN)
        path = await asyncio.to_thread(_path_in_package, ref, location)
        return await asyncio.to_thread(self._digests.resolve, ref, path, pin)


async def _chunks(source: Any, offset: int, resolution: Resolution) -> AsyncIterator[bytes]:
    try:
        source.seek(offset)
        while chunk := await asyncio.to_thread(source.read, _CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise ModelUnavailable(f"{resolution.ref}: cannot be read: {error.strerror}") from error


class _Digests:
    """The digests of files, remembered with everything that changes when they do."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, ...], str]] = {}

    def resolve(self, ref: ModelRef, path: Path, pin: str) -> Resolution:
        try:
            files = [self._described(real, name) for real, name in _model_files(path)]
            tree = ModelTree.of(TreeFile(file.path, file.size, file.sha256) for file in files)
        except FileNotFoundError:
            raise ModelUnavailable(f"{ref}: there is no such file{_nearby(path)}") from None
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise ModelUnavailable(f"{ref}: cannot be read: {reason}") from None
        except (Invalid, ModelUnavailable) as error:
            raise ModelUnavailable(f"{ref}: {error}") from None
        if pin and pin != tree.digest:
            raise ModelUnavailable(f"{ref}: is another model by now: its digest is {tree.digest}")
        pinned = str(ref) if pin else f"{ref}{_PIN}{tree.digest}"
        return Resolution(ref, pinned, tree.digest, tuple(files))

    def _described(self, path: Path, name: str) -> RemoteFile:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelUnavailable(f"{path} is not a file")
        traces = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        known = self._known.get(str(path))
        if known is None or known[0] != traces:
            known = (traces, file_sha256(path))
            if time.time() - max(status.st_mtime, status.st_ctime) > _RACY_S:
                self._known[str(path)] = known
        return RemoteFile(name, status.st_size, known[1], str(path))


def _model_files(path: Path) -> Iterator[tuple[Path, str]]:
    """The real files of a model and their names in it. Raises `OSError`, `ValueError`, `ModelUnavailable`."""
    real = path.resolve(strict=True)
    if not real.is_dir():
        yield real, path.name
        return

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(real, onerror=refuse):
        for name in (*folders, *names):
            inside = Path(parent, name)
            target = inside.resolve(strict=True)
            if not target.is_relative_to(real):
                raise ModelUnavailable(f"{inside} leads out of the folder, to {target}")
            if name in folders and inside.is_symlink():
                raise ModelUnavailable(f"{inside} is a link to a folder: copy what is meant")
            if name in names:
                yield target, inside.relative_to(real).as_posix()


def _path_in_package(ref: ModelRef, location: str) -> Path:
    package, _, inside = location.partition("/")
    parts = PurePosixPath(inside).parts
    if not inside or inside.startswith("/") or ".." in parts or "\\" in inside or "\0" in inside:
        raise ModelUnavailable(f"{ref}: write package://<package>/<path inside it>, without '..'")
    folders = list(_folders(package))
    for folder in folders:
        candidate = folder.joinpath(*parts)
        if candidate.exists():
            return _contained(candidate, folder, ref)
    if listed := _distribution_file(package, inside):
        return listed
    if folders or _is_distribution(package):
        raise ModelUnavailable(f"{ref}: the package {package!r} has no file {inside!r}")
    near = difflib.get_close_matches(package, importlib.metadata.packages_distributions(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "install it into the environment that Crossfade runs in"
    raise ModelUnavailable(f"{ref}: no package {package!r} is installed ({hint})")


def _folders(package: str) -> Iterator[Path]:
    """The folders of a top-level import package. `find_spec` imports parents only, and a top-level package has none."""
    if not package.isidentifier():
        return
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(folder)


def _contained(candidate: Path, folder: Path, ref: ModelRef) -> Path:
    real = candidate.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise ModelUnavailable(f"{ref}: leads out of the package, to {real}")
    return real


def _distribution_file(name: str, inside: str) -> Path | None:
    """A file that the distribution's own record lists, such as a model that lies beside the import packages."""
    if not _is_distribution(name):
        return None
    for file in importlib.metadata.files(name) or ():
        if file.as_posix() == inside and ".." not in file.parts:
            path = Path(str(file.locate()))
            return path if path.is_file() and not path.is_symlink() else None
    return None


def _is_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return True


def _nearby(path: Path) -> str:
    """What the operator may have meant: the nearest name in the same folder."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return f" (nor the folder {path.parent})"
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
