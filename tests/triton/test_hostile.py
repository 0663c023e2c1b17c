"""Requests that crash or mislead Triton: refused before it sees them, while others notice nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2_grpc

from tests.envoy.data_plane import DataPlane
from tests.envoy.waiting import DEADLINE_S
from tests.triton.asking import NO_LIMIT, answering, grpc_request, json_request, triton_upstream, under_load
from tests.triton.server import Triton

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMES = 100
PAIR = {"INPUT0": np.array([[1, 2]], dtype=np.int32), "INPUT1": np.array([[3, 4]], dtype=np.int32)}
OVERFLOWING = [2, 2, 2, 2, 2**60 + 2]  # times 4 bytes, in 64 bits: 128
NO_ALLOCATION = [2**62]


def with_shape(shape: list[int]) -> bytes:
    request = json_request(PAIR)
    request["inputs"][0]["shape"] = shape
    return json.dumps(request).encode()


def hidden_shape() -> bytes:
    """Its key is written with an escape, which means the same."""
    return with_shape(NO_ALLOCATION).replace(b'"shape"', b'"sh\\u0061pe"')


def second_shape() -> bytes:
    return with_shape([1, 2]).replace(b'"shape": [1, 2]', b'"shape": [1, 2], "shape": [4611686018427387904]', 1)


def nested(opening: bytes, closing: bytes, depth: int = 250_000) -> bytes:
    return opening * depth + b"1" + closing * depth


SHARED_MEMORY = {"shared_memory_region": "theirs", "shared_memory_byte_size": 8}

HTTP = {
    "nested-lists": nested(b"[", b"]"),
    "nested-maps": nested(b'{"a":', b"}"),
    "nested-data": json.dumps(json_request(PAIR)).encode().replace(b"[1, 2]}", nested(b"[", b"]") + b"}", 1),
    "nested-without-end": b'{"parameters":' + b"[" * 250_000,
    "nested-behind-a-string": b'{"id":"]]]]\\"]]","parameters":' + nested(b"[", b"]") + b"}",
    "overflowing-shape": with_shape(OVERFLOWING),
    "unallocatable-shape": with_shape(NO_ALLOCATION),
    "large-shape": with_shape([100_000_000]),
    "negative-shape": with_shape([-1]),
    "hidden-shape": hidden_shape(),
    "second-shape": second_shape(),
    "outputs-twice": json.dumps(json_request(PAIR, outputs=[{"name": "OUTPUT0"}] * 2)).encode(),
    "long-name": json.dumps(json_request({"A" * 300_000: PAIR["INPUT0"]})).encode(),
    "empty-and-overflowing-shape": with_shape([0, *[2**31 - 1] * 4]),
    "overflowing-and-empty-shape": with_shape([*[2**31 - 1] * 4, 0]),
    "shared-memory": json.dumps(
        json_request(PAIR, outputs=[{"name": "OUTPUT0", "parameters": SHARED_MEMORY}])
    ).encode(),
    "no-json": b"\xff" * 1000,
    "two-documents": json.dumps(json_request(PAIR)).encode() * 2,
    "nothing": b"",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint(plane: DataPlane, server: Triton) -> str:
    await plane.endpoint("victim", triton_upstream("blue", server, model="add_sub", max_request_bytes=8 * 1024 * 1024))
    await answering(plane, "victim", "blue")
    return "victim"


@pytest.mark.parametrize("what", HTTP)
async def test_over_http_it_is_answered_4xx_and_others_are_undisturbed(
    plane: DataPlane, server: Triton, endpoint: str, what: str
) -> None:
    async with under_load(plane, endpoint, PAIR, clients=2) as load:
        for _ in range(TIMES):
            reply = await plane.infer(endpoint, body=HTTP[what])
            assert 400 <= reply.status_code < 500, reply.text
            assert reply.json()["error"]
        await load.more(20)
    assert server.is_alive


async def test_a_length_of_json_beyond_the_body_is_refused(plane: DataPlane, endpoint: str) -> None:
    for length in ("-1", "99999999999999999999", "1000", "x", "3, 4"):
        reply = await plane.infer(endpoint, {"inference-header-content-length": length}, with_shape([1, 2]))
        assert reply.status_code == 400, length


@pytest.mark.parametrize("count", [10_000, 1_000_000])
async def test_a_body_in_chunks_of_one_byte_arrives_in_one_piece(
    plane: DataPlane, server: Triton, endpoint: str, count: int
) -> None:
    body = json.dumps(json_request(PAIR)).encode()
    body += b" " * (count - len(body))
    head = f"POST /v2/models/{endpoint}/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    async with under_load(plane, endpoint, PAIR, clients=2) as load:
        for _ in range(TIMES):  # Envoy takes 25 ms for a million
            reader, writer = await asyncio.open_connection("127.0.0.1", plane.gateway.http_port)
            writer.write(head.encode() + chunks)
            async with asyncio.timeout(DEADLINE_S):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
            await writer.wait_closed()
        await load.more(20)
    assert server.is_alive


def shaped(shape: list[int]) -> Any:
    request = grpc_request("victim", PAIR)
    request.inputs[0].shape[:] = shape
    return request


def asked_twice() -> Any:
    request = grpc_request("victim", PAIR)
    for _ in range(2):
        request.outputs.add(name="OUTPUT0")
    return request


def long_named() -> Any:
    request = grpc_request("victim", PAIR)
    request.inputs[0].name = "A" * 100_000
    return request


def long_id() -> Any:
    request = grpc_request("victim", PAIR)
    request.id = "A" * 100_000
    return request


def from_shared_memory() -> Any:
    request = grpc_request("victim", PAIR)
    request.inputs[0].parameters["shared_memory_region"].string_param = "theirs"
    return request


GRPC = {
    "overflowing-shape": shaped(OVERFLOWING),
    "unallocatable-shape": shaped(NO_ALLOCATION),
    "negative-shape": shaped([-1]),
    "empty-and-overflowing-shape": shaped([0, *[2**31 - 1] * 4]),
    "many-dimensions": shaped([1] * 100_000),
    "outputs-twice": asked_twice(),
    "long-name": long_named(),
    "long-id": long_id(),
    "shared-memory": from_shared_memory(),
}


@pytest.mark.parametrize("what", GRPC)
async def test_over_grpc_it_is_an_invalid_argument_and_others_are_undisturbed(
    plane: DataPlane, server: Triton, endpoint: str, what: str
) -> None:
    async with (
        grpc.aio.insecure_channel(plane.grpc_address, options=NO_LIMIT) as channel,
        under_load(plane, endpoint, PAIR, clients=2) as load,
    ):
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        for _ in range(TIMES):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await infer(GRPC[what], timeout=DEADLINE_S)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, refused.value.details()
        await load.more(20)
    assert server.is_alive


@pytest.mark.parametrize("tag", [b"\x0a", b"\x8a\x00", b"\x8a\x80\x00"], ids=["plain", "long", "longer"])
async def test_a_second_name_in_the_message_reaches_no_other_model(plane: DataPlane, endpoint: str, tag: bytes) -> None:
    """Of a field that comes twice, the last one counts."""
    smuggled = grpc_request(endpoint, PAIR).SerializeToString() + tag + b"\x0cadd_sub_int8"

    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", response_deserializer=bytes)
        call = infer(smuggled, timeout=DEADLINE_S)
        code = await call.code()
        reply = await call if code is grpc.StatusCode.OK else b""

    # Whichever of both names Envoy reads: it is the endpoint, or nobody.
    assert (code, endpoint.encode() in reply) in ((grpc.StatusCode.OK, True), (grpc.StatusCode.NOT_FOUND, False))


async def test_a_tag_that_some_readers_cut_off_is_refused(plane: DataPlane, endpoint: str) -> None:
    """2^32 + 10: in 32 bits, field 1."""
    tag = b"\x8a\x80\x80\x80\x10"
    smuggled = grpc_request(endpoint, PAIR).SerializeToString() + tag + b"\x0cadd_sub_int8"

    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await infer(smuggled, timeout=DEADLINE_S)

    assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize(
    "call",
    [
        "/v2/models/victim/generate",
        "/v2/models/victim/generate_stream",
        "/v2/models/victim/trace/setting",
        "/v2/models/victim/versions/v1/trace/setting",
        "/v2/models/victim/unload",
        "/v2/models/victim/infer/",
    ],
)
async def test_what_neither_scores_nor_describes_is_closed(plane: DataPlane, endpoint: str, call: str) -> None:
    for reply in (await plane.http.post(call, json={}), await plane.http.get(call)):
        assert reply.status_code == 404
        assert reply.json()["error"]


@pytest.mark.parametrize(
    "call",
    [
        "/v2/repository/index",
        "/v2/repository/models/add_sub/load",
        "/v2/systemsharedmemory/status",
        "/v2/cudasharedmemory/region/r/register",
        "/v2/trace/setting",
        "/v2/logging",
    ],
)
async def test_calls_about_the_server_are_answered_by_the_control_plane(
    plane: DataPlane, endpoint: str, call: str
) -> None:
    asked = len(plane.server.requests)

    await plane.http.post(call, json={})

    assert [request.path.decode() for request in plane.server.requests[asked:]] == [call]


async def test_no_header_that_triton_or_the_gateway_obeys_is_taken_from_a_client(
    plane: DataPlane, endpoint: str
) -> None:
    headers = {
        "x-crossfade-routed-path": "/v2/models/victim/versions/v1/infer",
        "x-crossfade-upstream": "=add_sub_int8||v1",
        "triton-grpc-protocol-infer": "x",
    }

    reply = await plane.infer(endpoint, headers, with_shape([1, 2]))

    assert reply.status_code == 200
    assert reply.json()["model_name"] == endpoint
