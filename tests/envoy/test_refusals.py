"""What Envoy answers by itself, and what it keeps away from replicas."""

import asyncio
import time
from collections.abc import AsyncIterator
from urllib.parse import unquote_to_bytes

import grpc
import httpx
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.routing import UnixAddress, Upstream
from serving.exchange import HttpRequest, HttpResponse
from serving.grpc_framing import parsed_timeout_s
from serving.metrics import PATH as METRICS_PATH
from serving.samples_api import PATH as SAMPLES_PATH
from tests.envoy.data_plane import DataPlane, upstream
from tests.envoy.replica import MAX_BODY_BYTES, TOKEN
from tests.envoy.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOT_READY = "the model is not ready: no replica can answer now"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(plane: DataPlane) -> AsyncIterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def call(model: str, num_bytes: int = 16) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="UINT8", shape=[num_bytes])
    request.raw_input_contents.append(np.zeros(num_bytes, np.uint8).tobytes())
    return request


async def grpc_error(awaitable: grpc.aio.UnaryUnaryCall) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await awaitable
    return raised.value.code(), raised.value.details()


def error_of(reply: httpx.Response) -> tuple[int, str]:
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json()) == ["error"]
    return reply.status_code, reply.json()["error"]


def never(_: HttpRequest) -> HttpResponse | None:
    return None


