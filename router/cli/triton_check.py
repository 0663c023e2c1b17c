"""What `crossfade doctor` finds of Triton on this machine: a server's program, its version and its backends."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_CONTAINERS_OWN = Path("/opt/tritonserver/bin/tritonserver")
_START_TIMEOUT_S = 20.0
_VERSION = re.compile(r"\|\s*server_version\s*\|\s*([0-9][0-9.a-z]*)")


@dataclass(frozen=True, slots=True)
class FoundTriton:
    """`version` is empty when the program does not run here; `words` are then its last."""

    program: Path
    version: str
    backends: tuple[str, ...]
    words: str = ""


def find_triton() -> FoundTriton | None:
    """On the PATH, where NVIDIA's container has it, or in the wheel beside this package."""
    on_path = shutil.which("tritonserver")
    for program in (Path(on_path) if on_path else None, _CONTAINERS_OWN, _wheels_own()):
        if program is not None and os.access(program, os.X_OK):
            return examined(program)
    return None


def examined(program: Path) -> FoundTriton:
    """Starts it without models and without ports, until it has said its version: it has no option that asks for it."""
    version, words = _said(program)
    folder = program.resolve().parent.parent / "backends"
    backends = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())) if folder.is_dir() else ()
    return FoundTriton(program, version, backends, "" if version else words)


def _said(program: Path) -> tuple[str, str]:
    """Its version, and the last line that it said."""
    last = "it says nothing"
    with tempfile.TemporaryDirectory() as nothing:
        options = [f"--model-repository={nothing}", *(f"--allow-{port}=false" for port in ("http", "grpc", "metrics"))]
        try:
            process = subprocess.Popen(
                ["timeout", str(_START_TIMEOUT_S), str(program), *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            return "", str(error)
        with process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    last = line.strip() or last
                    if found := _VERSION.search(line):
                        return found[1], last
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()  # which `timeout` passes on
                process.stdout.close()
    return "", last


def _wheels_own() -> Path | None:
    spec = importlib.util.find_spec("pytriton")
    return Path(spec.origin).parent / "tritonserver" / "bin" / "tritonserver" if spec and spec.origin else None
