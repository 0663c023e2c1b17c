"""A model's folder as it is on disk, held against what it should be. Nothing is followed, nothing is written."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from router.domain.model_tree import MAX_DEPTH, ModelTree, TreeFile
from router.models.formats import HEAD_BYTES
from router.models.ports import AdmissionRefused
from router.models.trial import Check

_PULL_AGAIN = "pull the model again"


class CandidateFiles:
    """Implements `Files`."""

    def heads(self, folder: str, tree: ModelTree) -> dict[str, bytes]:
        """Check that the folder holds the tree's files and no others, every one a plain file with one name, of its size
        and sha256 (about 1 GB/s). Returns path → its first bytes. Raises `AdmissionRefused`.
        """
        found = dict(_entries(Path(folder), ""))
        wanted = {file.path for file in tree.files}
        for path in sorted(found.keys() - wanted):
            raise _refused(f"{path[:200]!r} is in the folder, and is no file of the model")
        for path in sorted(wanted - found.keys()):
            raise _refused(f"{path!r} is missing")
        return {file.path: _checked(Path(folder, file.path), file) for file in tree.files}

    def read(self, folder: str, path: str, max_bytes: int) -> bytes:
        """A small file, whole. Raises `AdmissionRefused` when it is larger."""
        with _opened(Path(folder, path), path) as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise AdmissionRefused(Check.SIZE, f"{path!r} has more than {max_bytes} bytes", "publish a smaller one")
        return content


def _entries(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything that is not a folder, with its path below the first one."""
    if prefix.count("/") > MAX_DEPTH:
        raise _refused(f"{prefix[:200]!r} is too deep")
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path, status = prefix + entry.name, entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    yield from _entries(folder / entry.name, f"{path}/")
                elif stat.S_ISLNK(status.st_mode):
                    raise _refused(f"{path!r} is a symbolic link")
                elif not stat.S_ISREG(status.st_mode):
                    raise _refused(f"{path!r} is not a file but a device, pipe or socket")
                elif status.st_nlink != 1:
                    raise _refused(f"{path!r} is a hard link: the same file has {status.st_nlink} names")
                else:
                    yield path, status
    except OSError as error:
        raise _refused(f"the folder cannot be read: {error.strerror}") from None


def _checked(path: Path, file: TreeFile) -> bytes:
    with _opened(path, file.path) as content:
        head = content.read(HEAD_BYTES)
        content.seek(0)
        size = os.fstat(content.fileno()).st_size
        if size != file.size:
            raise _refused(f"{file.path!r} has {size} bytes and should have {file.size}")
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    if sha256 != file.sha256:
        raise _refused(f"{file.path!r} has another content: sha256 {sha256}, expected {file.sha256}")
    return head


def _opened(path: Path, name: str) -> BufferedReader:
    """Without following a link that was put there since, or waiting for a pipe."""
    try:
        return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise _refused(f"{name!r} cannot be read: {error.strerror}") from None


def _refused(found: str) -> AdmissionRefused:
    return AdmissionRefused(Check.FILES, found, _PULL_AGAIN)
