"""A Triton as somebody would install it for `mode: managed`, made out of NVIDIA's wheel: program, libraries, backends.

The wheel has no ONNX Runtime backend; triton_onnxruntime.py stands in for it.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from benchmarks.environments import TRITON, ensure
from benchmarks.triton_server import triton_environment

BACKEND = Path(__file__).with_name("triton_onnxruntime.py")


def triton_home(folder: Path, *, has_onnx: bool = True) -> Path:
    """Returns the program, `<folder>/bin/tritonserver`: a script that becomes the real one. Backends are beside it."""
    ensure(TRITON)
    environment = triton_environment(TRITON.packages, TRITON.python)
    wheel = TRITON.packages / "pytriton" / "tritonserver"
    program, backends = folder / "bin" / "tritonserver", folder / "backends"
    program.parent.mkdir(parents=True)
    backends.mkdir()
    (backends / "python").symlink_to(wheel / "backends" / "python")
    if has_onnx:
        (backends / "onnxruntime").mkdir()
        shutil.copy(BACKEND, backends / "onnxruntime" / "model.py")
    path = environment["PATH"].removesuffix(os.environ["PATH"])
    program.write_text(
        "#!/bin/sh\n"
        f"export LD_LIBRARY_PATH={shlex.quote(environment['LD_LIBRARY_PATH'])}\n"
        f"export PATH={shlex.quote(path)}$PATH\n"
        f'exec {shlex.quote(str(wheel / "bin" / "tritonserver"))} "$@"\n'
    )
    program.chmod(0o755)
    return program
