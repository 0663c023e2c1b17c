"""Models that are files on this machine already: `file:` paths, and files inside installed packages (`package://`).

A package is never imported to find its file: a model reference must not run code.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef, ResolvedModel


class FileModels:
    """`file:/srv/models/fraud.onnx`. Symbolic links are followed once, here: what is recorded is the real path."""

    async def resolve(self, ref: ModelRef) -> ResolvedModel:
        """Raises `ModelUnavailable`."""
        return await asyncio.to_thread(_identified, Path(ref.location), str(ref))


class PackageModels:
    """`package://magika/models/standard_v3_3/model.onnx`: an import package or a distribution, then a path inside."""

    async def resolve(self, ref: ModelRef) -> ResolvedModel:
        """Raises `ModelUnavailable`."""
        return await asyncio.to_thread(self._resolve, ref)

    def _resolve(self, ref: ModelRef) -> ResolvedModel:
        package, _, inside = ref.location.partition("/")
        parts = PurePosixPath(inside).parts
        if not inside or inside.startswith("/") or ".." in parts or "\\" in inside or "\0" in inside:
            raise ModelUnavailable(f"{ref}: write package://<package>/<path inside it>, without '..'")
        folders = list(_folders(package))
        for folder in folders:
            candidate = folder.joinpath(*parts)
            if candidate.is_file():
                return _identified(_contained(candidate, folder, ref), str(ref))
        if listed := _distribution_file(package, inside):
            return _identified(listed, str(ref))
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


def _identified(path: Path, name: str) -> ResolvedModel:
    """The real path of a regular file and the sha256 of its content (about 1 GB/s)."""
    try:
        real = path.resolve(strict=True)
        if not real.is_file():
            raise ModelUnavailable(f"{name}: {real} is not a file")
        with real.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ModelUnavailable(f"{name}: there is no such file{_nearby(path)}") from None
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelUnavailable(f"{name}: cannot be read: {reason}") from None
    return ResolvedModel(os.fspath(real), digest)


def _nearby(path: Path) -> str:
    """What the operator may have meant: the nearest name in the same folder."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return f" (nor the folder {path.parent})"
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
