"""Registries that run for as long as the tests of this folder do, and the source that asks them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from adapters.registries.docker_credentials import DockerCredentials
from adapters.registries.oci import OciModels
from adapters.transport import HttpTransport
from router.models.settings import Host, RegistrySettings
from tests.registries.certificates import Authority
from tests.registries.oci.docker_registry import Registry, docker_registry

Opened = Callable[..., AbstractAsyncContextManager[OciModels]]


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with docker_registry(tmp_path_factory.mktemp("plain")) as registry:
        yield registry


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Registry]:
    """TLS and a password."""
    with docker_registry(tmp_path_factory.mktemp("locked"), authority=authority, is_locked=True) as registry:
        yield registry


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """A source with settings of its own, which ends with the block."""

    @asynccontextmanager
    async def made(
        hosts: dict[str, Host], spool: Path | None = None, docker: Path | None = None
    ) -> AsyncIterator[OciModels]:
        settings = RegistrySettings(hosts=hosts)
        transport = HttpTransport(settings, (0.0, 0.0))
        credentials = DockerCredentials(docker or tmp_path / "no-config.json")
        try:
            yield OciModels(transport, settings, credentials, spool or tmp_path / "spool")
        finally:
            await transport.close()

    return made
