"""Requests to models of models.py, over both protocols, and endpoints that are answered by a Triton."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from router.domain.routing import Upstream
from router.domain.triton import RunningTriton, TritonServer
from router.domain.triton_tls import TritonTls
from tests.envoy.data_plane import DataPlane
from tests.envoy.load import Load
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.triton.server import Triton

NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
Inputs = dict[str, np.ndarray]

_KIND_OF_PARAMETER = {bool: "bool_param", int: "int64_param", str: "string_param"}


def triton_upstream(
    deployment: str,
    *tritons: Triton,
    model: str,
    number: int = 0,
    version: str = "v1",
    timeout_ms: int = 20_000,
    max_request_bytes: int = 32 * 1024 * 1024,
    tls: TritonTls | None = None,
) -> Upstream:
    """`number`: Triton's version of the model; `version`: ours."""
    servers = tuple(TritonServer("127.0.0.1", one.ports.http, one.ports.grpc) for one in tritons)
    return Upstream(
        deployment,
        version,
        tuple(sorted((one.address for one in tritons), key=str)),
        timeout_ms,
        max_requests=1000,
        max_request_bytes=max_request_bytes,
        triton=RunningTriton(servers, model, number, tls=tls),
        tls=tls,
    )


async def answering(plane: DataPlane, endpoint: str, deployment: str) -> None:
    """Wait until the deployment answers: Envoy has to find its Tritons ready."""

    async def status() -> int:
        headers = {"x-crossfade-deployment": deployment}
        return (await plane.http.get(f"/v2/models/{endpoint}/ready", headers=headers)).status_code

    await eventually(status, 200)


async def all_healthy(plane: DataPlane, endpoint: str, count: int, deployment: str = "green") -> None:
    """Wait until Envoy finds so many Tritons fit, by both protocols."""

    async def fit() -> list[str]:
        stats = await plane.admin(f"/stats?filter=cluster.{endpoint}/{deployment}.*membership_healthy")
        return sorted(line.rpartition(" ")[2] for line in stats.split("\n") if line)

    await eventually(fit, [str(count)] * 2)


def json_request(inputs: Inputs, **more: Any) -> dict[str, Any]:
    tensors = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": np_to_triton_dtype(array.dtype),
            "data": [item.decode() if isinstance(item, bytes) else item for item in array.flatten().tolist()],
        }
        for name, array in inputs.items()
    ]
    return {"id": "7", "inputs": tensors, **more}


def binary_request(
    inputs: Inputs, parameters: Mapping[str, Any] | None = None, classes: int = 0
) -> tuple[bytes, dict[str, str]]:
    """Body and headers, as tritonclient sends them. `classes`: so many of OUTPUT0 are asked for."""
    tensors = []
    for name, array in inputs.items():
        tensors.append(InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        tensors[-1].set_data_from_numpy(array, binary_data=True)
    sequence = dict(parameters or {})
    body, length = InferenceServerClient.generate_request_body(
        tensors,
        outputs=[InferRequestedOutput("OUTPUT0", class_count=classes)] if classes else None,
        request_id="7",
        **sequence,
    )
    return bytes(body), {"inference-header-content-length": str(length)}


def grpc_request(model: str, inputs: Inputs, parameters: Mapping[str, Any] | None = None, classes: int = 0) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model, id="7")
    for name, value in (parameters or {}).items():
        setattr(request.parameters[name], _KIND_OF_PARAMETER[type(value)], value)
    if classes:
        request.outputs.add(name="OUTPUT0").parameters["classification"].int64_param = classes
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        is_text = array.dtype == np.object_
        request.raw_input_contents.append(serialize_byte_tensor(array).item() if is_text else array.tobytes())
    return request


@asynccontextmanager
async def under_load(plane: DataPlane, endpoint: str, inputs: Inputs, clients: int = 6) -> AsyncIterator[Load]:
    """Closed-loop clients, HTTP and gRPC in turn, until the block ends; fails when any of them saw a failure."""
    load, body, message = Load(deadline_s=2 * DEADLINE_S), json_request(inputs), grpc_request(endpoint, inputs)

    async def http() -> None:
        reply = await plane.http.post(f"/v2/models/{endpoint}/infer", json=body)
        if reply.status_code == 200 and reply.json()["model_name"] == endpoint:
            load.answers[reply.headers["x-crossfade-deployment"]] += 1
        else:
            load.failures.append(f"HTTP {reply.status_code} {reply.text}")

    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

        async def over_grpc() -> None:
            call = infer(message, timeout=2 * DEADLINE_S)
            try:
                reply = await call
            except grpc.aio.AioRpcError as error:
                load.failures.append(f"gRPC {error.code()} {error.details()}")
            else:
                assert reply.model_name == endpoint
                load.answers[dict(await call.initial_metadata())["x-crossfade-deployment"]] += 1

        async with load.from_clients(clients, http, over_grpc):
            yield load
