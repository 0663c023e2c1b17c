"""Endpoints with keys, in a real Envoy: whoever shows none gets nowhere, by whichever way he tries."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.callers import KeyHolders, KeySlot, fingerprint_of
from router.domain.traffic import Mirror
from router.keys import hashed, new_key
from tests.envoy.data_plane import DataPlane, data_plane, upstream
from tests.envoy.replica import MAX_BODY_BYTES, Replica
from tests.envoy.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY, SECOND_KEY, OTHERS_KEY = new_key(), new_key(), new_key()
ROTATIONS = 100
STUB = service_pb2_grpc.GRPCInferenceServiceStub


def holders(primary: str, secondary: str = "") -> KeyHolders:
    keys = ((KeySlot.PRIMARY, primary), (KeySlot.SECONDARY, secondary))
    return KeyHolders(tuple((slot, hashed(key)) for slot, key in keys if key))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane() -> AsyncIterator[DataPlane]:
    async with data_plane() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(plane: DataPlane) -> Replica:
    """Behind the endpoint `locked`. The endpoint `others` has a key and a replica of its own."""
    blue = await plane.replica("blue")
    await plane.endpoint("locked", upstream("blue", blue), access=holders(KEY, SECOND_KEY))
    await plane.endpoint("others", upstream("blue", await plane.replica("other")), access=holders(OTHERS_KEY))
    return blue


@pytest_asyncio.fixture(loop_scope="module")
async def stub(plane: DataPlane) -> AsyncIterator[STUB]:
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        yield STUB(channel)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": KEY},
        {"x-api-key": SECOND_KEY},
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {SECOND_KEY}"},
        {"x-api-key": KEY, "authorization": "Basic dXNlcjpwYXNz"},
    ],
)
async def test_either_key_in_either_header_is_answered_and_goes_no_further(
    plane: DataPlane, replica: Replica, headers: dict[str, str]
) -> None:
    replica.requests.clear()
    assert (await plane.infer("locked", headers)).status_code == 200
    assert replica.requests[0].headers.keys().isdisjoint({b"x-api-key", b"authorization"})


WRONG = [
    {},
    {"x-api-key": ""},
    {"x-api-key": KEY[:-1]},
    {"x-api-key": KEY + "A"},
    {"x-api-key": KEY.swapcase()},
    {"x-api-key": "A" * 47},
    {"x-api-key": "A" * 8000},
    {"x-api-key": hashed(KEY)},
    {"x-api-key": OTHERS_KEY},
    {"x-api-key": OTHERS_KEY, "authorization": f"Bearer {KEY}"},
    {"authorization": KEY},
    {"authorization": f"Basic {KEY}"},
    {"authorization": f"Bearer {KEY} {KEY}"},
    {"authorization": "Bearer"},
    {"cookie": f"x-api-key={KEY}"},
]


@pytest.mark.parametrize("headers", WRONG)
async def test_no_key_a_wrong_one_and_another_endpoints_are_refused_in_the_protocols_words(
    plane: DataPlane, replica: Replica, headers: dict[str, str]
) -> None:
    replica.requests.clear()
    reply = await plane.infer("locked", headers)

    assert reply.status_code == 401
    assert reply.headers["www-authenticate"].startswith('Bearer realm="crossfade"')
    assert reply.headers["content-type"] == "application/json"
    assert "key" in reply.json()["error"]
    assert not replica.requests


PATHS = [
    "/v2/models/locked/infer",
    "/v2/models/locked",
    "/v2/models/locked/",
    "/v2/models/locked/ready",
    "/v2/models/locked/config",
    "/v2/models/locked/stats",
    "/v2/models/locked/versions/1",
    "/v2/models/locked/versions/1/infer",
    "/v2/models/locked/versions/9/infer",
    "/v2/models/locked/ModelInfer",
    "/v2/models/locked/infer?x-api-key=" + KEY,
    "/v2/models/locked?a=/v2/models/open",
    "/v2/models/locked/infer#fragment",
    "//v2/models/locked/infer",
    "/v2//models///locked//infer",
    "/v2/models/locked//infer",
    "/./v2/models/./locked/infer",
    "/v2/models/open/../locked/infer",
    "/v2/models/locked/../locked/infer",
    "/v2/models/%6c%6f%63%6b%65%64/infer",
    "/v2/models/locked/%69nfer",
    "/%76%32/models/locked/infer",
    "/v2/models/open/%2e%2e/locked/infer",
    "/v2%2fmodels%2flocked%2finfer",
    "/v2/models%2flocked/infer",
    "/v2/models/locked%2finfer",
    "/v2/models/locked%5cinfer",
    "/v2\\models\\locked\\infer",
    "/V2/MODELS/LOCKED/INFER",
    "/v2/models/Locked/infer",
    "/v2/models/locked./infer",
    "/v2/models/locked/infer.",
    "/v2/models/locked/infer/",
    "/v2/models/locked;a=b/infer",
    "/v2/models/locked%00/infer",
    "/v2/models/locked%20/infer",
    "/endpoints/locked/score",
    "/endpoints/locked/score?key=" + KEY,
    "/endpoints//locked/score",
    "/endpoints/locked%2f../score",
    "/endpoints/open/../locked/score",
    "/-/models/locked/infer",
    "/-/server/-/v2/models/locked/infer",
    "/x/models/locked/infer",
    "/v2/repository/models/locked/load",
]
SMUGGLED = [
    {},
    {"x-crossfade-original-path": "/endpoints/locked/score"},
    {"x-crossfade-model": "locked", "x-crossfade-mirrored": "1", "x-crossfade-deployment": "blue"},
    {"x-crossfade-gateway": "the-gateway-token", "x-crossfade-admitted": "locked/primary"},
    {"x-original-url": "/v2/models/locked/infer", "x-rewrite-url": "/v2/models/locked/infer"},
    {"x-envoy-original-path": "/v2/models/open/infer", "x-forwarded-for": "127.0.0.1", "x-envoy-internal": "true"},
    {"x-http-method-override": "OPTIONS", "content-type": "application/grpc"},
    {"connection": "x-api-key, upgrade", "upgrade": "websocket"},
]


@pytest.mark.parametrize("headers", SMUGGLED)
async def test_no_path_method_or_header_gets_past_the_key(
    plane: DataPlane, replica: Replica, headers: dict[str, str]
) -> None:
    """Raw bytes, because clients tidy paths up. What is no endpoint's path may be answered by the control plane."""
    replica.requests.clear()
    for path in PATHS:
        for method in ("POST", "GET", "HEAD", "OPTIONS", "PUT"):
            answer = await asked(plane, method, path, headers)
            if path.startswith("/v2/repository"):
                continue  # a server-level call: the control plane refuses it
            assert is_refused(answer), (method, path, answer)
    assert not replica.requests


