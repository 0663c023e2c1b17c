"""Real registries, one of each for the whole session."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.environments import Environment, ensure

MLFLOW = Environment("mlflow", ("mlflow==3.17.0", "onnx==1.22.0", "onnxruntime==1.32.0"))
_START_TIMEOUT_S = 300


@dataclass(frozen=True)
class MlflowServer:
    """`artifacts`: where the server keeps what was logged; `pushed`: copies of the files that were pushed."""

    host: str
    artifacts: Path
    pushed: Path


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """MLflow with the models of `mlflow_push` in it."""
    python = ensure(MLFLOW).python
    folder = tmp_path_factory.mktemp("mlflow")
    host = f"127.0.0.1:{free_port()}"
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    stores = ("--backend-store-uri", f"sqlite:///{folder}/db", "--artifacts-destination", f"{folder}/artifacts")
    where = ("--host", "127.0.0.1", "--port", host.partition(":")[2], "--workers", "1")
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            (python, "-m", "mlflow", "server", *stores, *where),
            env={**os.environ, **quiet},
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            push = Path(__file__).with_name("mlflow_push.py")
            pushing = (python, push, f"http://{host}", folder / "pushed")
            subprocess.run(
                pushing,
                env={**os.environ, **quiet},
                cwd=folder,
                stdout=log,
                stderr=log,
                check=True,
                timeout=_START_TIMEOUT_S,
            )
            yield MlflowServer(host, folder / "artifacts", folder / "pushed")
        except subprocess.CalledProcessError:
            raise AssertionError((folder / "log").read_text()[-3000:]) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
