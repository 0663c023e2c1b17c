"""Who asks: tokens from another server, docker's credential helpers, and what is never sent to whom."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.registries.docker_credentials import DockerCredentials
from adapters.registries.oci_access import RegistryAccess
from adapters.registries.oci_reference import parsed
from adapters.transport import HttpTransport
from router.domain.model_ref import ModelRef
from router.models.ports import AccessDenied, Credentials
from router.models.settings import FromFile, Host, RegistrySettings
from tests.registries.certificates import Authority
from tests.registries.http_server import Asked, always, http_server, reply
from tests.registries.oci.conftest import Opened
from tests.registries.oci.docker_registry import TITLE, Registry, docker_registry
from tests.registries.oci.lying_registry import LyingRegistry
from tests.registries.oci.reading import PLAIN, pulled, read_file
from tests.registries.oci.token_server import ISSUER, SERVICE, TokenServer

USER, SECRET = "ada", "s3cret-of-ada"


@dataclass
class World:
    """`host`: what the settings say of the registry."""

    registry: Registry
    tokens: TokenServer
    hosts: dict[str, Host]
    token_host: str

    @property
    def reference(self) -> str:
        return f"oci://{self.registry.host}/team/m:1"


def _host(folder: Path, **secrets: str) -> Host:
    for name, value in secrets.items():
        (folder / name).write_text(value)
    return Host(is_plain_http=True, **{name: FromFile(str(folder / name)) for name in secrets})


@pytest.fixture
async def world(tmp_path: Path, authority: Authority) -> AsyncIterator[World]:
    async with _world(tmp_path, authority) as made:
        yield made


@asynccontextmanager
async def _world(folder: Path, authority: Authority) -> AsyncIterator[World]:
    tokens = TokenServer(authority.issued(), (USER, SECRET))
    async with http_server(tokens.behave) as server:
        auth = {
            "realm": f"{server.url}/token",
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": authority.bundle,
        }
        with docker_registry(folder / "registry", token_auth=auth) as registry:
            with registry.pusher("team/m", f"Bearer {tokens.token('team/m', ['pull', 'push'])}") as pusher:
                pusher.files("1", {"m.onnx": b"model", "n.onnx": b"another"})
            hosts = {registry.host: _host(folder, username=USER, password=SECRET), server.host: PLAIN}
            yield World(registry, tokens, hosts, server.host)


async def test_a_token_is_fetched_for_reading_one_repository_and_used_again(world: World, opened: Opened) -> None:
    async with opened(world.hosts) as source:
        assert await pulled(source, world.reference) == {"m.onnx": b"model", "n.onnx": b"another"}
    assert [scope for scope, _ in world.tokens.asked] == ["repository:team/m:pull"]


async def test_a_token_that_ends_is_replaced_before_it_does(world: World, tmp_path: Path) -> None:
    settings = RegistrySettings(hosts=world.hosts)
    transport, now_s = HttpTransport(settings), [1000.0]
    docker = DockerCredentials(tmp_path / "none.json")
    access = RegistryAccess(transport, settings, docker, clock=lambda: now_s[0])
    reference = parsed(ModelRef.parse(world.reference))
    world.tokens.lasts_s = 300
    for now_s[0], tokens in ((1000.0, 1), (1289.0, 1), (1291.0, 2), (1500.0, 2)):
        assert (await access.request("GET", reference, "tags/list")).status == 200
        assert len(world.tokens.asked) == tokens
    await transport.close()


async def test_a_registry_that_forgot_its_token_is_asked_with_a_new_one(world: World, opened: Opened) -> None:
    async with opened(world.hosts) as source:
        resolution = await source.resolve(ModelRef.parse(world.reference))
    async with opened(world.hosts) as another:  # knows no token, and begins with reading
        assert await read_file(another, resolution, resolution.files[0]) == b"model"
        assert await read_file(another, resolution, resolution.files[1], 3) == b"ther"
    assert len(world.tokens.asked) == 2


async def test_a_token_that_is_refused_before_its_time_is_replaced_also_between_two_reads(
    tmp_path: Path, opened: Opened
) -> None:
    registry, tokens = LyingRegistry(), [0]
    registry.tag_layers(registry.blob(b"model", "application/octet-stream", **{TITLE: "m.onnx"}))

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        """Only the newest token counts."""
        if asked.target.startswith("/token"):
            tokens[0] += 1
            writer.write(reply(200, json.dumps({"access_token": f"t{tokens[0]}", "expires_in": 3600}).encode()))
        elif asked.headers.get("authorization") != f"Bearer t{tokens[0]}":
            writer.write(reply(401, b"{}", www_authenticate=f'Bearer realm="http://{server.host}/token"'))
        else:
            await registry.behave(asked, writer)

    async with http_server(behave) as server, opened({server.host: _host(tmp_path)}) as source:
        resolution = await source.resolve(ModelRef.parse(f"oci://{server.host}/m:1"))
        for expected in (1, 3):
            assert await read_file(source, resolution, resolution.files[0]) == b"model"
            assert tokens[0] == expected
            tokens[0] += 1  # another one asked


async def test_wrong_secrets_are_told_without_being_shown(world: World, opened: Opened, tmp_path: Path) -> None:
    world.hosts[world.registry.host] = _host(tmp_path, username=USER, password="not-it")
    async with opened(world.hosts) as source:
        with pytest.raises(AccessDenied, match=r"team/m \(401, UNAUTHORIZED: who are you\)") as denied:
            await source.resolve(ModelRef.parse(world.reference))
    assert "not-it" not in str(denied.value)
    assert base64.b64encode(b"ada:not-it").decode() not in str(denied.value)


async def test_a_token_server_that_is_not_allowed_gets_nothing(world: World, opened: Opened) -> None:
    del world.hosts[world.token_host]
    async with opened(world.hosts) as source:
        with pytest.raises(AccessDenied, match="allowed_hosts"):
            await source.resolve(ModelRef.parse(world.reference))
    assert world.tokens.asked == []


async def test_a_token_of_the_operators_is_used_as_it_is(world: World, opened: Opened, tmp_path: Path) -> None:
    world.hosts[world.registry.host] = _host(tmp_path, token=world.tokens.token("team/m", ["pull"]))
    async with opened(world.hosts) as source:
        assert await pulled(source, world.reference) == {"m.onnx": b"model", "n.onnx": b"another"}
    assert world.tokens.asked == []


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ('Bearer realm="http://127.0.0.1:1/token"', "which is not https"),
        ('Bearer realm="file:///etc/passwd"', "which is not https"),
        ('Bearer service="x"', "which is not https"),
        ("Negotiate", "something unknown"),
        ('Digest realm="x", nonce="y"', "it asks for digest"),
        ("", "something unknown"),
    ],
)
async def test_a_challenge_that_cannot_be_answered_safely_is_refused(
    opened: Opened, challenge: str, words: str, authority: Authority
) -> None:
    trusted = Host(ca_bundle=authority.bundle)
    behave = always(reply(401, b"{}", www_authenticate=challenge))
    async with http_server(behave, authority.server()) as server, opened({server.host: trusted}) as source:
        with pytest.raises(AccessDenied, match=words):
            await source.resolve(ModelRef.parse(f"oci://{server.host}/m:1"))


HELPER = """#!/bin/sh
read -r host
case "$1 $host" in
  "get registry.test:5000") echo '{"ServerURL": "x", "Username": "ada", "Secret": "from the helper"}' ;;
  "get azure.test") echo '{"Username": "<token>", "Secret": "identity"}' ;;
  "get broken.test") echo 'no JSON' ;;
  "get failing.test") exit 3 ;;
  *) echo "credentials not found in native keychain"; exit 1 ;;
