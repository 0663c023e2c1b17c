"""Compressed requests to a Triton: looked into as plain ones are, within bounds, while others notice nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.routing import Shield
from router.xds.gateway import SERVICE
from serving.compression import decompress
from serving.exchange import HttpRequest, HttpResponse
from serving.grpc_framing import unframed
from tests.envoy.data_plane import DataPlane, upstream
from tests.envoy.replica import grpc_answer, usual_answer
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.triton.asking import NO_LIMIT, answering, grpc_request, json_request, triton_upstream, under_load
from tests.triton.server import Triton
from tests.triton.test_hostile import GRPC, HTTP, PAIR, TIMES, with_shape

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
LIMIT = 4 * MIB
BOMB_BYTES = 256 * MIB
MOST_GROWTH_BYTES = 64 * MIB  # Envoy's memory holds a message several times; a bomb would have four times as much
STRANGERS = 160
MOST_HELD = 33  # megabytes that their streams may hold together, one each
MOST_GROWTH_OF_HELD_BYTES = 128 * MIB  # Lua's collector lets twice as much gather, and Envoy's own part comes to it
CODINGS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
COMPRESSIONS = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GRPC_HEADERS = {"content-type": "application/grpc", "te": "trailers"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint(plane: DataPlane, server: Triton) -> str:
    await plane.endpoint("victim", triton_upstream("blue", server, model="add_sub", max_request_bytes=LIMIT))
    await answering(plane, "victim", "blue")
    return "victim"


def bomb(coding: str, begin: bytes) -> bytes:
    """What begins so, and grows to much more than anybody takes."""
    stream = zlib.compressobj(9, zlib.DEFLATED, 31 if coding == "gzip" else 15)
    parts = [stream.compress(begin), *(stream.compress(bytes(MIB)) for _ in range(BOMB_BYTES // MIB)), stream.flush()]
    return b"".join(parts)


def frame(message: bytes) -> bytes:
    return b"\1" + len(message).to_bytes(4, "big") + message


def named(endpoint: str) -> bytes:
    """The name, and the beginning of a raw tensor that has as many bytes as the bomb."""
    head = service_pb2.ModelInferRequest(model_name=endpoint).SerializeToString()
    return head + b"\x3a" + b"\x80\x80\x80\x80\x01"


async def called(plane: DataPlane, method: str, coding: str, body: bytes) -> httpx.Response:
    """A gRPC call as it is on the wire, which no client library would make. Envoy takes it over HTTP/1.1 as well."""
    headers = {**GRPC_HEADERS, "grpc-encoding": coding}
    return await plane.http.post(f"/{SERVICE}/{method}", content=body, headers=headers)


def http_chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


@asynccontextmanager
async def held_streams(plane: DataPlane, count: int) -> AsyncIterator[list[Connection]]:
    """Streams that do not go on: of each, a first message has come that grows to a megabyte, and a byte of the next."""
    head = (
        f"POST /{SERVICE}/ModelStreamInfer HTTP/1.1\r\nhost: any\r\ntransfer-encoding: chunked\r\n"
        "content-type: application/grpc\r\nte: trailers\r\ngrpc-encoding: gzip\r\n\r\n"
    ).encode()
    begin = service_pb2.ModelInferRequest(model_name="nobody", raw_input_contents=[bytes(MIB - 100)])
    chunk = http_chunk(frame(gzip.compress(begin.SerializeToString())) + b"\0")
    async with AsyncExitStack() as stack:
        connections = []
        for number in range(count):
            if number % 10 == 9:  # Envoy closes connections that wait too long before it hears of them
                await plane.http.get("/v2/health/live")
            reader, writer = await asyncio.open_connection(plane.http.base_url.host, plane.http.base_url.port)
            stack.callback(writer.close)
            writer.write(head + chunk)
            connections.append((reader, writer))
        yield connections


async def said(reader: asyncio.StreamReader) -> str:
    """The head of a reply."""
    return (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)).decode()


@contextmanager
def flat_memory(plane: DataPlane, most_growth_bytes: int = MOST_GROWTH_BYTES) -> Iterator[None]:
    process = Path(f"/proc/{plane.envoy.pid}")

    def bytes_of(what: str) -> int:
        lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return int(lines[what].split()[0]) * 1024

    (process / "clear_refs").write_text("5")  # the peak counts from here on
    before = bytes_of("VmRSS")
    yield
    assert bytes_of("VmHWM") - before < most_growth_bytes


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_bomb_ends_at_the_limit_while_others_are_undisturbed(
    plane: DataPlane, server: Triton, endpoint: str, coding: str
) -> None:
    over_http, message = bomb(coding, b""), frame(bomb(coding, named(endpoint)))
    async with under_load(plane, endpoint, PAIR, clients=2) as load:
        await load.more(20)
        with flat_memory(plane):
            for _ in range(TIMES):
                reply = await plane.infer(endpoint, {"content-encoding": coding}, over_http)
                assert (reply.status_code, f"larger than the {LIMIT} bytes" in reply.json()["error"]) == (413, True)
                reply = await called(plane, "ModelInfer", coding, message)
                assert reply.headers["grpc-status"] == "8"
                assert f"larger than the {LIMIT} bytes" in reply.headers["grpc-message"]
            await load.more(20)
    assert server.is_alive


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_stream_that_begins_with_one_ends(plane: DataPlane, server: Triton, endpoint: str, coding: str) -> None:
    bombs = frame(bomb(coding, named(endpoint)))
    async with under_load(plane, endpoint, PAIR, clients=2) as load:
        await load.more(20)
        with flat_memory(plane):
            for _ in range(TIMES):
                reply = await called(plane, "ModelStreamInfer", coding, bombs)
                assert reply.headers["grpc-status"] == "8"
                assert "first message" in reply.headers["grpc-message"]
            await load.more(20)
    assert server.is_alive


async def test_streams_that_do_not_go_on_hold_little_together(plane: DataPlane, endpoint: str) -> None:
    request = grpc_request(endpoint, PAIR, {"padding": "-" * 1000})
    async with grpc.aio.insecure_channel(plane.grpc_address, options=NO_LIMIT) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def is_answered() -> bool:
            call = stub.ModelStreamInfer(timeout=DEADLINE_S, compression=grpc.Compression.Gzip)
            await call.write(request)
            await call.done_writing()
            return not (await call.read()).error_message

        assert await is_answered()
        with flat_memory(plane, MOST_GROWTH_OF_HELD_BYTES):
            async with held_streams(plane, STRANGERS) as connections:
                waiting = {asyncio.create_task(said(reader)) for reader, _ in connections}
                try:
                    # Whichever comes last of those that are refused: the others wait, as long as the test lets them.
                    for refused in islice(asyncio.as_completed(waiting), STRANGERS - MOST_HELD):
                        reply = await refused
                        assert "grpc-status: 8" in reply
                        assert "too many streams are beginning: try again" in reply
                    assert await is_answered()
                finally:
                    for task in waiting:
                        task.cancel()
                    await asyncio.gather(*waiting, return_exceptions=True)

        async def may_begin() -> bool:
            async with held_streams(plane, 1) as [(reader, writer)]:
                assert await is_answered()  # so Envoy has read what this one began with
                writer.write(http_chunk(b"\0\0\0\0"))
                return "unknown model 'nobody'" in await said(reader)

        await eventually(may_begin)  # when it has seen that the others are gone


async def test_a_later_one_is_an_error_in_its_place_and_the_stream_goes_on(
    plane: DataPlane, server: Triton, endpoint: str
) -> None:
    fine = grpc_request(endpoint, PAIR)
    large = service_pb2.ModelInferRequest(model_name=endpoint, raw_input_contents=[bytes(2 * LIMIT)])
    async with (
        grpc.aio.insecure_channel(plane.grpc_address, options=NO_LIMIT) as channel,
        under_load(plane, endpoint, PAIR, clients=2) as load,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(timeout=4 * DEADLINE_S, compression=grpc.Compression.Gzip)
        with flat_memory(plane):
            for _ in range(TIMES):
                await call.write(fine)
                assert not (await call.read()).error_message
                await call.write(large)
                assert f"larger than the {LIMIT} bytes" in (await call.read()).error_message
            await load.more(20)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    assert server.is_alive


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("what", HTTP)
async def test_what_is_compressed_is_looked_into(
    plane: DataPlane, server: Triton, endpoint: str, what: str, coding: str
) -> None:
    reply = await plane.infer(endpoint, {"content-encoding": coding}, CODINGS[coding](HTTP[what]))
    assert 400 <= reply.status_code < 500, reply.text
    assert server.is_alive


@pytest.mark.parametrize("coding", COMPRESSIONS)
@pytest.mark.parametrize("what", GRPC)
async def test_so_is_a_message(plane: DataPlane, server: Triton, endpoint: str, what: str, coding: str) -> None:
    request = service_pb2.ModelInferRequest()
    request.CopyFrom(GRPC[what])
    request.parameters["padding"].string_param = "-" * 1000  # what gets no smaller is not compressed
    async with grpc.aio.insecure_channel(plane.grpc_address, options=NO_LIMIT) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ModelInfer(request, timeout=DEADLINE_S, compression=COMPRESSIONS[coding])
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        call = stub.ModelStreamInfer(timeout=DEADLINE_S, compression=COMPRESSIONS[coding])
        await call.write(request)
        await call.done_writing()
        assert (await call.read()).error_message == refused.value.details()
        assert await call.read() is grpc.aio.EOF
    assert server.is_alive


def damaged(packed: bytes) -> dict[str, bytes]:
    half = len(packed) // 2
    return {
        "cut": packed[:-1],
        "cut in half": packed[:half],
        "broken": packed[:half] + bytes(20) + packed[half:],
        "changed at its end": packed[:-1] + bytes([packed[-1] ^ 1]),
        "followed by more": packed + b"\0",
        "twice": packed * 2,
        "begun": packed[:2],
        "not compressed": with_shape([1, 2]),
        "nothing": b"",
    }


@pytest.mark.parametrize("coding", CODINGS)
async def test_what_cannot_be_decompressed_is_a_clients_mistake(plane: DataPlane, endpoint: str, coding: str) -> None:
    message = grpc_request(endpoint, PAIR, {"padding": "-" * 1000}).SerializeToString()
    for what, body in damaged(CODINGS[coding](with_shape([1, 2]))).items():
        reply = await plane.infer(endpoint, {"content-encoding": coding}, body)
        assert (reply.status_code, bool(reply.json()["error"])) == (400, True), what
    for what, body in damaged(CODINGS[coding](message)).items():
        for method in ("ModelInfer", "ModelStreamInfer"):
            reply = await called(plane, method, coding, frame(body))
            assert (reply.headers["grpc-status"], bool(reply.headers["grpc-message"])) == ("3", True), (what, method)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, deflate", "deflate, gzip"])
async def test_other_compressions_are_refused_as_not_supported(plane: DataPlane, endpoint: str, coding: str) -> None:
    reply = await plane.infer(endpoint, {"content-encoding": coding}, zlib.compress(with_shape([1, 2])))
    assert (reply.status_code, "use gzip or deflate" in reply.json()["error"]) == (415, True)
    for method in ("ModelInfer", "ModelStreamInfer"):
        reply = await called(plane, method, coding, frame(b"?" * 100))
        assert (reply.headers["grpc-status"], "use gzip or deflate" in reply.headers["grpc-message"]) == ("12", True)


async def test_a_message_marked_as_compressed_of_a_call_that_names_no_compression_is_refused(
    plane: DataPlane, endpoint: str
) -> None:
    message = gzip.compress(grpc_request(endpoint, PAIR).SerializeToString())
    for coding in ("", "identity"):
        reply = await called(plane, "ModelInfer", coding, frame(message))
        assert reply.headers["grpc-status"] == "3"


async def test_a_name_that_does_not_come_first_is_refused_rather_than_looked_for(
    plane: DataPlane, endpoint: str
) -> None:
    late = service_pb2.ModelInferRequest(id="7").SerializeToString() + grpc_request(endpoint, PAIR).SerializeToString()
    reply = await called(plane, "ModelInfer", "gzip", frame(gzip.compress(late)))
    assert (reply.headers["grpc-status"], "must begin with the name" in reply.headers["grpc-message"]) == ("3", True)


@pytest.mark.parametrize("coding", CODINGS)
async def test_megabytes_pass_compressed(plane: DataPlane, server: Triton, coding: str) -> None:
    await plane.endpoint("large", triton_upstream("blue", server, model="identity_fp32"))
    await answering(plane, "large", "blue")
    inputs = {"INPUT0": np.arange(3_000_000, dtype=np.float32).reshape(1, -1)}
    async with grpc.aio.insecure_channel(plane.grpc_address, options=NO_LIMIT) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = grpc_request("large", inputs)
        reply = await stub.ModelInfer(request, timeout=DEADLINE_S, compression=COMPRESSIONS[coding])
    assert reply.raw_output_contents[0] == inputs["INPUT0"].tobytes()


@pytest.mark.parametrize("coding", CODINGS)
async def test_who_is_asked_after_a_triton_has_failed_gets_it_as_it_came(
    plane: DataPlane, server: Triton, coding: str
) -> None:
    """A replica decompresses it itself, as it does where there is no Triton at all."""
    blue, plain = await plane.replica("blue"), set()

    def answer(request: HttpRequest) -> HttpResponse:
        if request.headers[b"content-type"] == b"application/grpc":
            plain.add(unframed(request.headers, request.body, LIMIT))
            return grpc_answer(service_pb2.ModelInferResponse(model_name="blue").SerializeToString())
        plain.add(bytes(decompress(request.body, request.headers[b"content-encoding"], LIMIT)))
        return usual_answer("blue", request)

    blue.answer = answer
    failing = triton_upstream("green", server, model="failing")
    name = f"fallen-{coding}"
    await plane.endpoint(name, upstream("blue", blue), failing, traffic={"green": 100}, shield=Shield("green", "blue"))
    await answering(plane, name, "green")
    inputs = {"INPUT0": np.array([[-1]], np.int32)}
    body = json.dumps(json_request(inputs)).encode()
    message = grpc_request(name, inputs, {"padding": "-" * 1000})

    reply = await plane.infer(name, {"content-encoding": coding, "content-type": "x/y"}, CODINGS[coding](body))
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        said = await stub.ModelInfer(message, timeout=DEADLINE_S, compression=COMPRESSIONS[coding])

    assert (reply.json()["model_name"], said.model_name) == ("blue", "blue")
    assert plain == {body, message.SerializeToString()}


async def test_a_score_may_be_compressed_as_well(plane: DataPlane, endpoint: str) -> None:
    packed: dict[str, Any] = {"content": gzip.compress(with_shape([1, 2])), "headers": {"content-encoding": "gzip"}}
    reply = await plane.http.post(f"/endpoints/{endpoint}/score", **packed)
    assert reply.json()["model_name"] == endpoint
