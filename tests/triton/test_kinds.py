"""Every kind of model, asked in every way: what comes through Envoy equals what Triton itself answers."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2_grpc

from tests.envoy.data_plane import DataPlane
from tests.envoy.waiting import DEADLINE_S
from tests.triton.asking import answering, binary_request, grpc_request, json_request, triton_upstream
from tests.triton.kinds import KINDS, Asked, Kind, write_kinds
from tests.triton.server import Triton, started_triton

pytestmark = pytest.mark.asyncio(loop_scope="module")

_ids = itertools.count(1000)


@dataclass(slots=True)
class Place:
    """Where a model is asked, and what it is called there."""

    http: httpx.AsyncClient
    stub: service_pb2_grpc.GRPCInferenceServiceStub
    model: str
    version: str

    def plain(self, said: Any) -> Any:
        """The same without the names of this place."""
        text = json.dumps(said)
        for name, mark in ((f'"{self.model}"', '"MODEL"'), (f"'{self.model}'", "'MODEL'")):
            text = text.replace(name, mark)
        text = text.replace(f'"model_version": "{self.version}"', '"model_version": "VERSION"')
        return json.loads(text)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Triton]:
    async with started_triton(write_kinds(tmp_path_factory.mktemp("kinds") / "repository")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind(server: Triton) -> AsyncIterator[Place]:
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ports.grpc}") as channel,
        httpx.AsyncClient(base_url=server.http_url, timeout=DEADLINE_S) as http,
    ):
        yield Place(http, service_pb2_grpc.GRPCInferenceServiceStub(channel), "", "1")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(plane: DataPlane) -> AsyncIterator[Place]:
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        yield Place(plane.http, service_pb2_grpc.GRPCInferenceServiceStub(channel), "", "v1")


async def _posted(place: Place, body: bytes, headers: dict[str, str]) -> Any:
    reply = await place.http.post(f"/v2/models/{place.model}/infer", content=body, headers=headers)
    length = int(reply.headers.get("inference-header-content-length", len(reply.content)))
    document = json.loads(reply.content[:length])
    # A failure of Triton's is called text/plain there, though it is JSON.
    content_type = reply.headers["content-type"] if reply.status_code == 200 else "any"
    return reply.status_code, document, reply.content[length:].hex(), content_type


def _outputs(asked: Asked) -> dict[str, Any]:
    if not asked.classes:
        return {}
    return {"outputs": [{"name": "OUTPUT0", "parameters": {"classification": asked.classes}}]}


async def in_json(place: Place, asked: Sequence[Asked]) -> list[Any]:
    requests = [json_request(one.inputs, parameters=one.parameters, **_outputs(one)) for one in asked]
    return [await _posted(place, json.dumps(request).encode(), {}) for request in requests]


async def in_binary(place: Place, asked: Sequence[Asked]) -> list[Any]:
    return [await _posted(place, *binary_request(one.inputs, one.parameters, one.classes)) for one in asked]


async def _compressed(place: Place, asked: Sequence[Asked], coding: str, compress: Callable[..., bytes]) -> list[Any]:
    answers = []
    for one in asked:
        body, headers = binary_request(one.inputs, one.parameters, one.classes)
        answers.append(await _posted(place, compress(body), {**headers, "content-encoding": coding}))
    return answers


async def gzipped(place: Place, asked: Sequence[Asked]) -> list[Any]:
    return await _compressed(place, asked, "gzip", gzip.compress)


async def deflated(place: Place, asked: Sequence[Asked]) -> list[Any]:
    return await _compressed(place, asked, "deflate", zlib.compress)


def _to(place: Place, one: Asked, how: grpc.Compression) -> Any:
    """So large that grpc's core compresses it, where it shall; it sends what does not get smaller as it is."""
    request = grpc_request(place.model, one.inputs, one.parameters, one.classes)
    if how is not grpc.Compression.NoCompression:
        request.parameters["padding"].string_param = "-" * 1000
    return request


async def over_grpc(
    place: Place, asked: Sequence[Asked], how: grpc.Compression = grpc.Compression.NoCompression
) -> list[Any]:
    answers: list[Any] = []
    for one in asked:
        try:
            reply = await place.stub.ModelInfer(_to(place, one, how), timeout=DEADLINE_S, compression=how)
            answers.append(MessageToDict(reply, preserving_proto_field_name=True))
        except grpc.aio.AioRpcError as error:
            answers.append((error.code().name, error.details()))
    return answers


async def gzipped_over_grpc(place: Place, asked: Sequence[Asked]) -> list[Any]:
    return await over_grpc(place, asked, grpc.Compression.Gzip)


async def deflated_over_grpc(place: Place, asked: Sequence[Asked]) -> list[Any]:
    return await over_grpc(place, asked, grpc.Compression.Deflate)


async def over_a_stream(
    place: Place, asked: Sequence[Asked], how: grpc.Compression = grpc.Compression.NoCompression
) -> list[Any]:
    answers = []
    call = place.stub.ModelStreamInfer(timeout=DEADLINE_S, compression=how)
    for one in asked:
        await call.write(_to(place, one, how))
        answers += [MessageToDict(await call.read(), preserving_proto_field_name=True) for _ in range(one.answers)]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    return answers


async def gzipped_over_a_stream(place: Place, asked: Sequence[Asked]) -> list[Any]:
    return await over_a_stream(place, asked, grpc.Compression.Gzip)


async def deflated_over_a_stream(place: Place, asked: Sequence[Asked]) -> list[Any]:
    return await over_a_stream(place, asked, grpc.Compression.Deflate)


Way = Callable[[Place, Sequence[Asked]], Awaitable[list[Any]]]
WAYS: tuple[Way, ...] = (
    *(in_json, in_binary, gzipped, deflated),
    *(over_grpc, gzipped_over_grpc, deflated_over_grpc),
    *(over_a_stream, gzipped_over_a_stream, deflated_over_a_stream),
)


def of_its_own(kind: Kind) -> list[Asked]:
    """Its requests; those of a sequence are of a new one."""
    if not kind.is_sequence:
        return list(kind.requests)
    number = next(_ids)
    key = f"sequence-{number}" if kind.is_named_by_text else number
    return [replace(one, parameters={**one.parameters, "sequence_id": key}) for one in kind.requests]


ASKED = [(kind, way) for kind in KINDS for way in WAYS if not (way is in_json and kind.is_binary)]


@pytest.mark.parametrize(("kind", "way"), ASKED, ids=[f"{kind.model}-{way.__name__}" for kind, way in ASKED])
async def test_what_is_answered_equals_tritons_own(
    plane: DataPlane, server: Triton, front: Place, behind: Place, kind: Kind, way: Way
) -> None:
    endpoint = f"a-{kind.model.replace('_', '-')}"
    await plane.endpoint(endpoint, triton_upstream("blue", server, model=kind.model))
    await answering(plane, endpoint, "blue")
    front, behind = replace(front, model=endpoint), replace(behind, model=kind.model)

    ours = front.plain(await way(front, of_its_own(kind)))
    theirs = behind.plain(await way(behind, of_its_own(kind)))

    assert ours == theirs