async def test_a_deployment_without_replicas_is_not_ready(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    await plane.endpoint("loading", upstream("blue"))

    reply = await plane.infer("loading")

    assert error_of(reply) == (503, NOT_READY)
    assert reply.headers["x-crossfade-deployment"] == "blue"
    assert await grpc_error(stub.ModelInfer(call("loading"))) == (grpc.StatusCode.UNAVAILABLE, NOT_READY)


async def test_a_deployment_whose_replicas_are_gone_is_not_ready(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    gone = Upstream("blue", "1", (UnixAddress(str(plane.folder / "nobody")),), 5000, 100, MAX_BODY_BYTES)
    await plane.endpoint("gone", gone)

    assert error_of(await plane.infer("gone")) == (503, NOT_READY)
    assert await grpc_error(stub.ModelInfer(call("gone"))) == (grpc.StatusCode.UNAVAILABLE, NOT_READY)


async def test_a_late_answer_is_a_timeout_and_the_work_is_cancelled(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    slow = await plane.replica("blue")
    slow.answer = never
    await plane.endpoint("slow", upstream("blue", slow, timeout_ms=200))
    message = "the deadline passed before the model answered"

    assert error_of(await plane.infer("slow")) == (504, message)
    assert await grpc_error(stub.ModelInfer(call("slow"))) == (grpc.StatusCode.DEADLINE_EXCEEDED, message)
    await eventually(lambda: slow.cancelled, 2)
    assert slow.requests[0].headers[b"x-envoy-expected-rq-timeout-ms"] == b"200"


async def test_a_shorter_grpc_deadline_counts_and_reaches_the_replica(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    slow = await plane.replica("blue")
    slow.answer = never
    await plane.endpoint("hasty", upstream("blue", slow, timeout_ms=60_000))

    code, _ = await grpc_error(stub.ModelInfer(call("hasty"), timeout=2))

    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0 < int(slow.requests[0].headers[b"x-envoy-expected-rq-timeout-ms"]) < 3000
    assert 0 < parsed_timeout_s(slow.requests[0].headers[b"grpc-timeout"]) < 3
    await eventually(lambda: slow.cancelled, 1)


async def test_a_longer_grpc_deadline_does_not_outlast_the_deployments_timeout(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    slow = await plane.replica("blue")
    slow.answer = never
    await plane.endpoint("patient", upstream("blue", slow, timeout_ms=200))

    begun = time.monotonic()
    code, _ = await grpc_error(stub.ModelInfer(call("patient"), timeout=60))

    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begun < 30


async def test_a_client_that_hangs_up_cancels_the_work(plane: DataPlane) -> None:
    slow = await plane.replica("blue")
    slow.answer = never
    await plane.endpoint("abandoned", upstream("blue", slow))

    waiting = asyncio.create_task(plane.infer("abandoned"))
    await eventually(lambda: len(slow.requests), 1)
    waiting.cancel()

    await eventually(lambda: slow.cancelled, 1)


async def test_more_requests_than_the_limit_are_refused_as_overload(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    slow = await plane.replica("blue")
    slow.answer = never
    await plane.endpoint("crowded", upstream("blue", slow, max_requests=1))
    waiting = asyncio.create_task(plane.infer("crowded"))
    await eventually(lambda: len(slow.requests), 1)

    message = "overloaded: too many requests are under way, try again later"
    reply = await plane.infer("crowded")

    assert error_of(reply) == (429, message)
    assert await grpc_error(stub.ModelInfer(call("crowded"))) == (grpc.StatusCode.RESOURCE_EXHAUSTED, message)
    waiting.cancel()


async def test_a_body_over_the_limit_never_reaches_the_replica(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("bounded", upstream("blue", blue, max_request_bytes=10_000))

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 1000

    announced = await plane.infer("bounded", body=b"x" * 10_001)
    chunked = await plane.http.post("/v2/models/bounded/infer", content=chunks())
    code, message = await grpc_error(stub.ModelInfer(call("bounded", 10_001)))

    assert error_of(announced)[0] == 413
    assert "10000 bytes" in error_of(announced)[1]
    assert error_of(chunked)[0] == 413
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "10000 bytes" in message
    assert not blue.requests
    assert (await plane.infer("bounded", body=b"x" * 10_000)).status_code == 200


async def test_a_big_body_passes_whole_over_http_and_grpc(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    blue = await plane.replica("blue")
    size = 20 * MAX_BODY_BYTES
    await plane.endpoint("big", upstream("blue", blue, max_request_bytes=2 * size))

    assert (await plane.infer("big", body=b"x" * size)).status_code == 200
    assert (await stub.ModelInfer(call("big", size))).model_name == "blue"
    assert [len(request.body) >= size for request in blue.requests] == [True, True]


async def test_unknown_grpc_methods_are_unimplemented_at_once(plane: DataPlane) -> None:
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        unknown = channel.unary_unary("/other.Service/Call")
        assert (await grpc_error(unknown(b"")))[0] is grpc.StatusCode.UNIMPLEMENTED


async def test_a_grpc_body_that_is_no_message_is_the_callers_mistake(plane: DataPlane) -> None:
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for garbage in (b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05fr"):
            code, _ = await grpc_error(infer(garbage))
            assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), garbage


async def test_a_compressed_grpc_message_is_for_the_replica_and_finds_it(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("zipped", upstream("blue", blue))

    reply = await stub.ModelInfer(call("zipped", 10_000), compression=grpc.Compression.Gzip)

    assert reply.model_name == "blue"
    (request,) = blue.requests
    assert (request.headers[b"grpc-encoding"], request.body[0]) == (b"gzip", 1)
    unknown = stub.ModelInfer(call("nobodys", 10_000), compression=grpc.Compression.Gzip)
    assert await grpc_error(unknown) == (grpc.StatusCode.NOT_FOUND, "unknown model 'nobodys'")


@pytest.mark.parametrize("name", ["guarded", "a.b-c_" + "d" * 57])  # the longest that there may be
async def test_the_internal_grpc_tree_cannot_be_called_by_hand(plane: DataPlane, name: str) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint(name, upstream("blue", blue))
    forged = {"x-crossfade-model": name, "x-crossfade-original-path": "/x", "content-type": "application/json"}

    for path in (f"/v2/models/{name}/ModelInfer", f"/v2/models/{name}/versions/1/ModelInfer?x", "/-/server/-/v2"):
        for headers in ({}, forged):
            assert error_of(await plane.http.post(path, headers=headers))[0] == 404
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        by_hand = channel.unary_unary(f"/v2/models/{name}/ModelInfer")
        code, _ = await grpc_error(by_hand(b"", metadata=(("x-crossfade-model", name),)))
        assert code is grpc.StatusCode.UNIMPLEMENTED

    assert not blue.requests
    assert (await plane.infer(name)).status_code == 200


async def status_of(plane: DataPlane, target: str) -> int:
    """Send a request target as it is, which client libraries would tidy up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.gateway.http_port)
    writer.write(f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1])


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/v2/models/tidy%2Finfer", 400),
        ("/v2/models/tidy%5cinfer", 400),
        ("/v2/models/tidy/versions/..%2f..%2fx", 400),
        ("//v2///models//tidy//infer", 200),
        ("/v2/models/other/../tidy/infer", 200),
        ("/v2/models/tidy/../../../../etc/passwd", 404),
        ("/v2/models/%2e%2e/models/tidy/infer", 200),
        ("/v2/models/tidy/%00", 400),
        ("/V2/models/tidy/infer", 404),
        ("/v2/models/tidyx/infer", 404),
        ("/x/models/tidy/infer", 404),
        ("/", 404),
        ("/endpoints/tidy/score/x", 404),
        ("/endpoints/a/b/score", 404),
    ],
)
async def test_a_path_has_one_spelling(plane: DataPlane, target: str, status: int) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("tidy", upstream("blue", blue))

    assert await status_of(plane, target) == status
    assert all(request.path == b"/v2/models/tidy/infer" for request in blue.requests)


@pytest.mark.parametrize("inner", [SAMPLES_PATH, METRICS_PATH.decode()])
async def test_what_replicas_tell_the_control_plane_no_client_can_ask_for(
    plane: DataPlane, stub: service_pb2_grpc.GRPCInferenceServiceStub, inner: str
) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("private", upstream("blue", blue))
    targets = [
        inner,
        f"/{inner}",
        f"http://x{inner}",
        f"/v2/models/private/../../..{inner}",
        f"/v2/models/private/%2e%2e/%2e%2e/%2e%2e{inner}",
        f"/v2/models/private/..;/..;/..;{inner}",
        f"/v2/models/private/..%2f..%2f..%2f{inner}",
        f"/v2/models/private{inner}",
        f"/endpoints/..{inner}/score",
        f"/v2{inner}",
    ]

    statuses = [await status_of(plane, target) for target in targets]
    for name in (f"private/../../..{inner}", f"..{inner}", inner):
        await grpc_error(stub.ModelInfer(call(name)))
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        await grpc_error(channel.unary_unary(inner)(b""))

    assert statuses[0] == 404
    # What a replica makes of a path before it looks it up (serving/protocol.py).
    asked = [unquote_to_bytes(request.path) for request in (*blue.requests, *plane.server.requests)]
    assert inner.encode() not in asked
    assert all(path.startswith(b"/v2/") for path in asked)


async def test_clients_cannot_speak_as_the_gateway(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("sanitised", upstream("blue", blue))

    reply = await plane.infer(
        "sanitised",
        headers={
            "x-crossfade-gateway": "guess",
            "x-crossfade-model": "forged",
            "x-crossfade-original-path": "/forged",
            "x-envoy-upstream-rq-timeout-ms": "1",
            "x-envoy-expected-rq-timeout-ms": "1",
            "x-envoy-max-retries": "99",
            "x-envoy-retry-on": "5xx",
            "x-envoy-original-path": "/forged",
        },
    )

    assert reply.status_code == 200
    seen = blue.requests[0].headers
    assert seen[b"x-crossfade-gateway"] == TOKEN.encode()
    assert seen[b"x-envoy-expected-rq-timeout-ms"] == b"5000"
    forged = {
        b"x-crossfade-model",
        b"x-crossfade-original-path",
        b"x-envoy-upstream-rq-timeout-ms",
        b"x-envoy-max-retries",
        b"x-envoy-retry-on",
        b"x-envoy-original-path",
    }
    assert not forged & seen.keys()
    assert "x-crossfade-gateway" not in reply.headers


async def test_a_request_id_is_accepted_or_made_and_returned(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("traced", upstream("blue", blue))

    given = await plane.infer("traced", headers={"x-request-id": "order-66"})
    made = await plane.infer("traced")
    refused = await plane.infer("untraced", headers={"x-request-id": "order-67"})

    assert given.headers["x-request-id"] == "order-66"
    assert refused.headers["x-request-id"] == "order-67"
    assert len(made.headers["x-request-id"]) == 36
    assert [request.headers[b"x-request-id"].decode() for request in blue.requests] == [
        "order-66",
        made.headers["x-request-id"],
    ]


async def test_the_access_log_says_what_happened_and_keeps_no_secret(plane: DataPlane) -> None:
    await plane.endpoint("logged", upstream("blue", await plane.replica("blue")))

    await plane.http.post(
        "/endpoints/logged/score",
        params={"token": "s3cret"},
        headers={"authorization": "Bearer s3cret", "x-request-id": "find-me"},
        content=b'{"password": "s3cret"}',
    )

    await eventually(lambda: any(line["request_id"] == "find-me" for line in plane.access_log()))
    line = next(line for line in plane.access_log() if line["request_id"] == "find-me")
    assert line["original_path"] == "/endpoints/logged/score"
    assert line["path"] == "/v2/models/logged/infer"
    assert (line["status"], line["deployment"], line["cluster"]) == (200, "blue", "logged/blue")
    assert "s3cret" not in str(plane.access_log())
