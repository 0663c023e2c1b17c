"""A real MLflow registry: pushed with MLflow's client, resolved and read by ours."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import pytest

from adapters.mlflow import MlflowModels
from adapters.transport import HttpTransport
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef
from router.models.ports import Resolution, Source
from router.models.settings import Host, RegistrySettings
from tests.registries.mlflow_server import MlflowServer

pytestmark = pytest.mark.timeout(900)  # the first time, 620 MB of packages are fetched


@pytest.fixture
async def registry(mlflow_server: MlflowServer) -> AsyncIterator[MlflowModels]:
    settings = RegistrySettings(
        mlflow_server=f"http://{mlflow_server.host}", hosts={mlflow_server.host: Host(is_plain_http=True)}
    )
    transport = HttpTransport(settings, ())
    yield MlflowModels(transport, settings, {})
    await transport.close()


@pytest.fixture
async def asking(mlflow_server: MlflowServer) -> AsyncIterator[HttpTransport]:
    transport = HttpTransport(RegistrySettings(hosts={mlflow_server.host: Host(is_plain_http=True)}), ())
    yield transport
    await transport.close()


async def contents(source: Source, resolution: Resolution, offset: int = 0) -> dict[str, bytes]:
    read = {}
    for file in resolution.files:
        async with source.read(resolution, file, offset) as download:
            assert download.starts_at == offset
            read[file.path] = b"".join([chunk async for chunk in download.chunks])
    return read


async def test_a_logged_model_is_its_onnx_file_with_its_weights_and_knows_where_it_comes_from(
    registry: MlflowModels, mlflow_server: MlflowServer
) -> None:
    resolution = await registry.resolve(ModelRef.parse("models:/fraud@champion"))
    assert (resolution.pinned, resolution.version) == ("models:/fraud/1", "1")
    assert {"run_id", "created", "author", "source"} <= resolution.lineage.keys()
    files = mlflow_server.logged()
    assert len(files) == 2
    assert await contents(registry, resolution) == files
    assert {file.path: file.size for file in resolution.files} == {name: len(data) for name, data in files.items()}
    assert await contents(registry, resolution, 9) == {name: data[9:] for name, data in files.items()}


async def test_a_version_and_the_latest_are_found_and_a_path_chooses_among_several_models(
    registry: MlflowModels, mlflow_server: MlflowServer
) -> None:
    only = await registry.resolve(ModelRef.parse("models:/fraud/2"))
    assert await contents(registry, only) == {"only.onnx": (mlflow_server.pushed / "export/only.onnx").read_bytes()}
    with pytest.raises(ModelUnavailable, match=r"holds 2 ONNX files: name one, with /a/model\.onnx at the end"):
        await registry.resolve(ModelRef.parse("models:/fraud/latest"))
    chosen = await registry.resolve(ModelRef.parse("models:/fraud/latest/b"))
    assert chosen.pinned == "models:/fraud/3/b"
    assert await contents(registry, chosen) == {"model.onnx": (mlflow_server.pushed / "two/b/model.onnx").read_bytes()}


@pytest.mark.parametrize("name", ["fraud@nobody", "nothing@champion", "fraud/99", "nothing/latest"])
async def test_what_the_registry_does_not_have_is_told(registry: MlflowModels, name: str) -> None:
    with pytest.raises(ModelUnavailable, match="has no such model, version or alias"):
        await registry.resolve(ModelRef.parse(f"models:/{name}"))


async def test_an_alias_that_moves_is_noticed_and_a_version_never_moves(
    registry: MlflowModels, asking: HttpTransport, mlflow_server: MlflowServer
) -> None:
    api = f"http://{mlflow_server.host}/api/2.0/mlflow"
    moving = ModelRef.parse("models:/fraud@moving")
    alias = {"name": "fraud", "alias": "moving"}
    assert (
        await asking.request("POST", f"{api}/registered-models/alias", content={**alias, "version": "1"})
    ).status == 200
    revision = (await registry.resolve(moving)).revision
    assert not await registry.has_moved(moving, revision)
    assert (
        await asking.request("POST", f"{api}/registered-models/alias", content={**alias, "version": "2"})
    ).status == 200
    assert await registry.has_moved(moving, revision)
    assert not await registry.has_moved(ModelRef.parse("models:/fraud/1"), "other")


async def test_a_digest_in_a_tag_of_the_version_arrives_and_a_wrong_one_is_refused(
    registry: MlflowModels, asking: HttpTransport, mlflow_server: MlflowServer
) -> None:
    url = f"http://{mlflow_server.host}/api/2.0/mlflow/model-versions/set-tag"
    tag = {"name": "fraud", "version": "2", "key": "crossfade.sha256"}
    digest = hashlib.sha256((mlflow_server.pushed / "export/only.onnx").read_bytes()).hexdigest()
    for value in (digest, f"{digest}  only.onnx\n"):
        assert (await asking.request("POST", url, content={**tag, "value": value})).status == 200
        (file,) = (await registry.resolve(ModelRef.parse("models:/fraud/2"))).files
        assert file.sha256 == digest
    for value, words in (("sha256:abc", "is wrong"), (f"{digest}  other.onnx\n", "has no digest of 'only.onnx'")):
        assert (await asking.request("POST", url, content={**tag, "value": value})).status == 200
        with pytest.raises(ModelUnavailable, match=words):
            await registry.resolve(ModelRef.parse("models:/fraud/2"))
