"""Real registries, one of each for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.registries.mlflow_server import MlflowServer, mlflow


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """MLflow with the models of `mlflow_push` in it."""
    with mlflow(tmp_path_factory.mktemp("mlflow")) as server:
        server.push("mlflow_push.py", server.pushed)
        yield server
