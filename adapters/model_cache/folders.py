"""Where everything is in the cache, and how a model appears in it and leaves it. Blocks: call it in threads."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from adapters.model_folder import is_plain_file
from router.domain import plain
from router.domain.errors import Invalid
from router.domain.model_tree import ModelTree, TreeFile, checked_digest
from router.models.cache_ports import Kept


@dataclass(frozen=True, slots=True)
class _Manifest:
    files: tuple[TreeFile, ...]
    added_at: datetime


class Folders:
    """The layout of one cache. Digests and keys are checked before a path is built of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trees = root / "trees"
        self.parts = root / "parts"
        self.keys = root / "keys"
        self.locks = root / "locks"
        self.quarantine = root / "quarantine"

    def prepare(self) -> None:
        for folder in (self.trees, self.parts, self.keys, self.locks, self.quarantine):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def tree(self, digest: str) -> Path:
        return self.trees / checked_digest(digest)

    def manifest(self, digest: str) -> Path:
        return self.trees / f"{checked_digest(digest)}.json"

    def unfinished_tree(self, key: str) -> Path:
        return self.trees / f".{checked_digest(key)}"

    def part_folder(self, key: str) -> Path:
        return self.parts / checked_digest(key)

    def lock(self, name: str) -> Path:
        return self.locks / checked_digest(name)

    # -- finding

    def find(self, digest: str, *, is_used: bool = True) -> Kept | None:
        """`is_used`: remember that somebody looked for it."""
        path = self.manifest(digest)
        try:
            content = json.loads(path.read_text())
            manifest = plain.from_plain(_Manifest, content)
            tree = ModelTree(manifest.files)
            folder = self.tree(digest)
            if tree.digest != digest or not _looks_whole(folder, tree):
                return None
            if is_used:
                os.utime(path)
            used_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except (FileNotFoundError, NotADirectoryError, ValueError, Invalid):
            return None
        return Kept(str(folder), tree, manifest.added_at, used_at)

    def digests(self) -> Iterator[str]:
        for path in sorted(self.trees.glob("*.json")):
            with contextlib.suppress(Invalid):
                yield checked_digest(path.stem)

    def digest_of_key(self, key: str) -> str:
        """What a fetch led to; empty: nobody made it yet."""
        try:
            return checked_digest((self.keys / checked_digest(key)).read_text())
        except (FileNotFoundError, Invalid):
            return ""

    # -- appearing

    def publish(self, key: str, tree: ModelTree) -> None:
        """The unfinished tree of `key`, complete and verified, becomes the model. The caller holds the digest lock."""
        digest, unfinished = tree.digest, self.unfinished_tree(key)
        if self.find(digest) is None:
            self.put_aside(digest)  # what lies there and is not it
            _seal(unfinished)
            content = json.dumps(plain.to_plain(_Manifest(tree.files, datetime.now(UTC))), indent=1)
            write_whole(self.manifest(digest), content)
            unfinished.rename(self.tree(digest))  # within its parent: a read-only folder may not leave that
            sync_folder(self.trees)
        else:
            remove(unfinished)
        write_whole(self.keys / key, digest)
        remove(self.part_folder(key))

    # -- leaving

    def put_aside(self, digest: str) -> None:
        """Out of sight; whoever has its files open keeps them."""
        self.manifest(digest).unlink(missing_ok=True)
        folder = self.tree(digest)
        if folder.is_symlink() or folder.exists():
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(0o700)  # or it may not be moved to another parent
            folder.rename(self.quarantine / f"{digest}-{secrets.token_hex(4)}")

    def empty_quarantine(self) -> int:
        """Returns the bytes that were freed."""
        return sum(remove(place) for place in self.quarantine.iterdir())


def reopen(folder: Path) -> None:
    """Make the folders of an unfinished tree writable again: it may have been sealed when its writer died."""
    if folder.exists():
        folder.chmod(0o700)
        for parent, names, _ in os.walk(folder):
            for name in names:
                Path(parent, name).chmod(0o700)


def remove(folder: Path) -> int:
    """Whatever it is, and however it is protected. Returns the bytes that it took."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return 0
    freed = _size(folder)
    reopen(folder)
    shutil.rmtree(folder)
    return freed


def write_whole(path: Path, text: str) -> None:
    """All of it or nothing, durable."""
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(folder: Path) -> None:
    """Read-only and durable, from the leaves to the root. (The files are already.)"""
    for parent, _, _ in os.walk(folder, topdown=False):
        sync_folder(Path(parent))
        Path(parent).chmod(0o555)


def _looks_whole(folder: Path, tree: ModelTree) -> bool:
    if not stat.S_ISDIR(folder.lstat().st_mode):
        return False
    for file in tree.files:
        status = Path(folder, file.path).lstat()
        if not is_plain_file(status) or status.st_size != file.size:
            return False
    return True


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total
