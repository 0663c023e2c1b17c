"""tritonclient, all four of them, as its users have it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException

from benchmarks.payloads import Payload
from tests.system.gateway import Gateway

ROWS = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
VALUES: dict[str, np.ndarray] = {
    "BOOL": np.array([[True, False]]),
    **{
        name: np.array([[np.iinfo(dtype).min, np.iinfo(dtype).max]], dtype)
        for name, dtype in (
            *(("UINT8", np.uint8), ("UINT16", np.uint16), ("UINT32", np.uint32), ("UINT64", np.uint64)),
            *(("INT8", np.int8), ("INT16", np.int16), ("INT32", np.int32), ("INT64", np.int64)),
        )
    },
    "FP16": np.array([[1.5, -65504]], np.float16),
    "FP32": np.array([[1e-38, 3.25]], np.float32),
    "FP64": np.array([[1e-300, 1 / 3]], np.float64),
    "BF16": np.array([[1.5, -3e38]], ml_dtypes.bfloat16),
}
STEPS = 4000  # of the slow model: seconds, where its deployment allows one
TEXTS = np.array([["", "Grüße"], ["日本", "a\nb"]], dtype=object)

pytestmark = pytest.mark.parametrize("kind", ["http", "http.aio", "grpc", "grpc.aio"])


class Client:
    """One of the four clients behind the same few words: what is a coroutine is awaited, replies are plain dicts."""

    def __init__(self, kind: str, gateway: Gateway) -> None:
        self.is_grpc = kind.startswith("grpc")
        self.triton: Any = triton_grpc if self.is_grpc else triton_http
        clients: dict[str, Any] = {
            "http": triton_http.InferenceServerClient,
            "http.aio": triton_http_aio.InferenceServerClient,
            "grpc": triton_grpc.InferenceServerClient,
            "grpc.aio": triton_grpc_aio.InferenceServerClient,
        }
        self.client = clients[kind](gateway.grpc if self.is_grpc else gateway.scoring)

    async def call(self, method: str, *arguments: Any, **more: Any) -> Any:
        result = getattr(self.client, method)(*arguments, **more)
        return await result if isinstance(result, Awaitable) else result

    async def document(self, method: str, *arguments: Any) -> Any:
        return await self.call(method, *arguments, **({"as_json": True} if self.is_grpc else {}))

    def tensor(self, name: str, datatype: str, value: np.ndarray, **how: Any) -> Any:
        tensor = self.triton.InferInput(name, list(value.shape), datatype)
        tensor.set_data_from_numpy(value, **how)
        return tensor

    async def refusal(self, method: str, *arguments: Any, **more: Any) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as refused:
            await self.call(method, *arguments, **more)
        return str(refused.value.status()), str(refused.value.message())


@pytest.fixture
async def client(kind: str, shared: Gateway) -> AsyncIterator[Client]:
    client = Client(kind, shared)
    yield client
    await client.call("close")


async def test_the_server_is_live_ready_and_says_what_it_is(client: Client) -> None:
    assert await client.call("is_server_live")
    assert await client.call("is_server_ready")
    about = await client.document("get_server_metadata")
    assert about["name"] == "crossfade"
    assert "binary_tensor_data" in about["extensions"]


async def test_a_model_tells_its_signature_configuration_statistics_and_place_in_the_index(client: Client) -> None:
    assert await client.call("is_model_ready", "mlp")
    assert await client.call("is_model_ready", "mlp", "green")
    if client.is_grpc:
        assert (await client.refusal("is_model_ready", "nobody"))[0] == "StatusCode.NOT_FOUND"
    else:
        assert not await client.call("is_model_ready", "nobody")
    about = await client.document("get_model_metadata", "mlp")
    assert [tensor["name"] for tensor in about["inputs"]] == ["x"]
    assert [int(axis) for axis in about["outputs"][0]["shape"]] == [-1, 10]
    config = await client.document("get_model_config", "mlp")
    assert (config["config"] if client.is_grpc else config)["max_batch_size"] == 64
    statistics = await client.document("get_inference_statistics", "mlp")
    assert statistics["model_stats"][0]["name"] == "mlp"
    index = await client.document("get_model_repository_index")
    models = index["models"] if client.is_grpc else index
    assert {(model["name"], model["version"]) for model in models} >= {("mlp", "blue"), ("mlp", "green")}
    assert {model["state"] for model in models} == {"READY"}


async def test_answers_are_the_models_own_and_carry_the_requests_id(client: Client, payload: Payload) -> None:
    row = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    result = await client.call("infer", "mlp", [client.tensor("x", "FP32", row)], request_id="7")
    np.testing.assert_allclose(result.as_numpy("y").ravel(), payload.expected, rtol=1e-4, atol=1e-5)
    reply = result.get_response()
    assert (reply.id if client.is_grpc else reply["id"]) == "7"


async def test_json_binary_and_mixed_bodies_get_the_same_answer(client: Client) -> None:
    expected = (await client.call("infer", "mlp", [client.tensor("x", "FP32", ROWS)])).as_numpy("y")
    ways: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, {})]
    if not client.is_grpc:
        ways = [({"binary_data": sent}, {"binary_data": got}) for sent in (True, False) for got in (True, False)]
    for sent, got in ways:
        result = await client.call(
            "infer",
            "mlp",
            [client.tensor("x", "FP32", ROWS, **sent)],
            outputs=[client.triton.InferRequestedOutput("y", **got)],
        )
        np.testing.assert_allclose(result.as_numpy("y"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
async def test_compressed_requests_and_replies_are_understood(client: Client, algorithm: str) -> None:
    plain = (await client.call("infer", "mlp", [client.tensor("x", "FP32", ROWS)])).as_numpy("y")
    how: dict[str, Any] = {"compression_algorithm": algorithm}
    if not client.is_grpc:
        how = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    packed = (await client.call("infer", "mlp", [client.tensor("x", "FP32", ROWS)], **how)).as_numpy("y")
    np.testing.assert_allclose(packed, plain, rtol=1e-5, atol=1e-6)


async def test_every_datatype_travels_unchanged(client: Client) -> None:
    tensors = [client.tensor(name, name, value) for name, value in VALUES.items()]
    result = await client.call("infer", "echo", tensors)
    for name, value in VALUES.items():
        np.testing.assert_array_equal(result.as_numpy(f"{name}_out"), value, strict=True)


async def test_only_the_outputs_that_are_asked_for_come_back(client: Client) -> None:
    tensors = [client.tensor(name, name, value) for name, value in VALUES.items()]
    wanted = [client.triton.InferRequestedOutput(name) for name in ("INT8_out", "FP16_out")]
    reply = (await client.call("infer", "echo", tensors, outputs=wanted)).get_response(
        **({"as_json": True} if client.is_grpc else {})
    )
    assert [output["name"] for output in reply["outputs"]] == ["INT8_out", "FP16_out"]


async def test_texts_come_back_as_the_bytes_that_were_sent(client: Client) -> None:
    result = await client.call("infer", "strings", [client.tensor("text", "BYTES", TEXTS)])
    assert [item.decode() for item in result.as_numpy("text_out").ravel()] == TEXTS.ravel().tolist()


async def test_errors_carry_the_right_code_and_reason(client: Client) -> None:
    not_found, invalid = ("StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT") if client.is_grpc else ("404", "400")
    status, reason = await client.refusal("infer", "nobody", [client.tensor("x", "FP32", ROWS)])
    assert status == not_found
    assert "nobody" in reason
    status, reason = await client.refusal("infer", "mlp", [client.tensor("x", "FP32", ROWS[:, :7])])
    assert status == invalid
    assert "[-1, 64]" in reason
    status, reason = await client.refusal("infer", "mlp", [client.tensor("x", "FP64", ROWS.astype(np.float64))])
    assert status == invalid
    assert "FP32" in reason


async def test_shared_memory_is_refused_in_words(client: Client) -> None:
    status, reason = await client.refusal("register_system_shared_memory", "region", "/region", 64)
    assert status == ("StatusCode.UNIMPLEMENTED" if client.is_grpc else "404")
    assert "shared memory is not offered" in reason
    tensor = client.triton.InferInput("x", [1, 64], "FP32")
    tensor.set_shared_memory("region", 256)
    status, reason = await client.refusal("infer", "mlp", [tensor])
    assert "shared memory" in reason


async def test_a_deadline_ends_the_call_the_clients_own_or_the_deployments(client: Client) -> None:
    tensor = client.tensor("steps", "INT64", np.array([STEPS], np.int64))
    if client.is_grpc:
        status, _ = await client.refusal("infer", "slow", [tensor], client_timeout=0.3)
        assert status == "StatusCode.DEADLINE_EXCEEDED"
    else:
        status, reason = await client.refusal("infer", "slow", [tensor])
        assert (status, reason) == ("504", "the deadline passed before the model answered")
