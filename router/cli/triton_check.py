"""What `crossfade doctor` finds of Triton on this machine: a server's program, its version, backends and GPUs."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from adapters.triton.program import backends_of, find_program

_START_TIMEOUT_S = 20.0
_DEVICE = re.compile(r"CUDA memory pool is created on device ([0-9]+)")
_VERSION = re.compile(r"\|\s*server_version\s*\|\s*([0-9][0-9.a-z]*)")


@dataclass(frozen=True, slots=True)
class FoundTriton:
    """`version` is empty when the program does not run here; `words` are then its last. `gpus`: those that it uses."""

    program: Path
    version: str
    backends: tuple[str, ...]
    words: str = ""
    gpus: int = 0


def find_triton() -> FoundTriton | None:
    """The one that a managed deployment's replica would start here."""
    program = find_program(os.environ)
    return examined(program) if program is not None else None


def examined(program: Path) -> FoundTriton:
    """Starts it without models and without ports, until it has said its version: it has no option that asks for it."""
    version, words, gpus = _said(program)
    return FoundTriton(program, version, backends_of(program), "" if version else words, gpus)


def _said(program: Path) -> tuple[str, str, int]:
    """Its version, the last line that it said, and how many GPUs it uses."""
    last, devices = "it says nothing", set[str]()
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
            return "", str(error), 0
        with process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    last = line.strip() or last
                    devices.update(_DEVICE.findall(line))
                    if found := _VERSION.search(line):
                        return found[1], last, len(devices)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()  # which `timeout` passes on
                process.stdout.close()
    return "", last, 0
