"""An Azure ML workspace, as Microsoft's own MLflow plugin knows it: it lists files, and signs a URL for each."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.mlflow import MlflowModels
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef
from router.models.ports import SourceLimits
from router.models.settings import RegistrySettings
from tests.unit.models.answers import Answers

HOST = "https://westeurope.api.azureml.ms"
WORKSPACE = "/subscriptions/0-1/resourceGroups/ml/providers/Microsoft.MachineLearningServices/workspaces/bank"
SETTINGS = RegistrySettings(mlflow_server=f"{HOST}/mlflow/v2.0{WORKSPACE}", limits=SourceLimits(max_files=5))
REF = ModelRef.parse("models:/fraud/3")
OF_RUN = f"azureml://westeurope.api.azureml.ms/mlflow/v2.0{WORKSPACE}/experiments/try%20it/runs/r1/artifacts/model"
UPLOADED = "azureml://artifacts/LocalUpload/231124T1-ab/model"
LISTS = {
    OF_RUN: f"{HOST}/history/v1.0{WORKSPACE}/experiments/try%20it/runs/r1/artifacts",
    UPLOADED: f"{HOST}/artifact/v2.0{WORKSPACE}/artifacts/LocalUpload/231124T1-ab",
}
SIGNED = "https://store.blob.core.windows.net/azureml/model.onnx?sig=secret"
MLMODEL = b"flavors:\n  onnx:\n    data: model.onnx\n"


def entries(*paths: Any) -> list[dict[str, Any]]:
    return [{"artifactId": f"a/{path}", "path": path} for path in paths]


def workspace(place: str = OF_RUN, listed: str = LISTS[OF_RUN]) -> Answers:
    version = {"name": "fraud", "version": "3", "status": "READY"}
    return Answers(
        {
            f"{WORKSPACE}/api/2.0/mlflow/model-versions/get?name=fraud&version=3": (200, {"model_version": version}),
            "/model-versions/get-download-uri?name=fraud&version=3": (200, {"artifact_uri": place}),
            listed: (200, {"value": entries("logs/out.txt", "model/MLmodel"), "continuationToken": "t/2"}),
            f"{listed}?continuationToken=t%2F2": (200, {"value": entries("model/model.onnx", "model2/x.onnx")}),
            f"{listed}/contentinfo?path=model%2FMLmodel": (200, {"contentUri": f"{SIGNED}&of=MLmodel"}),
            f"{listed}/contentinfo?path=model%2Fmodel.onnx": (200, {"contentUri": SIGNED}),
        },
        {SIGNED: b"graph", f"{SIGNED}&of=MLmodel": MLMODEL},
    )


@pytest.mark.parametrize("place", [OF_RUN, UPLOADED])
async def test_the_files_of_runs_and_uploads_are_listed_page_by_page_and_read_where_the_workspace_signs(
    place: str,
) -> None:
    source = MlflowModels(workspace(place, LISTS[place]), SETTINGS, {})
    resolution = await source.resolve(REF)
    assert [(file.path, file.size) for file in resolution.files] == [("model.onnx", -1)]
    assert resolution.lineage["source"] == place
    assert "secret" not in str(resolution)
    async with source.read(resolution, resolution.files[0], 2) as download:
        assert [chunk async for chunk in download.chunks] == [b"aph"]


@pytest.mark.parametrize("name", ["model/../x.onnx", "model//x.onnx", "model/a\\b.onnx", 7, None])
async def test_a_listed_name_that_leads_elsewhere_is_refused(name: Any) -> None:
    asked = workspace()
    asked.told[LISTS[OF_RUN]] = (200, {"value": entries(name)})
    with pytest.raises(ModelUnavailable, match="lists a file that cannot be"):
        await MlflowModels(asked, SETTINGS, {}).resolve(REF)


@pytest.mark.parametrize("path", ["model/m.onnx", "logs/out.txt"])
async def test_a_listing_without_an_end_is_refused(path: str) -> None:
    asked, endless = workspace(), (200, {"value": entries(path), "continuationToken": "t/2"})
    asked.told[LISTS[OF_RUN]] = asked.told[f"{LISTS[OF_RUN]}?continuationToken=t%2F2"] = endless
    with pytest.raises(ModelUnavailable, match=r"more than 5 files \(limits\.max_files\)"):
        await MlflowModels(asked, SETTINGS, {}).resolve(REF)


async def test_a_file_for_which_nothing_is_signed_is_not_read() -> None:
    asked = workspace()
    source = MlflowModels(asked, SETTINGS, {})
    resolution = await source.resolve(REF)
    asked.told[f"{LISTS[OF_RUN]}/contentinfo?path=model%2Fmodel.onnx"] = (200, {"contentUri": None})
    with pytest.raises(ModelUnavailable, match=r"does not say where model\.onnx can be read"):
        async with source.read(resolution, resolution.files[0], 0):
            pass


@pytest.mark.parametrize(
    ("place", "server", "words"),
    [
        (OF_RUN.replace("bank", "lab"), SETTINGS.mlflow_server, "are in another workspace, .*/workspaces/lab"),
        ("azureml://artifacts", SETTINGS.mlflow_server, "does not list; copy the model to a store"),
        ("azureml://x/registries/r/models/m", SETTINGS.mlflow_server, "does not list; copy the model to a store"),
        (OF_RUN, f"{HOST}/mlflow", r"write the workspace's whole URL for MLflow, …/workspaces/NAME"),
    ],
)
async def test_places_of_no_known_workspace_are_refused_with_what_to_do(place: str, server: str, words: str) -> None:
    asked = workspace(place)
    asked.told["/model-versions/get?name=fraud&version=3"] = (200, {"model_version": {"name": "fraud", "version": "3"}})
    with pytest.raises(ModelUnavailable, match=words):
        await MlflowModels(asked, RegistrySettings(mlflow_server=server), {}).resolve(REF)
