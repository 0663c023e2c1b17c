"""LitServe: its natural JSON, dynamic batching, one inference worker, one API server.

Follows https://lightning.ai/docs/litserve/features/batching and …/api-reference/litserver: `fast_queue` is what its
documentation recommends for high rates. One core runs the model, so `workers_per_device` stays at its default of 1. Its
log line for every request is off, which makes it faster.

python -m benchmarks.peers.litserve MODEL --port PORT --grpc-port PORT --folder FOLDER
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litserve
import numpy as np

from benchmarks.peers.arguments import parse
from benchmarks.peers.session import MAX_BATCH_SIZE, Session


class OnnxApi(litserve.LitAPI):  # type: ignore[misc]  # litserve is not in our own environment
    """POST /predict {"rows": [[…]]} with one row is answered [[…]]."""

    def __init__(self, path: Path, **settings: Any) -> None:
        super().__init__(**settings)
        self._path = path

    def setup(self, device: str) -> None:
        self._score = Session(self._path)

    def decode_request(self, request: dict[str, list[list[float]]]) -> np.ndarray:
        return np.array(request["rows"][0], np.float32)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self._score(rows)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> list[list[float]]:
        return [output.tolist()]


def main() -> None:
    arguments = parse(__doc__)
    api = OnnxApi(arguments.model, max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(
        host="127.0.0.1", port=arguments.port, num_api_servers=1, log_level="warning", generate_client_file=False
    )


if __name__ == "__main__":
    main()
