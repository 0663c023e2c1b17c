"""Models at plain URLs, from servers that know ETag or not, HEAD or not."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from adapters.http_registry import HttpModels
from adapters.transport import HttpTransport
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_ref import ModelRef
from router.models.ports import AccessDenied, Resolution, SourceUnavailable
from router.models.settings import Host, RegistrySettings
from tests.registries.certificates import Authority
from tests.registries.http_server import Behaviour, HttpServer, always, file_server, http_server, reply

CONTENT = b"graph" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def served(behave: Behaviour, authority: Authority) -> AsyncIterator[tuple[HttpServer, HttpModels]]:
    async with http_server(behave, authority.server()) as server:
        settings = RegistrySettings(hosts={server.host: Host()}, ca_bundle=authority.bundle)
        transport = HttpTransport(settings, ())
        yield server, HttpModels(transport)
        await transport.close()


async def read(models: HttpModels, resolution: Resolution, offset: int = 0) -> tuple[int, bytes]:
    async with models.read(resolution, resolution.files[0], offset) as download:
        return download.starts_at, b"".join([chunk async for chunk in download.chunks])


async def test_a_pinned_url_says_its_digest_and_never_moves(authority: Authority) -> None:
    async with served(file_server(CONTENT), authority) as (server, models):
        ref = ModelRef.parse(f"{server.url}/m/fraud.onnx?v=3#sha256={DIGEST}")
        resolution = await models.resolve(ref)
        (file,) = resolution.files
        assert (file.path, file.size, file.sha256) == ("fraud.onnx", len(CONTENT), DIGEST)
        assert (resolution.revision, resolution.pinned) == (DIGEST, str(ref))
        assert await read(models, resolution, 10) == (10, CONTENT[10:])
        asked = server.asked[-1]
        assert (asked.target, asked.headers["if-match"], asked.headers["if-range"]) == (
            "/m/fraud.onnx?v=3",
            '"1"',
            '"1"',
        )
        assert not await models.has_moved(ref, "whatever")


async def test_without_a_digest_the_etag_tells_when_the_file_is_another_one(authority: Authority) -> None:
    async with served(file_server(CONTENT, '"1"'), authority) as (server, models):
        ref = ModelRef.parse(f"{server.url}/fraud.onnx")
        resolution = await models.resolve(ref)
        assert resolution.files[0].sha256 == ""
        assert resolution.pinned == f'etag "1" of {ref}'
        with pytest.raises(Invalid):  # no reference names this content for good
            ModelRef.parse(resolution.pinned)
        assert not await models.has_moved(ref, resolution.revision)
        server.behave = file_server(CONTENT, '"2"')
        assert await models.has_moved(ref, resolution.revision)
        server.behave = always(reply(412))
        with pytest.raises(SourceUnavailable, match="is another file by now"):
            await read(models, resolution, 10)


async def test_without_an_etag_the_time_and_size_tell(authority: Authority) -> None:
    changed = "Wed, 21 Oct 2026 07:28:00 GMT"
    async with served(always(reply(200, CONTENT, last_modified=changed)), authority) as (server, models):
        resolution = await models.resolve(ref := ModelRef.parse(f"{server.url}/fraud.onnx"))
        assert resolution.lineage == {"modified": changed}
        assert not await models.has_moved(ref, resolution.revision)
        server.behave = always(reply(200, CONTENT + b"x", last_modified=changed))
        assert await models.has_moved(ref, resolution.revision)


async def test_a_server_that_tells_nothing_needs_a_digest_in_the_reference(authority: Authority) -> None:
    async with served(always(reply(200, CONTENT)), authority) as (server, models):
        with pytest.raises(ModelUnavailable, match=r"neither ETag nor Last-Modified, .*add #sha256="):
            await models.resolve(ModelRef.parse(f"{server.url}/fraud.onnx"))
        pinned = await models.resolve(ModelRef.parse(f"{server.url}/fraud.onnx#sha256={DIGEST}"))
        assert await read(models, pinned) == (0, CONTENT)


async def test_a_server_that_knows_no_head_is_asked_only_for_the_file_when_the_digest_is_known(
    authority: Authority,
) -> None:
    async with served(always(reply(405)), authority) as (server, models):
        resolution = await models.resolve(ModelRef.parse(f"{server.url}/fraud.onnx#sha256={DIGEST}"))
        assert resolution.files[0].size == -1
        with pytest.raises(ModelUnavailable, match=r"/fraud\.onnx answers with status 405"):
            await models.resolve(ModelRef.parse(f"{server.url}/fraud.onnx?signature=s3cret"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://host/m.onnx#sha256=abc", "64 hex digits"),
        ("https://host/m.onnx#", "64 hex digits"),
        (f"https://host/m.onnx#sha256={DIGEST.upper()}", "in lower case"),
        ("https://host/", "does not end with a file's name"),
        ("https://host/..%2f", "does not end with a file's name"),
        ("http://host/m.onnx", "without TLS anybody may change the file: add #sha256="),
    ],
)
async def test_a_reference_that_cannot_be_is_refused_before_anything_is_asked(
    text: str, words: str, authority: Authority
) -> None:
    async with served(always(reply(200)), authority) as (_, models):
        with pytest.raises(ModelUnavailable, match=words):
            await models.resolve(ModelRef.parse(text))


async def test_plain_http_needs_the_operators_word_as_well_as_a_digest() -> None:
    async with http_server(file_server(CONTENT)) as server:
        ref = ModelRef.parse(f"{server.url}/fraud.onnx#sha256={DIGEST}")
        strict = HttpTransport(RegistrySettings(hosts={server.host: Host()}), ())
        with pytest.raises(AccessDenied, match="asking without TLS is not allowed; use https, or allow it"):
            await HttpModels(strict).resolve(ref)
        lenient = HttpTransport(RegistrySettings(hosts={server.host: Host(is_plain_http=True)}), ())
        models = HttpModels(lenient)
        assert await read(models, await models.resolve(ref)) == (0, CONTENT)
        await strict.close()
        await lenient.close()
