"""Ray Serve answering V2 JSON requests: dynamic batching, ONNX Runtime, orjson, one replica on one core.

    python -m benchmarks.peers.ray_serve MODEL --port PORT --temp-dir DIR --variant NAME...

Follows https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html and …/performance.html. Serves the model
once for each variant, because no single setting is best for everything (see variants.py). The environment selects Ray
Serve's fast path, see `benchmarks/servers.py`.
"""

from __future__ import annotations

import argparse
import signal
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.session import MAX_BATCH_SIZE, Session
from benchmarks.peers.variants import ALL_RAY_SERVE_VARIANTS

_JSON_LENGTH = "Inference-Header-Content-Length"


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0.25})
class Model:
    """One ONNX model with one input and one output."""

    def __init__(self, path: str, batch_wait_s: float) -> None:
        self._model = Session(path)
        self.score.set_batch_wait_timeout_s(batch_wait_s)  # type: ignore[attr-defined]  # what @serve.batch adds

    @serve.batch(max_batch_size=MAX_BATCH_SIZE)
    async def score(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        scores = self._model(np.concatenate(rows))
        ends = accumulate(len(row) for row in rows)
        return [scores[end - len(row) : end] for row, end in zip(rows, ends, strict=True)]

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        if json_length := int(request.headers.get(_JSON_LENGTH, 0)):
            return await self._binary(body, json_length)
        tensor = orjson.loads(body)["inputs"][0]
        scores = await self.score(np.asarray(tensor["data"], np.float32).reshape(tensor["shape"]))
        output = {**self._described(scores), "data": scores.ravel()}
        return Response(_reply(output), media_type="application/json")

    async def _binary(self, body: bytes, json_length: int) -> Response:
        """V2's binary extension, both ways."""
        shape = orjson.loads(body[:json_length])["inputs"][0]["shape"]
        scores = await self.score(np.frombuffer(body, np.float32, offset=json_length).reshape(shape))
        head = _reply({**self._described(scores), "parameters": {"binary_data_size": scores.nbytes}})
        headers = {_JSON_LENGTH: str(len(head))}
        return Response(head + scores.tobytes(), media_type="application/octet-stream", headers=headers)

    def _described(self, scores: np.ndarray) -> dict[str, Any]:
        return {"name": self._model.output_name, "datatype": "FP32", "shape": scores.shape}


def _reply(output: dict[str, Any]) -> bytes:
    reply = {"model_name": "mlp", "model_version": "1", "outputs": [output]}
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--temp-dir", type=Path, required=True)
    parser.add_argument("--variant", action="append", choices=ALL_RAY_SERVE_VARIANTS, required=True)
    arguments = parser.parse_args()
    settings: dict[str, Any] = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80_000_000}
    # `local`: a cluster of our own, whatever RAY_ADDRESS says.
    ray.init("local", _temp_dir=str(arguments.temp_dir), _node_ip_address="127.0.0.1", log_to_driver=False, **settings)
    serve.start(http_options={"host": "127.0.0.1", "port": arguments.port})
    for name in arguments.variant:
        variant = ALL_RAY_SERVE_VARIANTS[name]
        model = Model.options(  # type: ignore[attr-defined]  # what @serve.deployment makes of it
            max_ongoing_requests=variant.max_ongoing_requests,
            logging_config={"enable_access_log": variant.has_access_log},
        )
        serve.run(model.bind(str(arguments.model), variant.batch_wait_s), name=name, route_prefix=f"/{name}")
    signal.pause()


if __name__ == "__main__":
    main()
