"""MLServer with a custom runtime: V2 JSON, adaptive batching, the default of one inference worker beside the server.

Follows https://docs.seldon.ai/mlserver/user-guide/custom (a runtime with NumpyCodec), …/adaptive-batching (both
settings are needed to switch it on) and …/parallel-inference. `debug: false` switches its log line per request off.

python -m benchmarks.peers.mlserver MODEL --port PORT --grpc-port PORT --folder FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.arguments import Arguments, parse
from benchmarks.peers.session import MAX_BATCH_SIZE, Session


class OnnxModel(MLModel):  # type: ignore[misc]  # mlserver is not in our own environment
    """`parameters.uri` is the model's path."""

    async def load(self) -> bool:
        self._score = Session(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        output = NumpyCodec.encode_output(self._score.output_name, self._score(rows))
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])


def write_settings(arguments: Arguments) -> None:
    server = {
        "host": "127.0.0.1",
        "http_port": arguments.port,
        "grpc_port": arguments.grpc_port,
        "metrics_endpoint": None,
        "debug": False,
    }
    model = {
        "name": "mlp",
        "implementation": "benchmarks.peers.mlserver.OnnxModel",
        "max_batch_size": MAX_BATCH_SIZE,
        "max_batch_time": 0.001,
        "parameters": {"uri": str(arguments.model), "version": "1"},
    }
    (arguments.folder / "settings.json").write_text(json.dumps(server))
    (arguments.folder / "model-settings.json").write_text(json.dumps(model))


def main() -> None:
    arguments = parse(__doc__)
    write_settings(arguments)
    program = Path(sys.executable).with_name("mlserver")
    os.execve(program, [str(program), "start", str(arguments.folder)], {**os.environ, "PYTHONPATH": os.getcwd()})


if __name__ == "__main__":
    main()
