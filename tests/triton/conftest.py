from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from benchmarks.triton_home import triton_home
from tests.envoy.data_plane import DataPlane, data_plane
from tests.triton.models import MODELS, write_repository
from tests.triton.server import Triton, started_triton


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane() -> AsyncIterator[DataPlane]:
    """One Envoy for all tests of a file; each test has endpoints of its own."""
    async with data_plane() as running:
        yield running
        # Envoy goes on where a script fails.
        assert "script log" not in (running.folder / "envoy.log").read_text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Triton]:
    """One Triton that serves all models."""
    async with started_triton(write_repository(tmp_path_factory.mktemp("triton") / "repository", *MODELS)) as running:
        yield running


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `tritonserver` with everything that a managed model needs."""
    return triton_home(tmp_path_factory.mktemp("home") / "triton")
