"""KServe's REST and gRPC clients against a gateway, run in an environment of their own: kserve_client.py HTTP GRPC.

Prints what they saw as JSON.
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

ROW = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)


def request() -> InferRequest:
    tensor = InferInput("x", [1, 64], "FP32")
    tensor.set_data_from_numpy(ROW, binary_data=False)
    return InferRequest(model_name="mlp", infer_inputs=[tensor])


async def over_rest(url: str) -> dict[str, object]:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    answer = await client.infer(url, request(), model_name="mlp")
    return {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, "mlp"),
        "y": answer.outputs[0].as_numpy().ravel().tolist(),
    }


async def over_grpc(address: str) -> dict[str, object]:
    async with InferenceGRPCClient(url=address, retries=0) as client:
        answer = await client.infer(request())
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready("mlp"),
            "y": answer.outputs[0].as_numpy().ravel().tolist(),
        }


async def main() -> None:
    http, grpc = sys.argv[1:]
    print(json.dumps({"rest": await over_rest(http), "grpc": await over_grpc(grpc)}))


if __name__ == "__main__":
    asyncio.run(main())
