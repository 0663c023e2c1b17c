"""mosec: a front end in Rust, its natural JSON, dynamic batching, one inference worker.

Follows https://mosecorg.github.io/mosec/: a Worker with `forward` over a list, and dynamic batching by `max_batch_size`
with `max_wait_time` in milliseconds, of which 1 is the least. orjson instead of its json, as its documentation of
custom serialisation shows, makes it faster.

python -m benchmarks.peers.mosec MODEL --port PORT --grpc-port PORT --folder FOLDER
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import orjson
from mosec import Server, Worker

from benchmarks.peers.arguments import parse
from benchmarks.peers.session import MAX_BATCH_SIZE, Session

MODEL_VARIABLE = "CROSSFADE_BENCH_MODEL"


class OnnxWorker(Worker):  # type: ignore[misc]  # mosec is not in our own environment
    """POST /inference {"rows": [[…]]} with one row is answered [[…]]."""

    def __init__(self) -> None:
        super().__init__()
        self._score = Session(os.environ[MODEL_VARIABLE])

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.array(orjson.loads(data)["rows"], np.float32)

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
        return list(self._score(np.concatenate(data)))

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps([data], option=orjson.OPT_SERIALIZE_NUMPY)


def main() -> None:
    arguments = parse(__doc__)
    sys.argv = [sys.argv[0], "--address", "127.0.0.1", "--port", str(arguments.port), "--timeout", "60000"]
    sys.argv += ["--path", str(arguments.folder / "ipc")]
    server = Server()
    environment = [{MODEL_VARIABLE: str(arguments.model)}]
    server.append_worker(OnnxWorker, num=1, max_batch_size=MAX_BATCH_SIZE, max_wait_time=1, env=environment)
    server.run()


if __name__ == "__main__":
    main()
