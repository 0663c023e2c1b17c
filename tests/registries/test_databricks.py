"""Databricks' workspace registry over real connections: the workspace learns who asks, the storage does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from adapters.mlflow import MlflowModels
from adapters.transport import HttpTransport
from router.domain.model_ref import ModelRef
from router.models.ports import AccessDenied
from router.models.settings import FromFile, Host, RegistrySettings
from tests.registries.http_server import Asked, Behaviour, file_server, http_server, reply

GRAPH = b"graph" * 1000
TOKEN = "dapi-secret"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


def workspace(storage: str) -> Behaviour:
    """Answers as MLflow's own client expects it, whoever shows the token."""
    version = {"name": "fraud", "version": "3", "status": "READY"}
    told: Mapping[str, Any] = {
        "registered-models/get": {"registered_model": {"latest_versions": [version]}},
        "model-versions/get-download-uri": {"artifact_uri": "dbfs:/databricks/mlflow-registry/0123/models/fraud"},
        "model-versions/list-artifacts": {"files": [{"path": "m.onnx", "is_dir": False, "file_size": len(GRAPH)}]},
        "model-versions/get-signed-download-uri": {
            "signed_uri": f"{storage}/jobs/0123/m.onnx?sig=signature",
            "headers": [{"name": "x-ms-version", "value": "2024-05-04"}],
        },
    }

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.headers.get("authorization") != f"Bearer {TOKEN}":
            writer.write(reply(401))
            return
        parts = urlsplit(asked.target)
        assert parse_qs(parts.query)["name"] == ["fraud"]
        writer.write(reply(200, json.dumps(told[parts.path.removeprefix("/api/2.0/mlflow/")]).encode()))

    return behave


async def test_the_files_come_from_the_storage_which_never_sees_the_token(secret: Path) -> None:
    async with http_server(file_server(GRAPH)) as storage, http_server(workspace(storage.url)) as registry:
        signed_in = Host(token=FromFile(str(secret)), is_plain_http=True)
        settings = RegistrySettings(
            mlflow_server=registry.url, hosts={registry.host: signed_in, storage.host: Host(is_plain_http=True)}
        )
        transport = HttpTransport(settings, ())
        source = MlflowModels(transport, settings, {})
        resolution = await source.resolve(ModelRef.parse("models:/fraud/latest"))
        assert (resolution.pinned, resolution.files[0].size) == ("models:/fraud/3", len(GRAPH))
        async with source.read(resolution, resolution.files[0], 100) as download:
            assert download.starts_at == 100
            assert b"".join([chunk async for chunk in download.chunks]) == GRAPH[100:]
        await transport.close()
        (read,) = storage.asked
        assert (read.target, read.headers["x-ms-version"]) == ("/jobs/0123/m.onnx?sig=signature", "2024-05-04")
        assert "authorization" not in read.headers


async def test_a_storage_that_may_not_be_asked_is_named_without_the_signature(secret: Path) -> None:
    async with http_server(file_server(GRAPH)) as storage, http_server(workspace(storage.url)) as registry:
        signed_in = Host(token=FromFile(str(secret)), is_plain_http=True)
        settings = RegistrySettings(mlflow_server=registry.url, hosts={registry.host: signed_in})
        transport = HttpTransport(settings, ())
        source = MlflowModels(transport, settings, {})
        resolution = await source.resolve(ModelRef.parse("models:/fraud/latest"))
        with pytest.raises(AccessDenied, match=f"add {storage.host} to allowed_hosts") as refused:
            async with source.read(resolution, resolution.files[0], 0):
                pass
        await transport.close()
        assert "signature" not in str(refused.value)
        assert storage.asked == []