esac
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DockerCredentials:
    """As a machine has it after `docker login`, with a credential helper on the PATH."""
    program = tmp_path / "bin" / "docker-credential-keychain"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    auth = base64.b64encode(b"grace:old:pass").decode()
    config = {
        "credHelpers": {"evil.test": "../../bin/sh", "missing.test": "is-not-installed"},
        "credsStore": "keychain",
        "auths": {
            "https://old.test/v1/": {"auth": auth},
            "https://index.docker.io/v1/": {"auth": auth},
            "damaged.test": {"auth": "%%%"},
            "acr.test": {"identitytoken": "refresh"},
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return DockerCredentials(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("registry.test:5000", Credentials("ada", "from the helper")),
        ("azure.test", Credentials("00000000-0000-0000-0000-000000000000", "identity")),
        ("acr.test", Credentials("00000000-0000-0000-0000-000000000000", "refresh")),
        ("old.test", Credentials("grace", "old:pass")),
        ("docker.io", Credentials("grace", "old:pass")),
        ("nobody.test", Credentials()),
    ],
)
async def test_docker_credentials_come_from_helpers_and_from_the_file(
    docker: DockerCredentials, host: str, expected: Credentials
) -> None:
    assert await docker.credentials(host) == expected


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("evil.test", "is not the name of a credential helper"),
        ("missing.test", "docker-credential-is-not-installed, which cannot be run"),
        ("broken.test", "something else than a username"),
        ("failing.test", "failed with code 3"),
        ("damaged.test", "is damaged"),
    ],
)
async def test_docker_credentials_that_cannot_be_had_are_an_error(
    docker: DockerCredentials, host: str, words: str
) -> None:
    with pytest.raises(AccessDenied, match=words):
        await docker.credentials(host)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"auths": []}', "[" * 100_000])
async def test_a_docker_configuration_that_is_none_gives_no_credentials(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    found = DockerCredentials(tmp_path / "config.json")
    if content in ("[]", '{"auths": []}'):
        assert await found.credentials("a.test") == Credentials()
    else:
        with pytest.raises(AccessDenied, match="it is not JSON"):
            await found.credentials("a.test")
