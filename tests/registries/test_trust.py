"""Certificates and secrets: who is trusted, what this machine shows, and that secrets are shown to nobody else."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import ssl
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from adapters.transport import HttpTransport
from adapters.transport.failures import Way, translated
from router.models.ports import AccessDenied, Credentials, SourceUnavailable
from router.models.settings import FromCommand, FromEnvironment, FromFile, Host, RegistrySettings, SecretPlace, Timeouts
from tests.registries.certificates import Authority
from tests.registries.http_server import Asked, HttpServer, always, http_server, reply

OK = always(reply(200, b"ok"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def transport(server: HttpServer, host: Host, ca_bundle: str = "") -> AsyncIterator[HttpTransport]:
    made = HttpTransport(RegistrySettings(hosts={server.host: host}, ca_bundle=ca_bundle), ())
    try:
        yield made
    finally:
        await made.close()


async def failure(server: HttpServer, host: Host, ca_bundle: str = "") -> str:
    async with transport(server, host, ca_bundle) as made:
        with pytest.raises(SourceUnavailable) as caught:
            await made.request("GET", f"https://{server.host}/m")
    return str(caught.value)


async def test_an_authority_of_the_operators_own_is_trusted_for_all_or_for_one_host(authority: Authority) -> None:
    async with http_server(OK, authority.server()) as server:
        for host, bundle in ((Host(), authority.bundle), (Host(ca_bundle=authority.bundle), "")):
            async with transport(server, host, bundle) as made:
                assert (await made.request("GET", f"{server.url}/m")).body == b"ok"


async def test_a_certificate_by_nobody_known_says_where_to_name_the_authority(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    async with http_server(OK, authority.server()) as server:
        for host, bundle in ((Host(), ""), (Host(), other.bundle), (Host(ca_bundle=other.bundle), authority.bundle)):
            message = await failure(server, host, bundle)
            assert "its certificate is not trusted" in message
            assert f"name the authority in hosts.{server.host}.ca_bundle, or in ca_bundle" in message


async def test_an_expired_certificate_says_so(authority: Authority) -> None:
    async with http_server(OK, authority.server(days_left=-1)) as server:
        assert "its certificate has expired: have it renewed there" in await failure(server, Host(), authority.bundle)


async def test_a_certificate_for_another_name_says_so(authority: Authority) -> None:
    async with http_server(OK, authority.server("127.0.0.2")) as server:
        assert "its certificate is for another name" in await failure(server, Host(), authority.bundle)


async def test_a_server_that_speaks_no_tls_says_so(authority: Authority) -> None:
    async with http_server(OK) as server:
        message = await failure(server, Host(), authority.bundle)
        assert f"check the port, or allow hosts.{server.host}.plain_http" in message


async def test_a_server_that_wants_to_see_a_certificate_gets_it(authority: Authority) -> None:
    async with http_server(OK, authority.server(asks_for_clients=True)) as server:
        assert server.host in await failure(server, Host(), authority.bundle)
        certificate, key = authority.issued()
        async with transport(server, Host(client_certificate=certificate, client_key=key), authority.bundle) as made:
            assert (await made.request("GET", f"{server.url}/m")).body == b"ok"


def test_a_name_that_cannot_be_resolved_is_the_hosts_or_the_proxys() -> None:
    for proxy, words in (
        ("", "a.internal: its name"),
        ("http://p:1", r"\(through the proxy http://p:1\): the proxy's name"),
    ):
        with (
            pytest.raises(
                SourceUnavailable, match=f"{words} cannot be resolved: check the spelling, and this machine's"
            ),
            translated(Way("a.internal", proxy), Timeouts()),
        ):
            raise httpx.ConnectError("") from socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_a_server_that_says_that_it_wants_a_certificate_is_understood() -> None:
    refusal = ssl.SSLError(1, "[SSL] tlsv13 alert certificate required")
    refusal.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    with (
        pytest.raises(SourceUnavailable, match=r"give hosts\.a\.internal\.client_certificate and client_key"),
        translated(Way("a.internal", ""), Timeouts()),
    ):
        raise httpx.ReadError("") from refusal


async def test_a_redirect_from_tls_to_plain_http_is_not_followed(authority: Authority) -> None:
    async with (
        http_server(OK) as plain,
        http_server(always(reply(301, location=plain.url)), authority.server()) as server,
    ):
        hosts = {server.host: Host(), plain.host: Host(is_plain_http=True)}
        made = HttpTransport(RegistrySettings(hosts=hosts, ca_bundle=authority.bundle), ())
        with pytest.raises(AccessDenied, match=r"redirects from https to http://.*, which is not followed"):
            await made.request("GET", f"{server.url}/m")
        await made.close()
        assert plain.asked == []


async def test_files_that_are_no_certificates_are_named(authority: Authority, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nothing")
    async with http_server(OK, authority.server()) as server:
        assert f"{nonsense}: holds no certificates (PEM)" in await failure(server, Host(), str(nonsense))
        assert "No such file" in await failure(server, Host(), str(tmp_path / "missing.pem"))
        message = await failure(server, Host(client_certificate=str(nonsense)), authority.bundle)
        assert f"{nonsense}: is not a certificate with its key (PEM)" in message


async def test_an_authority_that_is_replaced_on_disk_is_trusted_from_then_on(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    bundle = tmp_path / "bundle.pem"
    shutil.copyfile(Authority(tmp_path / "other").bundle, bundle)
    async with http_server(OK, authority.server()) as server, transport(server, Host(), str(bundle)) as made:
        with pytest.raises(SourceUnavailable, match="not trusted"):
            await made.request("GET", f"{server.url}/m")
        shutil.copyfile(authority.bundle, bundle)
        os.utime(bundle, ns=(1, 1))
        assert (await made.request("GET", f"{server.url}/m")).body == b"ok"


def printing(words: str, log: Path) -> FromCommand:
    """A program that prints, and leaves a line in a log each time."""
    code = f"open({str(log)!r}, 'a').write('.'); print({words!r})"
    return FromCommand((sys.executable, "-S", "-c", code))


async def test_secrets_are_read_when_they_are_needed_from_where_the_operator_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REGISTRY_USER", "ann")
    file = tmp_path / "password"
    file.write_text("first\n")
    host = Host(username=FromEnvironment("REGISTRY_USER"), password=FromFile(str(file)))
    command = Host(token=printing("t0ken", tmp_path / "log"))
    made = HttpTransport(RegistrySettings(hosts={"a.internal": host, "b.internal": command}), ())
    assert await made.credentials("a.internal") == Credentials("ann", "first")
    file.write_text("second, longer\n")
    assert await made.credentials("a.internal") == Credentials("ann", "second, longer")
    both = await asyncio.gather(made.credentials("b.internal"), made.credentials("b.internal"))
    assert both == [Credentials(token="t0ken")] * 2
    assert (tmp_path / "log").read_text() == "."
    assert await made.credentials("c.internal") == Credentials()
    await made.close()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (FromEnvironment("NO_SUCH_VARIABLE"), "its token is empty in the environment variable NO_SUCH_VARIABLE"),
        (FromFile("/no/such/file"), "its token cannot be had from /no/such/file: No such file or directory"),
        (FromFile("/dev/zero"), "it is larger than a secret should be"),
        (FromCommand(("/no/such/program",)), "cannot be had from the command /no/such/program: No such file"),
        (FromCommand(("/bin/sh", "-c", "echo s3cret; exit 3")), "from the command /bin/sh: it ended with 3"),
        (FromCommand(("/bin/sh", "-c", "echo s3cret; echo line")), "is not one line of plain characters"),
        (FromCommand(("/usr/bin/yes", "s3cret")), "it prints more than a secret should be"),
        (FromCommand(("/bin/true",)), "its token is empty in the command /bin/true: put the secret there"),
    ],
)
async def test_a_secret_that_cannot_be_had_says_where_it_was_looked_for(place: SecretPlace, words: str) -> None:
    made = HttpTransport(RegistrySettings(hosts={"a.internal": Host(token=place)}), ())
    with pytest.raises(AccessDenied) as caught:
        await made.credentials("a.internal")
    await made.close()
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_secret_that_is_everywhere_shows_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a server does with what it gets: repeat it in bodies and locations, refuse it, break off."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("THE_SECRET", "hunter2")
    shown: list[str] = []

    async def repeating(asked: Asked, writer: asyncio.StreamWriter) -> None:
        """Answers with the status that the path names."""
        told = asked.headers["authorization"].encode()
        kind = {"content_type": "text/html", "location": "https://evil.example/?key=hunter2"}
        writer.write(reply(int(asked.target[1:4]), b"<html>hunter2 " + told, **kind))
        if asked.target.startswith("/200"):
            writer.write(b"hunter2")

    async with http_server(repeating) as server:
        for host in (
            Host(token=FromEnvironment("THE_SECRET"), is_plain_http=True),
            Host(username=FromEnvironment("THE_SECRET"), password=FromEnvironment("THE_SECRET"), is_plain_http=True),
        ):
            async with transport(server, host) as made:
                shown += [repr(await made.credentials(server.host)), repr(made)]
                for status in (200, 302, 401, 403, 404, 407, 418, 429, 500):
                    url = f"{server.url}/{status}?key=hunter2"
                    for ask in (asked_json, fetched):
                        try:
                            await ask(made, url)
                        except Exception as error:
                            shown += [repr(error), "".join(traceback.format_exception(error))]
    assert len(shown) > 30
    assert len(server.asked) == 36
    basic = "aHVudGVyMjpodW50ZXIy"  # hunter2:hunter2 in base64
    for text in (*shown, caplog.text):
        assert "hunter2" not in text
        assert basic not in text


async def asked_json(made: HttpTransport, url: str) -> None:
    (await made.request("GET", url)).json()


async def fetched(made: HttpTransport, url: str) -> None:
    async with made.stream(url) as download:
        async for _ in download.chunks:
            pass
