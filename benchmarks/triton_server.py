"""How the real Triton Inference Server out of NVIDIA's wheel is started, for benchmarks and tests.

The wheel's own wrapper is not used: it hides statistics and the repository.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TritonPorts:
    http: int
    grpc: int


def triton_command(packages: Path, repository: Path, ports: TritonPorts, *options: str) -> list[str]:
    """`packages`: the site-packages that the wheel is in."""
    server = packages / "pytriton" / "tritonserver"
    return [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={server / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={ports.http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={ports.grpc}",
        "--allow-metrics=false",
        "--allow-gpu-metrics=false",
        f"--backend-config=python,shm-region-prefix-name={region_prefix(ports)}",
        "--pinned-memory-pool-byte-size=0",
        *options,
    ]


def region_prefix(ports: TritonPorts) -> str:
    """How the names of the memory begin that such a server shares with the processes of its Python models."""
    return f"crossfade{os.getpid()}_{ports.http}_"


def triton_environment(packages: Path, python: Path) -> dict[str, str]:
    """For a server whose Python backend runs models with `python`, of the same version as this one.

    The wheel brings a stub of the backend for each version of Python, and none in its place.
    """
    server = packages / "pytriton" / "tritonserver"
    stub = server / "backends" / "python" / "triton_python_backend_stub"
    if not stub.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        beside = stub.with_name(f"{stub.name}.{os.getpid()}")  # several processes may want it
        shutil.copy(server / "python_backend_stubs" / version / stub.name, beside)
        beside.rename(stub)
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
        "PATH": f"{python.parent}:{os.environ['PATH']}",  # where the stub finds its Python
    }
