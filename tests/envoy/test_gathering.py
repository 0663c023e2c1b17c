"""What Envoy gathers of a request before somebody answers it, and what an answer tells of limits."""

import struct
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.envoy.data_plane import DataPlane, data_plane, upstream
from tests.envoy.replica import MAX_BODY_BYTES
from tests.envoy.waiting import eventually
from tests.envoy.wire import Wire, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

_MUCH = 512 * 1024 * 1024
LARGER = 16 * MAX_BODY_BYTES
OVER_ALL = "the request body is larger than any endpoint accepts"


def announcing(target: str, num_bytes: int, *headers: tuple[str, str]) -> bytes:
    """A request whose body does not come."""
    return request("POST", target, [*headers, ("content-length", str(num_bytes))], b"")


@pytest.mark.parametrize(
    "target",
    ["/v2/models/nobody/infer", "/v2/models/nobody/versions/1/infer", "/v2/models/nobody", "/nowhere", "/v3/a/b", "/"],
)
async def test_for_a_name_or_path_that_nobody_has_no_body_is_waited_for(plane: DataPlane, target: str) -> None:
    wire = Wire(plane.gateway.http_port)
    answer = await wire.ask(announcing(target, _MUCH))
    await wire.close()

    assert (answer.status, b"unknown model or path" in answer.body) == (404, True)


async def test_a_body_for_a_model_is_gathered_as_far_as_its_limit(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("limited", upstream("blue", blue))

    largest = await plane.infer("limited", body=b" " * MAX_BODY_BYTES)
    wire = Wire(plane.gateway.http_port)
    over = await wire.ask(announcing("/v2/models/limited/infer", MAX_BODY_BYTES + 1))
    await wire.close()

    assert (largest.status_code, over.status) == (200, 413)
    assert len(blue.requests) == 1


async def test_a_call_about_the_server_may_not_be_long(plane: DataPlane) -> None:
    reply = await plane.http.post("/v2/repository/index", content=b" " * (2 * MAX_BODY_BYTES))

    assert reply.status_code == 413
    assert [seen.path for seen in plane.server.requests if seen.path.endswith(b"/repository/index")] == []


@pytest.mark.parametrize("path", ["/x/models/{}/infer", "/v3/models/{}", "/a/models/{}/b/c"])
async def test_a_path_of_no_meaning_tells_nothing_of_a_limit(plane: DataPlane, path: str) -> None:
    await plane.endpoint("measured", upstream("blue", await plane.replica("blue")))
    wire = Wire(plane.gateway.http_port)
    answers = []
    for name in ("measured", "nobodys1"):
        answers.append(await wire.ask(announcing(path.format(name), MAX_BODY_BYTES + 1)))
        await wire.close()

    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].body.replace(b"measured", b"nobodys1") == answers[1].body


def begun(target: str, content_type: str, num_bytes: int) -> bytes:
    """A request of which so many bytes have come, and whose end has not."""
    sent = struct.pack(">BI", 0, _MUCH) + bytes(num_bytes - 5)
    head = [("content-type", content_type), ("te", "trailers"), ("transfer-encoding", "chunked")]
    return request("POST", target, head, b"") + b"%x\r\n%s\r\n" % (len(sent), sent)


async def answer_to(stub: service_pb2_grpc.GRPCInferenceServiceStub, model: str, num_bytes: int) -> tuple[object, str]:
    """To a call with so large a tensor: the status, and what is said of it."""
    call = stub.ModelInfer(service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[bytes(num_bytes)]))
    return await call.code(), await call.details()


def peak_mib(pid: int) -> int:
    """The most memory that the process had resident so far."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024


async def test_before_its_name_is_known_a_call_is_gathered_as_far_as_any_endpoint_accepts(plane: DataPlane) -> None:
    await plane.endpoint("accepting", upstream("blue", await plane.replica("blue")))
    wire = Wire(plane.gateway.http_port)
    call = await wire.ask(begun("/inference.GRPCInferenceService/ModelInfer", "application/grpc", MAX_BODY_BYTES + 1))
    await wire.close()
    score = await wire.ask(begun("/endpoints/accepting/score", "application/json", MAX_BODY_BYTES + 1))
    await wire.close()

    assert (call.headers["grpc-status"], call.headers["grpc-message"]) == ("8", OVER_ALL)
    assert (score.status, OVER_ALL.encode() in score.body) == (413, True)


async def test_a_very_large_call_for_nobody_is_refused_and_takes_no_memory() -> None:
    async with data_plane() as plane, grpc.aio.insecure_channel(plane.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await plane.endpoint("small", upstream("blue", await plane.replica("blue")))
        assert (await answer_to(stub, "small", 1000))[0] is grpc.StatusCode.OK
        before = peak_mib(plane.envoy.pid)

        refused = await answer_to(stub, "nobody", 200 * 1000 * 1000)

        assert refused == (grpc.StatusCode.RESOURCE_EXHAUSTED, OVER_ALL)
        assert peak_mib(plane.envoy.pid) - before < 50


async def test_an_endpoint_has_room_for_what_it_accepts_from_the_moment_it_is_applied_and_no_longer() -> None:
    """Over connections that stay open all the while."""
    async with data_plane(concurrency=2) as plane, grpc.aio.insecure_channel(plane.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        blue = await plane.replica("blue")
        small, large, larger = (
            upstream("blue", blue, max_request_bytes=factor * MAX_BODY_BYTES) for factor in (1, 8, 32)
        )
        over_all = (grpc.StatusCode.RESOURCE_EXHAUSTED, OVER_ALL)
        await plane.endpoint("small", small)
        wire, short = Wire(plane.gateway.http_port), request("POST", "/v2/models/small/infer")
        assert (await wire.ask(short)).status == 200
        assert await answer_to(stub, "small", 4 * MAX_BODY_BYTES) == over_all
        connections = await plane.stat("http.scoring.downstream_cx_total")

        for _ in range(5):
            await plane.endpoint("big", large)
            assert (await answer_to(stub, "big", 4 * MAX_BODY_BYTES))[0] is grpc.StatusCode.OK
            assert "1048576 bytes" in (await answer_to(stub, "small", 4 * MAX_BODY_BYTES))[1]
            await plane.endpoint("big", larger)
            assert (await answer_to(stub, "big", LARGER))[0] is grpc.StatusCode.OK
            await plane.endpoint("big", large)
            await eventually(lambda: answer_to(stub, "big", LARGER), over_all)
            assert (await answer_to(stub, "big", 4 * MAX_BODY_BYTES))[0] is grpc.StatusCode.OK
            plane.xds.remove_endpoint("big")
            await eventually(lambda: answer_to(stub, "big", 4 * MAX_BODY_BYTES), over_all)

        assert (await wire.ask(short)).status == 200
        await wire.close()
        assert await plane.stat("http.scoring.downstream_cx_total") == connections
