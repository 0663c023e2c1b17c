"""Programs of real servers from Debian's and npm's packages, unpacked into one folder each under `.test-servers`.

Nothing is installed into the system, no service is started. Python servers: `benchmarks.environments.ensure`.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
FOLDER = REPOSITORY / ".test-servers"
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Debian:
    """Packages by name; what they depend on must be named too, or be in every Debian. Programs: `folder/usr/bin`."""

    name: str
    packages: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return FOLDER / self.name


@dataclass(frozen=True, slots=True)
class Npm:
    """Packages with their versions, such as azurite@3.35.0. Programs: `folder/node_modules/.bin`."""

    name: str
    packages: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return FOLDER / self.name


def ensure(program: Debian | Npm) -> Path:
    """The folder that holds it, filled if it is not there as it is written here. Raises when that fails."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{program.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may want it
        stamp = program.folder / ".complete"
        wanted = hashlib.sha256(repr(program).encode()).hexdigest()
        if not (stamp.is_file() and stamp.read_text() == wanted):
            shutil.rmtree(program.folder, ignore_errors=True)
            program.folder.mkdir()
            match program:
                case Debian():
                    _unpack(program)
                case Npm():
                    _npm(program)
            stamp.write_text(wanted)
    return program.folder


def _unpack(program: Debian) -> None:
    download = ("apt-get", "download", "--quiet", *program.packages)
    try:
        _run(*download, folder=program.folder)
    except RuntimeError:  # the lists of packages are not there, or too old
        _run("apt-get", "update", "--quiet", folder=program.folder)
        _run(*download, folder=program.folder)
    for package in program.folder.glob("*.deb"):
        _run("dpkg-deb", "--extract", package.name, ".", folder=program.folder)
        package.unlink()


def _npm(program: Npm) -> None:
    _run(
        "npm",
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--prefix",
        ".",
        *program.packages,
        folder=program.folder,
    )


def _run(*command: str, folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:3])} failed: {(done.stderr or done.stdout).strip()[-500:]}")
