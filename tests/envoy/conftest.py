from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from router.domain.tls import ListenerTls
from tests.certificates import TestCa
from tests.envoy.data_plane import DataPlane, data_plane


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> TestCa:
    return TestCa.in_folder(tmp_path_factory.mktemp("ca"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane_for_certificates(ca: TestCa) -> AsyncIterator[DataPlane]:
    """One Envoy that asks its clients for certificates of `ca`, and knows those that are revoked."""
    tls = ListenerTls((ca.server("server"),), str(ca.file), str(ca.revoke()))
    async with data_plane(tls=tls, authority=ca.file) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane() -> AsyncIterator[DataPlane]:
    """One Envoy for all tests of a file; each test has endpoints of its own."""
    async with data_plane() as running:
        yield running
