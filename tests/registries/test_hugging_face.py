"""The source against a hub of ours: revisions, pages, large files elsewhere, small ones checked by git's digest."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from adapters.huggingface_registry import HuggingFaceModels
from adapters.transport import HttpTransport
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef
from router.models.ports import AccessDenied, RemoteFile, Resolution
from router.models.settings import FromEnvironment, Host, RegistrySettings
from tests.registries.fake_hub import FakeHub, storage_of
from tests.registries.http_server import HttpServer, http_server

MODEL, DATA = b"graph" * 100, b"weights" * 1000
FILES = {"README.md": b"card", "onnx/model.onnx": MODEL, "onnx/model.onnx_data": DATA, "onnx/vocab.txt": b"a\nb"}


@dataclass
class Hub:
    fake: FakeHub
    models: HuggingFaceModels
    server: HttpServer
    storage: HttpServer

    async def read(self, resolution: Resolution, file: RemoteFile, offset: int = 0) -> tuple[int, bytes]:
        async with self.models.read(resolution, file, offset) as download:
            return download.starts_at, b"".join([chunk async for chunk in download.chunks])


@asynccontextmanager
async def hub(token: str = "", **files: bytes) -> AsyncIterator[Hub]:
    fake = FakeHub(FILES | files, token=token)
    async with http_server(storage_of(fake)) as storage, http_server(fake.behave) as server:
        fake.storage = storage.url
        plain = Host(is_plain_http=True)
        signed_in = Host(token=FromEnvironment("HUB_TOKEN"), is_plain_http=True)
        hosts = {server.host: signed_in if token else plain, storage.host: plain}
        settings = RegistrySettings(hosts=hosts, huggingface_server=server.url)
        transport = HttpTransport(settings, ())
        yield Hub(fake, HuggingFaceModels(transport, settings), server, storage)
        await transport.close()


async def test_a_branch_becomes_a_commit_and_the_model_is_the_onnx_file_with_its_data() -> None:
    async with hub() as at:
        resolution = await at.models.resolve(ModelRef.parse("hf://org/repo"))
        assert resolution.pinned == f"hf://org/repo@{'c' * 40}"
        assert (resolution.revision, resolution.version) == ("c" * 40, "c" * 12)
        assert resolution.lineage == {
            "commit": "c" * 40,
            "author": "org",
            "created": "2026-01-02T12:00:00.000Z",
            "license": "apache-2.0",
        }
        assert [(file.path, file.size, file.sha256) for file in resolution.files] == [
            ("model.onnx", len(MODEL), hashlib.sha256(MODEL).hexdigest()),
            ("model.onnx_data", len(DATA), hashlib.sha256(DATA).hexdigest()),
        ]
        assert await at.read(resolution, resolution.files[1]) == (0, DATA)
        assert await at.read(resolution, resolution.files[1], 500) == (500, DATA[500:])


async def test_the_token_goes_to_the_hub_and_not_to_its_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_TOKEN", "hf_s3cret")
    async with hub(token="hf_s3cret") as at:
        resolution = await at.models.resolve(ModelRef.parse("hf://org/repo"))
        assert await at.read(resolution, resolution.files[0]) == (0, MODEL)
        assert len(at.storage.asked) == 1
    async with hub(token="hf_another") as at:
        with pytest.raises(AccessDenied, match=r"does not know who asks \(401\)"):
            await at.models.resolve(ModelRef.parse("hf://org/repo"))


async def test_a_small_file_is_checked_against_the_commit_and_always_read_whole() -> None:
    async with hub(**{"small.onnx": b"tiny graph"}) as at:
        resolution = await at.models.resolve(ModelRef.parse("hf://org/repo/small.onnx"))
        (file,) = resolution.files
        assert await at.read(resolution, file, 4) == (0, b"tiny graph")
        at.fake.lies["small.onnx"] = b"other graph"
        with pytest.raises(ModelUnavailable, match="is not the file that the commit holds"):
            await at.read(resolution, file)


async def test_a_path_chooses_a_file_or_a_folder() -> None:
    async with hub(**{"quantized/model.onnx": b"q"}) as at:
        with pytest.raises(ModelUnavailable, match=r"hf://org/repo: it holds 2 ONNX files: name one"):
            await at.models.resolve(ModelRef.parse("hf://org/repo"))
        for inside in ("quantized", "quantized/model.onnx"):
            resolution = await at.models.resolve(ModelRef.parse(f"hf://org/repo@main/{inside}"))
            assert [file.path for file in resolution.files] == ["model.onnx"]
            assert resolution.pinned == f"hf://org/repo@{'c' * 40}/{inside}"


async def test_a_branch_that_got_another_commit_has_moved_and_a_commit_never_does() -> None:
    async with hub() as at:
        ref = ModelRef.parse("hf://org/repo@refs%2Fpr%2F1")
        revision = (await at.models.resolve(ref)).revision
        assert not await at.models.has_moved(ref, revision)
        at.fake.commit = "d" * 40
        assert await at.models.has_moved(ref, revision)
        assert not await at.models.has_moved(ModelRef.parse(f"hf://org/repo@{'c' * 40}"), "c" * 40)


@pytest.mark.parametrize("text", ["hf://org", "hf://org/..", "hf://org/repo@", "hf://org/repo@main/../x", "hf://o?g/r"])
async def test_a_reference_that_names_no_repository_is_refused(text: str) -> None:
    async with hub() as at:
        with pytest.raises(ModelUnavailable):
            await at.models.resolve(ModelRef.parse(text))
        assert at.server.asked == []


async def test_a_repository_that_is_not_there_is_told() -> None:
    async with hub() as at:
        with pytest.raises(ModelUnavailable, match=r"has no such thing \(404\): check the name"):
            await at.models.resolve(ModelRef.parse("hf://org/other"))


async def test_a_hub_that_lists_a_name_that_leads_out_is_refused() -> None:
    async with hub(**{"../model.onnx": MODEL}) as at:
        with pytest.raises(ModelUnavailable, match="lists a file that cannot be"):
            await at.models.resolve(ModelRef.parse("hf://org/repo"))
