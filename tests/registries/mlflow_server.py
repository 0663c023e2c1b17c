"""A real MLflow server as a child of the tests, and its own client, which puts models into it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import Environment, ensure
from tests.registries.processes import free_port

MLFLOW = Environment("mlflow", ("mlflow==3.17.0", "onnx==1.22.0", "onnxruntime==1.32.0"))
_START_TIMEOUT_S = 300
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
_BESIDE_A_MODEL = {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"}


@dataclass(frozen=True)
class MlflowServer:
    """`folder`: everything of it, also `log`."""

    host: str
    folder: Path

    @property
    def artifacts(self) -> Path:
        """Where the server keeps what was logged."""
        return self.folder / "artifacts"

    @property
    def pushed(self) -> Path:
        """Copies of the files that `mlflow_push` pushed."""
        return self.folder / "pushed"

    def push(self, script: str, *arguments: str | Path) -> None:
        """Run a script of this folder in MLflow's environment, with the server's URL before the arguments. It waits
        for the server by itself."""
        path = Path(__file__).with_name(script)
        argv = (ensure(MLFLOW).python, path, f"http://{self.host}", *arguments)
        done = subprocess.run(
            argv,
            env={**os.environ, **_QUIET},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_START_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{(self.folder / 'log').read_text()[-3000:]}"

    def logged(self) -> dict[str, bytes]:
        """The only ONNX file that MLflow logged, and what it put beside it for the weights."""
        (model,) = self.artifacts.glob("0/models/*/artifacts/model.onnx")
        return {file.name: file.read_bytes() for file in model.parent.iterdir() if file.name not in _BESIDE_A_MODEL}


@contextmanager
def mlflow(folder: Path) -> Iterator[MlflowServer]:
    """Just started: it takes 10 to 20 seconds until it answers."""
    server = MlflowServer(f"127.0.0.1:{free_port()}", folder)
    stores = ("--backend-store-uri", f"sqlite:///{folder}/db", "--artifacts-destination", server.artifacts)
    where = ("--host", "127.0.0.1", "--port", server.host.partition(":")[2], "--workers", "1")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            (ensure(MLFLOW).python, "-m", "mlflow", "server", *stores, *where),
            env={**os.environ, **_QUIET},
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
