"""KServe's Python model server with a custom predictor: V2 JSON, one uvicorn worker on uvloop (its default).

Follows https://kserve.github.io/website/docs/model-serving/predictive-inference/frameworks/custom-predictor. KServe's
batcher is a sidecar container of Kubernetes, not part of the Python server, so requests are not batched here. Its log
lines for every request are off, which makes it faster. Its HTTP server listens on all addresses; there is no setting.

python -m benchmarks.peers.kserve MODEL --port PORT --grpc-port PORT --folder FOLDER
"""

from __future__ import annotations

import logging

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid

from benchmarks.peers.arguments import parse
from benchmarks.peers.session import Session


class OnnxModel(Model):  # type: ignore[misc]  # kserve is not in this environment
    """One model, loaded from `path`."""

    def __init__(self, path: str) -> None:
        super().__init__("mlp")
        self._score = Session(path)
        self.ready = True

    async def predict(
        self,
        payload: InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> InferResponse:
        scores = self._score(payload.inputs[0].as_numpy().astype(np.float32, copy=False))
        output = InferOutput(self._score.output_name, list(scores.shape), "FP32")
        output.set_data_from_numpy(scores, binary_data=False)
        return InferResponse(payload.id or generate_uuid(), self.name, [output])


def main() -> None:
    arguments = parse(__doc__)
    server = ModelServer(
        http_port=arguments.port, grpc_port=arguments.grpc_port, enable_grpc=False, enable_latency_logging=False
    )
    for name in ("kserve.trace", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    server.start([OnnxModel(str(arguments.model))])


if __name__ == "__main__":
    main()
