from collections.abc import AsyncIterator

import pytest_asyncio

from tests.envoy.data_plane import DataPlane, data_plane


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane() -> AsyncIterator[DataPlane]:
    """One Envoy for all tests of a file; each test has endpoints of its own."""
    async with data_plane() as running:
        yield running
