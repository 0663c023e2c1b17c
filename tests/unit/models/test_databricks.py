"""Databricks' workspace registry, as MLflow's client knows it: it lists a version's files, and signs a URL for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from adapters.mlflow import MlflowModels
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef
from router.models.ports import Download, SourceLimits
from router.models.settings import RegistrySettings
from tests.unit.models.answers import Answers

SERVER = "https://adb-1.azuredatabricks.net"
SETTINGS = RegistrySettings(mlflow_server=SERVER, limits=SourceLimits(max_files=5))
REF = ModelRef.parse("models:/fraud/3")
PLACE = "dbfs:/databricks/mlflow-registry/0123/models/fraud"
SIGNED = "https://store.blob.core.windows.net/jobs/0123/model.onnx?sig=secret"
LIST = f"{SERVER}/api/2.0/mlflow/model-versions/list-artifacts?name=fraud&version=3&path="
SIGN = f"{SERVER}/api/2.0/mlflow/model-versions/get-signed-download-uri?name=fraud&version=3&path="


class Workspace(Answers):
    """Remembers which headers were sent for a file."""

    def __init__(self, place: str = PLACE) -> None:
        version = {"name": "fraud", "version": "3", "status": "READY"}
        mlmodel = b"flavors:\n  onnx:\n    data: data/model.onnx\n"
        super().__init__(
            {
                "/model-versions/get?name=fraud&version=3": (200, {"model_version": version}),
                "/model-versions/get-download-uri?name=fraud&version=3": (200, {"artifact_uri": place}),
                LIST: (200, {"files": [entry("MLmodel", len(mlmodel))], "next_page_token": "t/2"}),
                f"{LIST}&page_token=t%2F2": (200, {"files": [{"path": "data", "is_dir": True}]}),
                f"{LIST}data": (200, {"files": [entry("data/model.onnx", 5)]}),
                f"{SIGN}MLmodel": (200, {"signed_uri": f"{SIGNED}&of=MLmodel"}),
                f"{SIGN}data%2Fmodel.onnx": (200, {"signed_uri": SIGNED, "headers": [header("x-ms-version", "1")]}),
            },
            {SIGNED: b"graph", f"{SIGNED}&of=MLmodel": mlmodel},
        )
        self.sent: list[dict[str, str]] = []

    @asynccontextmanager
    async def stream(
        self, url: str, *, offset: int = 0, if_range: str = "", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Download]:
        self.sent.append(dict(headers or {}))
        async with super().stream(url, offset=offset, if_range=if_range, headers=headers) as download:
            yield download


def entry(path: Any, size: int) -> dict[str, Any]:
    return {"path": path, "is_dir": False, "file_size": size}


def header(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


async def test_the_files_are_listed_page_by_page_and_read_where_the_registry_signs() -> None:
    workspace = Workspace()
    source = MlflowModels(workspace, SETTINGS, {})
    resolution = await source.resolve(REF)
    assert [(file.path, file.size, file.locator) for file in resolution.files] == [
        ("model.onnx", 5, "data/model.onnx"),
    ]
    assert resolution.lineage["source"] == PLACE
    assert "secret" not in str(resolution)
    async with source.read(resolution, resolution.files[0], 2) as download:
        assert [chunk async for chunk in download.chunks] == [b"aph"]
    assert workspace.sent == [{}, {"x-ms-version": "1"}]


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b.onnx", "..", "a\\b", 7, None])
async def test_a_listed_name_that_leads_elsewhere_is_refused(name: Any) -> None:
    workspace = Workspace()
    workspace.told[LIST] = (200, {"files": [entry(name, 1)]})
    with pytest.raises(ModelUnavailable, match="lists a file that cannot be"):
        await MlflowModels(workspace, SETTINGS, {}).resolve(REF)


@pytest.mark.parametrize(
    "endless",
    [
        {"files": [entry("m.onnx", 1)], "next_page_token": "t/2"},
        {"files": [entry(f"{number}.onnx", 1) for number in range(6)]},
        {"files": [{"path": name, "is_dir": True} for name in "abcdefghijkl"]},
    ],
)
async def test_a_listing_without_an_end_is_refused(endless: dict[str, Any]) -> None:
    workspace = Workspace()
    workspace.told[LIST] = workspace.told[f"{LIST}&page_token=t%2F2"] = (200, endless)
    with pytest.raises(ModelUnavailable, match=r"more than 5 files \(limits\.max_files\)"):
        await MlflowModels(workspace, SETTINGS, {}).resolve(REF)
    assert len(workspace.asked) < 20


@pytest.mark.parametrize(
    ("signed", "words"),
    [
        ({}, "does not say where data/model.onnx can be read"),
        ({"signed_uri": SIGNED, "headers": {}}, None),
        ({"signed_uri": SIGNED, "headers": "x"}, "does not say where"),
        ({"signed_uri": SIGNED, "headers": [header("Range", "bytes=9-")]}, "wants a header to be sent that cannot be"),
        ({"signed_uri": SIGNED, "headers": [header("x", "1\r\nhost: y")]}, "wants a header to be sent that cannot be"),
        ({"signed_uri": SIGNED, "headers": [{"name": "x"}]}, "wants a header to be sent that cannot be"),
    ],
)
async def test_what_is_signed_is_not_believed_whatever_it_is(signed: dict[str, Any], words: str | None) -> None:
    workspace = Workspace()
    source = MlflowModels(workspace, SETTINGS, {})
    resolution = await source.resolve(REF)
    workspace.told[f"{SIGN}data%2Fmodel.onnx"] = (200, signed)
    if words is None:
        async with source.read(resolution, resolution.files[0], 0) as download:
            assert [chunk async for chunk in download.chunks] == [b"graph"]
        return
    with pytest.raises(ModelUnavailable, match=words):
        async with source.read(resolution, resolution.files[0], 0):
            pass


async def test_a_place_that_cannot_be_read_is_refused_with_what_to_do() -> None:
    with pytest.raises(ModelUnavailable, match="only what its workspace registry keeps can be read: copy"):
        await MlflowModels(Workspace("dbfs:/FileStore/fraud"), SETTINGS, {}).resolve(REF)
