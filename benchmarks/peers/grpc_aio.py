"""A plain grpc.aio server of the Open Inference Protocol, around the model and batcher of Crossfade's own replicas.

    python -m benchmarks.peers.grpc_aio MODEL --port PORT --loop asyncio|uvloop

Follows https://grpc.github.io/grpc/python/grpc_asyncio.html, whose examples use `asyncio.run`; uvloop makes it faster.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import math
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from tritonclient.grpc import service_pb2, service_pb2_grpc

from adapters.onnx.backend import OnnxBackend
from adapters.onnx.options import OnnxOptions
from serving.errors import STATUS, ScoringError
from serving.messages import InferReply, InferRequest
from serving.model import Model, ModelSettings

_RUNNERS: dict[str, Callable[[Coroutine[Any, Any, None]], None]] = {"asyncio": asyncio.run, "uvloop": uvloop.run}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class InferenceService(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated without types
    """ModelInfer for FP32 tensors in raw contents."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def ModelInfer(  # noqa: N802  # the protocol's name
        self, request: service_pb2.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        inputs = {
            tensor.name: np.frombuffer(content, np.float32).reshape(tensor.shape)
            for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        answered: asyncio.Future[InferReply | ScoringError] = asyncio.get_running_loop().create_future()
        self._model.infer(InferRequest(request.id, inputs), math.inf, answered.set_result)
        reply = await answered
        if isinstance(reply, ScoringError):
            return await context.abort(_CODES[STATUS[type(reply)][1]], str(reply))
        tensor_of = service_pb2.ModelInferResponse.InferOutputTensor
        return service_pb2.ModelInferResponse(
            id=reply.id,
            model_name=reply.model_name,
            model_version=reply.model_version,
            outputs=[tensor_of(name=name, datatype=datatype, shape=it.shape) for name, datatype, it in reply.outputs],
            raw_output_contents=[array.tobytes() for _, _, array in reply.outputs],
        )


async def serve(options: OnnxOptions, port: int) -> None:
    model = Model(ModelSettings("mlp", "1"))
    await model.load(partial(OnnxBackend, options))
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(InferenceService(model), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--loop", choices=_RUNNERS, required=True)
    arguments = parser.parse_args()
    digest = hashlib.sha256(arguments.model.read_bytes()).hexdigest()
    _RUNNERS[arguments.loop](serve(OnnxOptions(str(arguments.model), digest), arguments.port))


if __name__ == "__main__":
    main()
