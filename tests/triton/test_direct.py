"""Envoy straight before a real Triton: answers equal Triton's own, under the endpoint's name."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.envoy.data_plane import DataPlane
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.triton.asking import (
    NO_LIMIT,
    Inputs,
    answering,
    binary_request,
    grpc_request,
    json_request,
    triton_upstream,
)
from tests.triton.server import Triton

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _pair(dtype: Any) -> Inputs:
    return {"INPUT0": np.arange(6).reshape(2, 3).astype(dtype), "INPUT1": np.full((2, 3), 4).astype(dtype)}


def _texts(*texts: bytes) -> np.ndarray:
    return np.array([texts], dtype=np.object_)


INPUTS: dict[str, Inputs] = {
    "add_sub": _pair(np.int32),
    "add_sub_int8": _pair(np.int8),
    "add_sub_fp32": _pair(np.float32),
    "add_sub_strings": {"INPUT0": _texts(b"1", b"20"), "INPUT1": _texts(b"3", b"-4")},
    "identity_bytes": {"INPUT0": _texts(b"", "grüße \"'\\{[".encode(), b'"model_name":"identity_bytes"')},
    "identity_fp32": {"INPUT0": np.array([[0.5, -1.25, 3e38]], dtype=np.float32)},
}
NULS: Inputs = {"INPUT0": _texts(b"\0", b"a\0b\0", b"\xff\xfe\0")}


async def endpoint(plane: DataPlane, server: Triton, model: str, number: int = 0) -> str:
    """An endpoint whose only deployment is this model."""
    name = f"the-{model.replace('_', '-')}-{number}"
    await plane.endpoint(name, triton_upstream("blue", server, model=model, number=number))
    await answering(plane, name, "blue")
    return name


async def ask_triton(server: Triton, path: str, **how: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.http_url, timeout=DEADLINE_S) as client:
        return await client.post(path, **how)


def named(reply: httpx.Response, model: str) -> tuple[Any, bytes]:
    """The reply's JSON, its model name checked and taken out, and what follows it."""
    length = int(reply.headers.get("inference-header-content-length", len(reply.content)))
    document = json.loads(reply.content[:length])
    assert document.pop("model_name") == model
    return document, reply.content[length:]


@pytest.mark.parametrize("model", INPUTS)
async def test_http_replies_are_tritons_own_under_the_endpoints_name(
    plane: DataPlane, server: Triton, model: str
) -> None:
    name, body = await endpoint(plane, server, model), json_request(INPUTS[model])

    ours = await plane.http.post(f"/v2/models/{name}/infer", json=body)
    theirs = await ask_triton(server, f"/v2/models/{model}/infer", json=body)

    (got, _), (expected, _) = named(ours, name), named(theirs, model)
    assert (got.pop("model_version"), expected.pop("model_version")) == ("v1", "1")
    assert got == expected
    assert ours.headers["x-crossfade-deployment"] == "blue"
    assert ours.headers["content-type"] == theirs.headers["content-type"]


@pytest.mark.parametrize("inputs", [*INPUTS.items(), ("identity_bytes", NULS)], ids=lambda it: str(it[0]))
async def test_binary_replies_are_tritons_own(plane: DataPlane, server: Triton, inputs: tuple[str, Inputs]) -> None:
    model, tensors = inputs
    name = await endpoint(plane, server, model)
    body, headers = binary_request(tensors)

    ours = await plane.http.post(f"/v2/models/{name}/infer", content=body, headers=headers)
    theirs = await ask_triton(server, f"/v2/models/{model}/infer", content=body, headers=headers)

    (got, blobs), (expected, expected_blobs) = named(ours, name), named(theirs, model)
    assert got | {"model_version": "1"} == expected
    assert (blobs, ours.headers["content-type"]) == (expected_blobs, theirs.headers["content-type"])
    assert blobs


@pytest.mark.parametrize("inputs", [*INPUTS.items(), ("identity_bytes", NULS)], ids=lambda it: str(it[0]))
async def test_grpc_replies_are_tritons_own(plane: DataPlane, server: Triton, inputs: tuple[str, Inputs]) -> None:
    model, tensors = inputs
    name = await endpoint(plane, server, model)
    async with (
        grpc.aio.insecure_channel(plane.grpc_address) as front,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as behind,
    ):
        ours = await service_pb2_grpc.GRPCInferenceServiceStub(front).ModelInfer(grpc_request(name, tensors))
        theirs = await service_pb2_grpc.GRPCInferenceServiceStub(behind).ModelInfer(grpc_request(model, tensors))

    assert (ours.model_name, ours.model_version) == (name, "v1")
    ours.model_name, ours.model_version = theirs.model_name, theirs.model_version
    assert ours == theirs


async def test_a_reply_is_not_compressed_though_the_client_would_take_it(plane: DataPlane, server: Triton) -> None:
    """A right answer to `gzip, deflate, br`, which tritonclient always says; and the only one that can be renamed."""
    name = await endpoint(plane, server, "add_sub")

    reply = await plane.http.post(
        f"/v2/models/{name}/infer", json=json_request(INPUTS["add_sub"]), headers={"accept-encoding": "gzip, deflate"}
    )

    assert "content-encoding" not in reply.headers
    assert reply.json()["model_name"] == name