async def asked(plane: DataPlane, method: str, path: str, headers: dict[str, str]) -> dict[str, str]:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    content = "" if method in ("GET", "HEAD", "OPTIONS") else "content-length: 2\r\n"
    head = f"{method} {path} HTTP/1.1\r\nhost: a\r\n{content}{fields}\r\n"
    return await raw(plane, head.encode() + (b"{}" if content else b""))


async def raw(plane: DataPlane, sent: bytes) -> dict[str, str]:
    """The headers of the first answer to these bytes, and its status as `:status`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.gateway.http_port)
    writer.write(sent)
    try:
        async with asyncio.timeout(DEADLINE_S):
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return {":status": lines[0].split()[1]} | dict(line.split(": ", 1) for line in lines[1:] if line)


def is_refused(answer: dict[str, str]) -> bool:
    """By HTTP; or, to who speaks gRPC, as an invalid argument, not found, unimplemented or unauthenticated."""
    return answer[":status"] in ("400", "401", "403", "404") or answer.get("grpc-status") in ("3", "5", "12", "16")


@pytest.mark.parametrize(
    "sent",
    [
        # An upgrade to HTTP/2 in clear, by which a second request would ride behind the first.
        b"POST /v2/models/locked/infer HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
        b"http2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\ncontent-length: 2\r\n\r\n{}",
        # Two lengths, a length and chunks, and an obscured transfer encoding: a second request in the body.
        b"POST /v2/models/open/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 60\r\n\r\n{}"
        b"POST /v2/models/locked/infer HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST /v2/models/open/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 60\r\ntransfer-encoding: chunked\r\n\r\n"
        b"0\r\n\r\n"
        b"POST /v2/models/locked/infer HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST /v2/models/open/infer HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        # Two keys; a header name with a space; the absolute form; CONNECT.
        b"POST /v2/models/locked/infer HTTP/1.1\r\nhost: a\r\nx-api-key: a\r\nx-api-key: " + KEY.encode() + b"\r\n\r\n",
        b"POST /v2/models/locked/infer HTTP/1.1\r\nhost: a\r\nx-api-key : " + KEY.encode() + b"\r\n\r\n",
        b"POST http://other/v2/models/locked/infer HTTP/1.1\r\nhost: other\r\ncontent-length: 2\r\n\r\n{}",
        b"CONNECT locked:443 HTTP/1.1\r\nhost: locked:443\r\n\r\n",
    ],
)
async def test_smuggling_and_upgrades_get_nowhere(plane: DataPlane, replica: Replica, sent: bytes) -> None:
    replica.requests.clear()
    answer = await raw(plane, sent)
    assert is_refused(answer) or answer[":status"] == "501", answer
    assert (await plane.infer("locked", {"x-api-key": KEY})).status_code == 200
    assert len(replica.requests) == 1


async def test_every_grpc_call_for_the_endpoint_needs_a_key(plane: DataPlane, replica: Replica, stub: STUB) -> None:
    replica.requests.clear()
    calls = {
        stub.ModelInfer: service_pb2.ModelInferRequest(model_name="locked"),
        stub.ModelReady: service_pb2.ModelReadyRequest(name="locked"),
        stub.ModelMetadata: service_pb2.ModelMetadataRequest(name="locked", version="1"),
        stub.ModelConfig: service_pb2.ModelConfigRequest(name="locked"),
        stub.ModelStatistics: service_pb2.ModelStatisticsRequest(name="locked"),
    }
    for call, message in calls.items():
        for metadata in ((), (("x-api-key", "A" * 47),), (("authorization", f"Bearer {OTHERS_KEY}"),)):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await call(message, metadata=metadata, timeout=DEADLINE_S)
            assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "key" in (refusal.value.details() or "")
    assert not replica.requests

    for metadata in ((("x-api-key", KEY),), (("authorization", f"Bearer {SECOND_KEY}"),)):
        reply = await stub.ModelInfer(
            service_pb2.ModelInferRequest(model_name="locked"), metadata=metadata, timeout=DEADLINE_S
        )
        assert reply.model_name == "blue"
    assert all(request.headers.keys().isdisjoint({b"x-api-key", b"authorization"}) for request in replica.requests)


async def test_a_refused_grpc_call_is_told_in_the_headers_alone(plane: DataPlane, replica: Replica) -> None:
    message = service_pb2.ModelInferRequest(model_name="locked").SerializeToString()
    frame = b"\0" + len(message).to_bytes(4, "big") + message
    reply = await plane.http.post(
        "/inference.GRPCInferenceService/ModelInfer",
        headers={"content-type": "application/grpc", "te": "trailers"},
        content=frame,
    )
    assert (reply.status_code, reply.headers["grpc-status"], reply.content) == (200, "16", b"")


async def test_a_key_of_one_endpoint_does_not_open_another_by_its_alias(plane: DataPlane, replica: Replica) -> None:
    """Names that are words of the paths: the front must not be asked for one endpoint and the back for none."""
    score = await plane.replica("score")
    await plane.endpoint("score", upstream("blue", score), access=holders(OTHERS_KEY))
    models = await plane.replica("models")
    await plane.endpoint("models", upstream("blue", models), access=holders(KEY))

    async def status(key: str) -> int:
        return (await plane.http.post("/endpoints/models/score", headers={"x-api-key": key}, content=b"{}")).status_code

    assert [await status(OTHERS_KEY), await status(KEY)] == [401, 200]
    assert (len(score.requests), len(models.requests)) == (0, 1)


async def test_a_stranger_is_refused_before_his_body_has_come(plane: DataPlane, replica: Replica) -> None:
    head = f"POST /v2/models/locked/infer HTTP/1.1\r\nhost: a\r\ncontent-length: {MAX_BODY_BYTES}\r\n\r\n"
    assert (await raw(plane, head.encode()))[":status"] == "401"


async def test_open_endpoints_need_no_key_and_pass_none_on(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("open", upstream("blue", blue))
    assert (await plane.infer("open", {"x-api-key": KEY, "authorization": "Bearer x"})).status_code == 200
    assert (await plane.http.get("/v2", headers={"authorization": "Bearer x"})).status_code == 200
    for request in (blue.requests[0], plane.server.requests[-1]):
        assert request.headers.keys().isdisjoint({b"x-api-key", b"authorization"})


async def test_a_mirrored_copy_carries_no_key(plane: DataPlane) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    await plane.endpoint(
        "mirrored",
        upstream("blue", blue),
        upstream("green", green),
        traffic={"blue": 100},
        mirror=Mirror("green", 100),
        access=holders(KEY),
    )
    assert (await plane.infer("mirrored", {"x-api-key": KEY})).status_code == 200
    await eventually(lambda: len(green.requests), 1)
    assert green.requests[0].headers.keys().isdisjoint({b"x-api-key", b"authorization"})


async def test_protected_endpoints_do_not_answer_for_the_control_plane(plane: DataPlane) -> None:
    """While it is away, replicas of open endpoints answer server-level calls; those of protected ones never."""
    async with data_plane() as alone:
        locked = await alone.replica("locked")
        await alone.endpoint("locked", upstream("blue", locked), access=holders(KEY))
        await alone.server.kill()
        try:
            reply = await alone.http.post("/v2/repository/index", content=b"")
        finally:
            await alone.server.start()
        assert reply.status_code == 503
        assert not locked.requests


async def test_a_hundred_rotations_under_load_refuse_no_valid_key_and_stop_each_old_one(plane: DataPlane) -> None:
    """As an operator does it: clients use the one key while the other is replaced."""
    blue = await plane.replica("blue")
    keys = [new_key(), new_key()]
    await plane.endpoint("rotating", upstream("blue", blue), access=holders(*keys))
    in_use, answered, failures, is_over = 0, [0, 0], list[str](), asyncio.Event()

    async def over_http() -> None:
        while not is_over.is_set():
            reply = await plane.infer("rotating", {"x-api-key": keys[in_use]})
            answered[0] += 1
            if reply.status_code != 200:
                failures.append(f"HTTP {reply.status_code}")

    async def over_grpc(stub: STUB) -> None:
        while not is_over.is_set():
            metadata = (("authorization", f"Bearer {keys[in_use]}"),)
            try:
                await stub.ModelInfer(
                    service_pb2.ModelInferRequest(model_name="rotating"), metadata=metadata, timeout=DEADLINE_S
                )
            except grpc.aio.AioRpcError as error:
                failures.append(f"gRPC {error.code()}")
            answered[1] += 1

    async with grpc.aio.insecure_channel(plane.grpc_address) as channel, asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(over_http())
        group.create_task(over_grpc(STUB(channel)))
        try:
            for turn in range(ROTATIONS):
                in_use = turn % 2
                # Requests that took the other key have ended when everybody has been answered once more.
                enough = [count + 6 for count in answered]
                await eventually(
                    lambda enough=enough: failures or all(a >= b for a, b in zip(answered, enough, strict=True))
                )
                old = keys[1 - in_use]
                keys[1 - in_use] = new_key()
                await plane.endpoint("rotating", upstream("blue", blue), access=holders(*keys))
                assert (await plane.infer("rotating", {"x-api-key": old})).status_code == 401
                assert (await plane.infer("rotating", {"x-api-key": keys[1 - in_use]})).status_code == 200
        finally:
            is_over.set()
    assert failures == []


async def test_the_last_key_that_goes_lets_nobody_in(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("shut", upstream("blue", blue), access=holders(KEY))
    assert (await plane.infer("shut", {"x-api-key": KEY})).status_code == 200
    await plane.endpoint("shut", upstream("blue", blue), access=KeyHolders())
    assert (await plane.infer("shut", {"x-api-key": KEY})).status_code == 401
    assert len(blue.requests) == 1


async def test_no_key_is_in_the_log_or_in_envoys_configuration(plane: DataPlane, replica: Replica) -> None:
    for headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY + "A"}):
        await plane.infer("locked", headers)
    request_id = (await plane.infer("locked", {"x-api-key": SECOND_KEY})).headers["x-request-id"]

    def entry() -> list[object]:
        return [line["admitted"] for line in plane.access_log() if line["request_id"] == request_id]

    await eventually(entry, [f"locked/secondary/{fingerprint_of(hashed(SECOND_KEY))}"])
    seen = json.dumps(plane.access_log()) + "".join([await plane.admin(page) for page in ("/config_dump", "/stats")])
    assert hashed(KEY) in seen
    query_logged = [path for path in PATHS if KEY in path]
    assert query_logged
    assert KEY not in seen
    assert SECOND_KEY not in seen


async def test_clients_that_are_refused_over_http_2_may_go_on(plane: DataPlane, replica: Replica) -> None:
    """A refusal ends the call, not the connection that other calls share."""
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        stub = STUB(channel)
        message = service_pb2.ModelInferRequest(model_name="locked")
        for _ in range(10):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ModelInfer(message, timeout=DEADLINE_S)
            assert (await stub.ModelInfer(message, metadata=(("x-api-key", KEY),))).model_name == "blue"


async def test_unknown_endpoints_are_unknown_and_no_path_names_the_protected_ones(plane: DataPlane) -> None:
    async with httpx.AsyncClient(base_url=plane.url) as client:
        assert (await client.post("/v2/models/nobody/infer", content=b"{}")).status_code == 404
