"""A model's files: their names, sizes and digests, and the one digest that stands for all of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from posixpath import dirname

from router.domain.errors import Invalid

MAX_PATH_BYTES = 1024
MAX_PART_BYTES = 255  # what file systems take for one name
MAX_DEPTH = 16

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRITON_MODEL = re.compile(r"(?:[^/]+/)?(?P<version>[0-9]{1,18})/model\.onnx")
_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:")


def checked_digest(text: str, key: str = "digest") -> str:
    """Return 64 lower-case hex digits as they are, else raise `Invalid`. Checked before any path is built from it."""
    if not _SHA256.fullmatch(text):
        raise Invalid(key, f"{text[:80]!r} is not a sha256 digest", "it has 64 hex digits, in lower case")
    return text


def checked_path(path: str) -> str:
    """Return a name that is safe to join to a folder, else raise `Invalid`.

    Relative, with slashes; no empty part, `.`, `..`, NUL, control character, backslash or drive letter.
    """
    parts = path.split("/")
    if not path or len(path.encode(errors="surrogatepass")) > MAX_PATH_BYTES or len(parts) > MAX_DEPTH:
        raise Invalid("path", f"{path[:80]!r} is empty, too long or too deep")
    if path.startswith("/") or "\\" in path or _WINDOWS_DRIVE.match(path) or not path.isprintable():
        raise Invalid("path", f"{path[:80]!r} is not a plain relative path")
    for part in parts:
        if part in ("", ".", "..") or len(part.encode()) > MAX_PART_BYTES:
            raise Invalid("path", f"{path[:80]!r} leads elsewhere, or has a name that file systems do not take")
    return path


@dataclass(frozen=True, slots=True, order=True)
class TreeFile:
    """One file of a model. `size` in bytes."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        checked_path(self.path)
        checked_digest(self.sha256)
        if self.size < 0:
            raise Invalid("size", f"{self.path!r} has a negative size")


@dataclass(frozen=True, slots=True)
class ModelTree:
    """All files of a model, sorted by path."""

    files: tuple[TreeFile, ...]

    def __post_init__(self) -> None:
        if not self.files:
            raise Invalid("files", "a model has at least one file")
        if list(self.files) != sorted(self.files):
            raise Invalid("files", "are not sorted by path")
        check_names(file.path for file in self.files)

    @classmethod
    def of(cls, files: Iterable[TreeFile]) -> ModelTree:
        return cls(tuple(sorted(files)))

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """One file: its own sha256, which `sha256sum` shows. Several: the sha256 of what `sha256sum` prints of them,
        sorted by path."""
        if len(self.files) == 1:
            return self.files[0].sha256
        listing = "".join(f"{file.sha256}  {file.path}\n" for file in self.files)
        return hashlib.sha256(listing.encode()).hexdigest()


def entry_of(tree: ModelTree, wanted: str = "") -> str:
    """The path of the file that is loaded: the one that is `wanted`, else the only file, else what `graph_of` finds.

    Empty for a Triton model repository (it has a config.pbtxt) that has no such file. Raises `Invalid`.
    """
    paths = [file.path for file in tree.files]
    if wanted:
        if wanted not in paths:
            raise Invalid("model", f"the model has no file {wanted!r}", f"it has {_some(paths)}")
        return wanted
    if len(paths) == 1:
        return paths[0]
    graphs = [path for path in paths if path.endswith(".onnx")]
    if graph := graph_of(graphs):
        return graph
    if any(path.rpartition("/")[2] == "config.pbtxt" for path in paths):
        return ""
    if not graphs:
        raise Invalid("model", f"the model has no .onnx file: it has {_some(paths)}", "name the file after a '#'")
    raise Invalid("model", f"the model has several .onnx files: {_some(graphs)}", f"choose one: …#{graphs[0]}")


def graph_of(graphs: Collection[str]) -> str:
    """Which .onnx file is the model: the only one, else `model.onnx`, else the newest version of a Triton repository.

    Empty when that is not clear.
    """
    if len(graphs) == 1:
        return next(iter(graphs))
    if "model.onnx" in graphs:
        return "model.onnx"
    versions = {int(match["version"]): path for path in graphs if (match := _TRITON_MODEL.fullmatch(path))}
    if len(versions) == len(graphs) > 0 and len({dirname(dirname(path)) for path in graphs}) == 1:
        return versions[max(versions)]
    return ""


def _some(paths: list[str]) -> str:
    shown = ", ".join(paths[:5])
    return f"{shown} and {len(paths) - 5} more" if len(paths) > 5 else shown


def check_names(paths: Iterable[str]) -> None:
    """Raise `Invalid` when two names would meet on a file system: the same but for case, or one inside another."""
    seen: dict[str, str] = {}
    for path in paths:
        folded = path.casefold()
        if folded in seen:
            raise Invalid("files", f"{seen[folded]!r} and {path!r} would be the same file where case does not count")
        seen[folded] = path
    for folded, path in seen.items():
        parts = folded.split("/")
        for length in range(1, len(parts)):
            if (parent := "/".join(parts[:length])) in seen:
                raise Invalid("files", f"{seen[parent]!r} is a file and the folder of {path!r}")
