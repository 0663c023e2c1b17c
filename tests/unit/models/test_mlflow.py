"""What an MLflow registry may say, and what is believed of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from adapters.mlflow import MlflowModels
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef
from router.models.ports import (
    AccessDenied,
    Download,
    RemoteFile,
    Reply,
    Resolution,
    SourceLimits,
    SourceUnavailable,
)
from router.models.settings import RegistrySettings
from tests.unit.models.answers import Answers

SETTINGS = RegistrySettings(
    mlflow_server="https://mlflow.internal/base", allowed_sources=("s3://models",), limits=SourceLimits(max_files=20)
)
VERSION = {"name": "fraud", "version": "3", "creation_timestamp": "1767355200000", "run_id": "r1", "status": "READY"}
REF = ModelRef.parse("models:/fraud/3")
ASKED = "/base/api/2.0/mlflow/model-versions/get?name=fraud&version=3"
LISTING = "/base/api/2.0/mlflow-artifacts/artifacts?path=0%2Fm%2Fartifacts"


def answers(place: str = "mlflow-artifacts:/0/m/artifacts", **version: Any) -> Answers:
    """A registry with one version, whose files are at `place`."""
    run = {"info": {"user_id": "ann"}, "data": {"tags": [{"key": "mlflow.source.git.commit", "value": "abc"}]}}
    listed = {"files": [{"path": "model.onnx", "is_dir": False, "file_size": "5"}, {"path": "sub", "is_dir": True}]}
    return Answers(
        {
            ASKED: (200, {"model_version": VERSION | version}),
            "/model-versions/get-download-uri?name=fraud&version=3": (200, {"artifact_uri": place}),
            "/runs/get?run_id=r1": (200, {"run": run}),
            LISTING: (200, listed),
            "?path=0%2Fm%2Fartifacts%2Fsub": (200, {}),
        },
        {"/base/api/2.0/mlflow-artifacts/artifacts/0/m/artifacts/model.onnx": b"graph"},
    )


class Cloud:
    """Implements `Source` for s3:// without a cloud."""

    def __init__(self) -> None:
        self.read_with: list[Resolution] = []

    async def resolve(self, ref: ModelRef) -> Resolution:
        file = RemoteFile("model.onnx", 5, "", "bucket key")
        return Resolution(ref, f"{ref}?versionId=7", "etag 7", (file,))

    def read(self, resolution: Resolution, file: RemoteFile, offset: int) -> AbstractAsyncContextManager[Download]:
        self.read_with.append(resolution)
        return self._opened()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Download]:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"graph"

        yield Download(0, chunks())

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        return False


def mlflow(told: Answers, cloud: Cloud | None = None) -> MlflowModels:
    return MlflowModels(told, SETTINGS, {"s3": cloud or Cloud()})


async def test_a_version_tells_its_files_and_where_it_comes_from() -> None:
    told = answers()
    resolution = await mlflow(told).resolve(REF)
    assert (resolution.pinned, resolution.version, resolution.revision) == ("models:/fraud/3", "3", "3@1767355200000")
    assert resolution.lineage == {
        "run_id": "r1",
        "author": "ann",
        "created": "2026-01-02T12:00:00+00:00",
        "commit": "abc",
        "source": "mlflow-artifacts:/0/m/artifacts",
    }
    assert [(file.path, file.size) for file in resolution.files] == [("model.onnx", 5)]
    async with mlflow(told).read(resolution, resolution.files[0], 2) as download:
        assert [chunk async for chunk in download.chunks] == [b"aph"]


