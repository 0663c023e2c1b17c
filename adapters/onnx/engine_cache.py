"""Folders in which TensorRT keeps its engines and timings. ONNX Runtime names and writes the files; here it is decided
which folder is good for what, and how many stay. Knows no ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

# An engine is as large as its model, or larger. The folder that was not used for the longest time goes first.
MAX_FOLDERS = 16


def engine_folder(cache_dir: str, facts: Sequence[object]) -> Path | None:
    """The folder for engines that just `facts` describe. None when it cannot be made: engines are not kept then."""
    digest = hashlib.sha256(json.dumps(list(facts), sort_keys=True).encode()).hexdigest()[:32]
    folder = Path(cache_dir, "tensorrt", digest)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(folder)
        _bound(folder)
    except OSError as error:
        log.warning("TensorRT engines are not kept", extra={"reason": str(error)})
        return None
    return folder


def emptied(folder: Path) -> bool:
    """Delete what is in the folder: it may be damaged. Returns whether there was anything."""
    had_files = any(folder.iterdir())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return had_files


def _bound(newest: Path) -> None:
    """A folder that a running replica came from may go: its engine is in the device's memory."""
    folders = sorted((path.stat().st_mtime, path) for path in newest.parent.iterdir() if path != newest)
    for _, path in folders[: max(0, len(folders) + 1 - MAX_FOLDERS)]:
        shutil.rmtree(path, ignore_errors=True)
