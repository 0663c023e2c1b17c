"""What a replica that was killed could not take away: the folder that its Triton read, and the memory that this shared
with its own processes (which remove it themselves when they live to see Triton's end). The next replica on the machine
does.

Both bear the same random name, so that who finds one knows the other; and the folder bears the process that made it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "triton-"
_SHARED_MEMORY = Path("/dev/shm")


def new_folder(beside: str) -> Path:
    """Inside `beside`; empty: where temporary files are. Raises `OSError`."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=beside or None))


def memory_name(folder: Path) -> str:
    """How the names begin of the shared memory of whoever reads the folder."""
    return f"crossfade-{folder.name.rpartition('-')[2]}-"


def remove_memory(name: str) -> None:
    """What Triton's Python backend leaves when it is killed. `name`: how it begins."""
    for left in _SHARED_MEMORY.glob(f"{name}*"):
        left.unlink(missing_ok=True)


def sweep(beside: Path) -> None:
    """Remove what is left of processes that are gone. `beside`: a folder of this machine's replicas alone."""
    for left in beside.glob(f"{_PREFIX}*-*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not _is_alive(int(pid)):
            remove_memory(memory_name(left))
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
