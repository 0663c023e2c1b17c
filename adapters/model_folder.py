"""Reading a model's folder from disk: which files it holds, and their digests. Links and devices are refused.

A hard link would let somebody else change a file that was checked, so files of the cache have exactly one name. (What
is offered for copying may have more: a copy is another file.)
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_tree import ModelTree, TreeFile


def read_tree(folder: Path) -> ModelTree:
    """Hash every file (about 1 GB/s). Raises `ModelUnavailable` for anything that the cache would not have written."""
    try:
        return ModelTree.of(
            TreeFile(path.relative_to(folder).as_posix(), size, file_sha256(path)) for path, size in _files(folder)
        )
    except OSError as error:
        raise ModelUnavailable(f"{error.filename or folder} cannot be read: {error.strerror}") from error
    except Invalid as error:
        raise ModelUnavailable(f"{folder} is no model: {error}") from error


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_plain_file(status: os.stat_result) -> bool:
    """A regular file that nobody can reach by another name."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        for name in (*folders, *names):
            path = Path(parent, name)
            status = path.lstat()
            if name in folders and not stat.S_ISDIR(status.st_mode):
                raise ModelUnavailable(f"{path} is a link, where a folder should be")
            if name in names:
                if not is_plain_file(status):
                    raise ModelUnavailable(f"{path} is not a regular file with one name")
                yield path, status.st_size