async def test_files_in_an_allowed_bucket_are_read_by_who_knows_buckets() -> None:
    cloud = Cloud()
    source = mlflow(answers("s3://models/fraud/3"), cloud)
    resolution = await source.resolve(REF)
    assert resolution.pinned == "models:/fraud/3"
    async with source.read(resolution, resolution.files[0], 0) as download:
        assert [chunk async for chunk in download.chunks] == [b"graph"]
    (theirs,) = cloud.read_with
    assert (str(theirs.ref), theirs.pinned, theirs.revision) == (
        "s3://models/fraud/3",
        "s3://models/fraud/3?versionId=7",
        "etag 7",
    )


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("s3://attacker/fraud", AccessDenied, "its files are at s3://attacker/fraud; name it .* in allowed_sources"),
        ("s3://models/../attacker", AccessDenied, "allowed_sources"),
        (
            "file:///etc",
            ModelUnavailable,
            r"at file:///etc, which cannot be read from here; let the MLflow server hand",
        ),
        ("/var/mlflow/0", ModelUnavailable, "which cannot be read from here"),
        ("gs://models/x", ModelUnavailable, "which cannot be read from here"),
        ("https://ann:pw@evil.example/x?key=pw", ModelUnavailable, "at evil.example/x, which cannot be read"),
        ("", ModelUnavailable, "does not say where its files are"),
        ("runs:/r1/model", ModelUnavailable, "does not say where its files are"),
    ],
)
async def test_the_registry_is_not_believed_whatever_it_says_of_its_files(
    place: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await mlflow(answers(place)).resolve(REF)


async def test_artifacts_of_another_mlflow_server_are_asked_there() -> None:
    told = answers("mlflow-artifacts://other.internal:5000/0/m")
    told.told["https://other.internal:5000/api/2.0/mlflow-artifacts/artifacts?path=0%2Fm"] = (200, {})
    with pytest.raises(ModelUnavailable, match="models:/fraud/3: it holds no files"):
        await mlflow(told).resolve(REF)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b.onnx", "..", "a\\b", "a\0b", 7, None, "C:x"])
async def test_a_listed_name_that_leads_elsewhere_is_refused(name: Any) -> None:
    told = answers()
    told.told[LISTING] = (200, {"files": [{"path": name, "is_dir": False}]})
    with pytest.raises(ModelUnavailable, match="lists a file that cannot be"):
        await mlflow(told).resolve(REF)


class Maze(Answers):
    """Every folder holds two folders."""

    async def request(self, method: str, url: str, **options: Any) -> Reply:
        if "artifacts?path=" in url:
            folders = [{"path": name, "is_dir": True} for name in ("a", "b")]
            self.told = {url: (200, {"files": folders}), **self.told}
        return await super().request(method, url, **options)


async def test_folders_without_end_are_refused_after_as_many_questions_as_files_are_allowed() -> None:
    maze = Maze(answers().told)
    with pytest.raises(ModelUnavailable, match="more than 20 files"):
        await mlflow(maze).resolve(REF)
    assert len(maze.asked) < 30


async def test_too_many_files_are_refused() -> None:
    told = answers()
    many = [{"path": f"{number}.bin", "is_dir": False, "file_size": 1} for number in range(21)]
    told.told[LISTING] = (200, {"files": many})
    with pytest.raises(ModelUnavailable, match=r"more than 20 files \(limits\.max_files\)"):
        await mlflow(told).resolve(REF)


@pytest.mark.parametrize(
    ("version", "error", "words"),
    [
        ({"status": "PENDING_REGISTRATION"}, SourceUnavailable, "still being registered"),
        ({"status": "FAILED_REGISTRATION"}, ModelUnavailable, "is not ready"),
        ({"version": "../3"}, ModelUnavailable, "not what an MLflow registry says"),
        ({"name": None}, ModelUnavailable, "not what an MLflow registry says"),
    ],
)
async def test_a_version_that_is_not_ready_or_none_is_refused(
    version: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await mlflow(answers(**version)).resolve(REF)


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (401, {}, AccessDenied, "does not know who asks"),
        (403, {}, AccessDenied, "does not allow it"),
        (
            400,
            {"error_code": "INVALID_PARAMETER_VALUE"},
            ModelUnavailable,
            "mlflow.internal has no such model, version",
        ),
        (400, {"error_code": "BAD_REQUEST"}, ModelUnavailable, "answers with status 400"),
        (404, {"error_code": "ENDPOINT_NOT_FOUND"}, ModelUnavailable, r"has no such thing \(404\)"),
        (429, {}, SourceUnavailable, "gets too many requests"),
        (503, {}, SourceUnavailable, "has trouble"),
        (200, [], ModelUnavailable, "is it another server"),
        (200, {"model_version": 3}, ModelUnavailable, "is it another server"),
    ],
)
async def test_every_answer_that_is_no_version_has_its_own_words(
    status: int, body: Any, error: type[Exception], words: str
) -> None:
    told = answers()
    told.told[ASKED] = (status, body)
    with pytest.raises(error, match=words):
        await mlflow(told).resolve(REF)


@pytest.mark.parametrize(
    "text",
    [
        "models:/fraud",
        "models:/fraud/",
        "models:/fraud@",
        "models:/@a",
        "models:/fraud/x3",
        "models:/fraud/-1",
        "models:/fraud/3/../x",
    ],
)
async def test_a_reference_that_names_no_version_is_refused(text: str) -> None:
    told = answers()
    with pytest.raises(ModelUnavailable):
        await mlflow(told).resolve(ModelRef.parse(text))
    assert told.asked == []


async def test_without_a_server_the_settings_are_asked_for() -> None:
    with pytest.raises(ModelUnavailable, match=r"write mlflow: \{tracking_server: https://…\} in registries\.yaml"):
        await MlflowModels(answers(), RegistrySettings(), {}).resolve(REF)


async def test_the_latest_version_is_the_highest_of_all_stages() -> None:
    told = answers()
    latest = [VERSION | {"version": "2"}, VERSION, VERSION | {"version": "1"}]
    told.told["/registered-models/get?name=fraud"] = (200, {"registered_model": {"latest_versions": latest}})
    ref = ModelRef.parse("models:/fraud/latest")
    assert (await mlflow(told).resolve(ref)).pinned == "models:/fraud/3"
    assert await mlflow(told).has_moved(ref, "2@1767355200000")
    assert not await mlflow(told).has_moved(ref, "3@1767355200000")
