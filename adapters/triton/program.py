"""Where Triton's program is on this machine, and which backends are beside it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from router.domain.errors import ModelUnavailable

VARIABLE = "CROSSFADE_TRITONSERVER"
_CONTAINERS_OWN = Path("/opt/tritonserver/bin/tritonserver")


def find_program(environment: Mapping[str, str]) -> Path | None:
    """What the environment names, and nothing else then; or else one on the PATH, where NVIDIA's container has it, or
    in the wheel beside this package.

    Not a deployment's business: whoever may name it may run any program here.
    """
    if named := environment.get(VARIABLE):
        candidates: tuple[Path | None, ...] = (Path(named),)
    else:
        on_path = shutil.which("tritonserver", path=environment.get("PATH", ""))
        candidates = (Path(on_path) if on_path else None, _CONTAINERS_OWN, _wheels_own())
    return next((path for path in candidates if path is not None and os.access(path, os.X_OK)), None)


def backend_folder(program: Path) -> Path:
    return program.resolve().parent.parent / "backends"


def backends_of(program: Path) -> tuple[str, ...]:
    folder = backend_folder(program)
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())) if folder.is_dir() else ()


def checked_program(backend: str, environment: Mapping[str, str]) -> Path:
    """One that has the backend. Raises `ModelUnavailable` that says what to install."""
    program = find_program(environment)
    if program is None and (named := environment.get(VARIABLE)):
        raise ModelUnavailable(f"{VARIABLE} names {named}, which is no program that can be run here")
    if program is None:
        raise ModelUnavailable(
            f"there is no tritonserver on this machine: run in NVIDIA's container, or set {VARIABLE} to its path "
            "(crossfade doctor looks for it)"
        )
    found = backends_of(program)
    if backend not in found:
        raise ModelUnavailable(
            f"{program} has no backend {backend!r}, which the model needs: there "
            f"{'are ' + ', '.join(found) if found else 'is none'} in {backend_folder(program)}"
        )
    return program


def _wheels_own() -> Path | None:
    spec = importlib.util.find_spec("pytriton")
    return Path(spec.origin).parent / "tritonserver" / "bin" / "tritonserver" if spec and spec.origin else None
