"""BentoML: its natural JSON, adaptive batching, one worker, `bentoml serve` in its production mode.

Follows https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html: `batchable` with a maximum batch size;
the batching window adapts by itself below `max_latency_ms`.

python -m benchmarks.peers.bentoml MODEL --port PORT --grpc-port PORT --folder FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bentoml
import numpy as np

from benchmarks.peers.arguments import parse
from benchmarks.peers.session import MAX_BATCH_SIZE, Session

MODEL_VARIABLE = "CROSSFADE_BENCH_MODEL"


@bentoml.service(name="mlp", workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class OnnxService:
    """POST /score {"rows": [[…]]} is answered [[…]]."""

    def __init__(self) -> None:
        self._score = Session(os.environ[MODEL_VARIABLE])

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=1000)
    def score(self, rows: np.ndarray) -> np.ndarray:
        return self._score(rows.astype(np.float32, copy=False))


def main() -> None:
    arguments = parse(__doc__)
    program = Path(sys.executable).with_name("bentoml")
    command = [str(program), "serve", "benchmarks.peers.bentoml:OnnxService", "--host", "127.0.0.1"]
    command += ["--port", str(arguments.port), "--working-dir", os.getcwd()]
    private = {
        "BENTOML_HOME": str(arguments.folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "true",
        MODEL_VARIABLE: str(arguments.model),
    }
    os.execve(program, command, {**os.environ, **private})


if __name__ == "__main__":
    main()