@pytest.mark.parametrize("number", [0, 1])
async def test_what_describes_a_model_bears_the_names_in_front(plane: DataPlane, server: Triton, number: int) -> None:
    name = await endpoint(plane, server, "add_sub", number)

    async def get(path: str) -> Any:
        reply = await plane.http.get(f"/v2/models/{name}{path}")
        assert reply.status_code == 200
        return reply.json()

    metadata, config, (statistics,) = await get(""), await get("/config"), (await get("/stats"))["model_stats"]
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        metadata_message = await stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=name))
        config_message = await stub.ModelConfig(service_pb2.ModelConfigRequest(name=name))
        statistics_message = await stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name=name))
        ready = await stub.ModelReady(service_pb2.ModelReadyRequest(name=name, version="v1"))

    assert (metadata["name"], metadata["versions"]) == (name, ["v1"])
    assert config["name"] == name
    assert (statistics["name"], statistics["version"]) == (name, "v1")
    assert MessageToDict(metadata_message, preserving_proto_field_name=True)["versions"] == ["v1"]
    assert metadata_message.name == config_message.config.name == name
    assert [tensor.name for tensor in metadata_message.inputs] == ["INPUT0", "INPUT1"]
    assert config_message.config.max_batch_size == 8
    assert [(one.name, one.version) for one in statistics_message.model_stats] == [(name, "v1")]
    assert ready.ready


async def test_a_version_is_pinned_by_the_deployments_name_for_it(plane: DataPlane, server: Triton) -> None:
    name = await endpoint(plane, server, "add_sub", 1)
    body = json_request(INPUTS["add_sub"])

    pinned = await plane.http.post(f"/v2/models/{name}/versions/v1/infer", json=body)
    unknown = await plane.http.post(f"/v2/models/{name}/versions/1/infer", json=body)

    assert (pinned.status_code, pinned.json()["model_version"]) == (200, "v1")
    assert unknown.status_code == 404


@pytest.mark.parametrize("rows", [1, 25_000])
async def test_megabytes_pass_both_ways_over_both_protocols(plane: DataPlane, server: Triton, rows: int) -> None:
    name = await endpoint(plane, server, "identity_fp32")
    tensor = np.arange(rows * 40, dtype=np.float32).reshape(1, -1)
    body, headers = binary_request({"INPUT0": tensor})

    reply = await plane.http.post(f"/v2/models/{name}/infer", content=body, headers=headers)
    in_json = await plane.http.post(f"/v2/models/{name}/infer", json=json_request({"INPUT0": tensor}))
    async with grpc.aio.insecure_channel(plane.grpc_address, options=NO_LIMIT) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        message = await infer(grpc_request(name, {"INPUT0": tensor}))

    assert named(reply, name)[1] == message.raw_output_contents[0] == tensor.tobytes()
    assert in_json.json()["outputs"][0]["data"] == tensor.flatten().tolist()


async def test_requests_of_a_sequence_find_its_state(plane: DataPlane, server: Triton) -> None:
    name = await endpoint(plane, server, "sequence")
    body = json_request({"INPUT0": np.array([[2]], dtype=np.int32)}, parameters={"sequence_id": 42})

    sums = [
        (await plane.http.post(f"/v2/models/{name}/infer", json=body)).json()["outputs"][0]["data"] for _ in range(3)
    ]

    assert sums == [[2], [4], [6]]


async def test_attempts_over_both_protocols_are_counted_for_the_deployment(plane: DataPlane, server: Triton) -> None:
    name = await endpoint(plane, server, "failing")
    fine, failing = ({"INPUT0": np.array([[number]], dtype=np.int32)} for number in (1, -1))
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        for inputs, count in ((fine, 5), (failing, 3)):
            for _ in range(count):
                await plane.infer(name, body=json.dumps(json_request(inputs)).encode())
                with pytest.raises(grpc.aio.AioRpcError) if inputs is failing else contextlib.nullcontext():
                    await infer(grpc_request(name, inputs))

    def counted() -> tuple[int, int]:
        totals = plane.meter.totals(name).get("blue")
        return (totals.requests, totals.errors) if totals else (0, 0)

    # 5 + 3 over each protocol, and the questions whether it is ready, which were pinned, are not counted.
    await eventually(counted, (16, 6))


async def test_under_tritons_own_names_replies_are_the_same_to_the_byte(plane: DataPlane, server: Triton) -> None:
    upstream = triton_upstream("blue", server, model="add_sub", number=1, version="1")
    await plane.endpoint("add_sub", upstream)
    await answering(plane, "add_sub", "blue")
    body, headers = binary_request(INPUTS["add_sub"])
    path, message = "/v2/models/add_sub/versions/1", grpc_request("add_sub", INPUTS["add_sub"])

    ours = await plane.http.post(f"{path}/infer", content=body, headers=headers)
    theirs = await ask_triton(server, f"{path}/infer", content=body, headers=headers)
    described = (await plane.http.get("/v2/models/add_sub")).json()
    unknown = await plane.http.post("/v2/models/add_sub/infer", json={"inputs": []})
    async with (
        grpc.aio.insecure_channel(plane.grpc_address) as front,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as behind,
    ):
        in_front = await service_pb2_grpc.GRPCInferenceServiceStub(front).ModelInfer(message)
        at_home = await service_pb2_grpc.GRPCInferenceServiceStub(behind).ModelInfer(message)
        metadata = await service_pb2_grpc.GRPCInferenceServiceStub(front).ModelMetadata(
            service_pb2.ModelMetadataRequest(name="add_sub")
        )

    assert (ours.content, in_front) == (theirs.content, at_home)
    assert (described["name"], described["versions"]) == ("add_sub", ["1"])
    assert (metadata.name, list(metadata.versions)) == ("add_sub", ["1"])
    assert unknown.status_code == 400
