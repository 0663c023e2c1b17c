"""The transport against servers that answer, lie, break off, drip and never end: real sockets, nothing patched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from adapters.transport import HttpTransport
from router.domain.errors import ModelUnavailable
from router.models.ports import AccessDenied, SourceLimits, SourceUnavailable
from router.models.settings import FromEnvironment, Host, RegistrySettings, Timeouts
from tests.registries.http_server import Asked, Behaviour, HttpServer, always, file_server, http_server, reply

CONTENT = bytes(range(256)) * 8192  # 2 MiB
PLAIN = Host(is_plain_http=True)
SHORT = Timeouts(connect_s=5, read_s=0.5, request_s=20)


@asynccontextmanager
async def transport(*servers: HttpServer, settings: RegistrySettings | None = None) -> AsyncIterator[HttpTransport]:
    """Allowed to ask the servers, without patience."""
    given = settings or RegistrySettings()
    hosts = {**{server.host: PLAIN for server in servers}, **given.hosts}
    made = HttpTransport(replace(given, hosts=hosts), (0.0, 0.0))
    try:
        yield made
    finally:
        await made.close()


async def fetched(made: HttpTransport, url: str, offset: int = 0, if_range: str = "") -> tuple[int, bytes]:
    async with made.stream(url, offset=offset, if_range=if_range) as download:
        return download.starts_at, b"".join([chunk async for chunk in download.chunks])


async def received(made: HttpTransport, url: str) -> tuple[bytes, str]:
    """What came, and what ended it."""
    came = b""
    try:
        async with made.stream(url) as download:
            async for chunk in download.chunks:
                came += chunk
    except SourceUnavailable as error:
        return came, str(error)
    return came, ""


async def test_a_file_comes_whole_in_large_chunks() -> None:
    async with http_server(file_server(CONTENT * 4)) as server, transport(server) as made:
        async with made.stream(f"{server.url}/m.onnx") as download:
            chunks = [chunk async for chunk in download.chunks]
        assert b"".join(chunks) == CONTENT * 4
        assert max(map(len, chunks)) >= 1024 * 1024
        assert server.asked[0].headers["accept-encoding"] == "identity"


async def test_a_file_goes_on_in_the_middle_while_it_is_the_same_and_begins_anew_when_it_is_not() -> None:
    async with http_server(file_server(CONTENT, '"1"')) as server, transport(server) as made:
        assert await fetched(made, f"{server.url}/m", 1000, '"1"') == (1000, CONTENT[1000:])
        assert await fetched(made, f"{server.url}/m", 1000, '"0"') == (0, CONTENT)


async def test_a_server_without_ranges_is_told_apart_by_where_it_begins() -> None:
    async with http_server(always(reply(200, b"abc"))) as server, transport(server) as made:
        assert await fetched(made, f"{server.url}/m", 2) == (0, b"abc")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (reply(206, b"abc", content_range="bytes 0-2/9"), SourceUnavailable, "asked for bytes from 5 on, and sent"),
        (reply(206, b"abc"), SourceUnavailable, "sent 'nothing'"),
        (reply(206, b"abc", content_range="bytes 5-x/9"), SourceUnavailable, "asked for bytes from 5 on"),
        (reply(416), SourceUnavailable, "another file by now"),
        (reply(412), SourceUnavailable, "another file by now"),
        (reply(200, b"abc", content_encoding="gzip"), ModelUnavailable, "comes compressed (gzip)"),
        (reply(200, b"<html>", content_type="text/html; charset=utf-8"), ModelUnavailable, "login page"),
        (reply(401), AccessDenied, "does not know who asks (401); check username and password, or token, of hosts."),
        (reply(403), AccessDenied, "does not allow this (403)"),
        (reply(404), ModelUnavailable, "there is no such file (404)"),
        (reply(418), ModelUnavailable, "status 418 instead of the file"),
        (reply(429, retry_after="3600"), SourceUnavailable, "too many requests (429): try again in 3600 s"),
        (reply(500), SourceUnavailable, "the server has trouble (500): try again later"),
        (reply(204), ModelUnavailable, "status 204 instead"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", SourceUnavailable, "broke off in the middle"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc", SourceUnavailable, "broke off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", SourceUnavailable, "does not speak HTTP"),
        (b"", SourceUnavailable, "broke off"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, SourceUnavailable, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc", SourceUnavailable, "HTTP"),
    ],
)
async def test_every_answer_that_is_no_file_has_its_own_words(
    answer: bytes, error: type[Exception], words: str
) -> None:
    async with http_server(always(answer)) as server, transport(server) as made:
        with pytest.raises(error) as caught:
            await fetched(made, f"{server.url}/m.onnx?signature=abc", 5)
        assert words in str(caught.value)
        assert server.host in str(caught.value)
        assert "signature" not in str(caught.value)


async def test_what_came_before_the_link_broke_is_handed_on() -> None:
    cut = b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n" + CONTENT + b"the last bytes"
    async with http_server(always(cut)) as server, transport(server) as made:
        came, trouble = await received(made, f"{server.url}/m.onnx")
    assert came == CONTENT + b"the last bytes"
    assert "broke off in the middle" in trouble


async def test_a_web_page_is_a_file_where_one_was_asked_for() -> None:
    page = reply(200, b"<html>", content_type="text/html")
    async with http_server(always(page)) as server, transport(server) as made:
        assert (await fetched(made, f"{server.url}/model/card.html"))[1] == b"<html>"


async def test_passing_trouble_is_waited_for_as_long_as_the_server_asks() -> None:
    answers = always(reply(429, retry_after="0"), reply(503), reply(200, b"abc"))
    async with http_server(answers) as server, transport(server) as made:
        assert (await made.request("GET", f"{server.url}/m")).body == b"abc"
        assert len(server.asked) == 3


async def test_a_server_that_asks_for_a_long_pause_is_not_asked_again() -> None:
    async with http_server(always(reply(429, retry_after="3600"))) as server, transport(server) as made:
        answered = await made.request("GET", f"{server.url}/m")
        assert (answered.status, answered.headers["retry-after"], len(server.asked)) == (429, "3600", 1)


async def test_patience_ends_and_the_last_answer_is_given() -> None:
    async with http_server(always(reply(500, b"no"))) as server, transport(server) as made:
        assert (await made.request("GET", f"{server.url}/m")).status == 500
        assert len(server.asked) == 3


async def test_what_may_have_been_done_is_not_asked_for_twice() -> None:
    async with http_server(always(reply(500), b"")) as server, transport(server) as made:
        assert (await made.request("POST", f"{server.url}/m", content={"a": 1})).status == 500
        with pytest.raises(SourceUnavailable):
            await made.request("POST", f"{server.url}/m", content={})
        assert [asked.body for asked in server.asked] == [b'{"a": 1}', b"{}"]


async def test_a_broken_connection_is_made_again() -> None:
    async with http_server(always(b"", reply(200, b"abc"))) as server, transport(server) as made:
        assert (await made.request("GET", f"{server.url}/m")).body == b"abc"


async def test_an_answer_that_should_be_json_and_is_a_login_page_says_so() -> None:
    page = reply(200, b"<html>Please sign in", content_type="text/html")
    async with http_server(always(page)) as server, transport(server) as made:
        answered = await made.request("GET", f"{server.url}/api?token=abc")
        with pytest.raises(
            ModelUnavailable, match=r"/api: answered 200 with 'text/html' instead of JSON; .*login page"
        ):
            answered.json()


async def test_a_large_answer_is_cut_off() -> None:
    async with http_server(always(reply(200, CONTENT))) as server, transport(server) as made:
        with pytest.raises(ModelUnavailable, match="answers with more than 1000 bytes"):
            await made.request("GET", f"{server.url}/m", max_bytes=1000)


async def endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(CONTENT)
        await writer.drain()


async def test_a_body_without_end_is_cut_off_at_the_largest_model() -> None:
    settings = RegistrySettings(limits=SourceLimits(max_bytes=10 * 1024 * 1024))
    async with http_server(endless) as server, transport(server, settings=settings) as made:
        with pytest.raises(ModelUnavailable, match=r"larger than limits\.max_size"):
            await fetched(made, f"{server.url}/m")


def dripping(head: bytes) -> Behaviour:
    async def drip(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    return drip


async def test_a_file_that_only_drips_is_given_up() -> None:
    settings = RegistrySettings(timeouts=SHORT)
    async with (
        http_server(dripping(b"HTTP/1.1 200 OK\r\n\r\n")) as server,
        transport(server, settings=settings) as made,
    ):
        with pytest.raises(SourceUnavailable, match=r"too slow to wait for \(timeouts\.read|silent for"):
            await fetched(made, f"{server.url}/m")


async def test_headers_that_only_drip_are_given_up() -> None:
    settings = RegistrySettings(timeouts=replace(SHORT, request_s=0.5))
    async with http_server(dripping(b"HTTP/1.1 200 OK\r\nx: ")) as server, transport(server, settings=settings) as made:
        with pytest.raises(SourceUnavailable, match=r"no whole answer within 0\.5 s"):
            await fetched(made, f"{server.url}/m")
        with pytest.raises(SourceUnavailable, match=r"no whole answer within 0\.5 s"):
            await made.request("GET", f"{server.url}/m")


async def silent(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def test_silence_is_given_up() -> None:
    settings = RegistrySettings(timeouts=SHORT)
    async with http_server(silent) as server, transport(server, settings=settings) as made:
        with pytest.raises(SourceUnavailable, match=r"silent for 0\.5 s: try again later"):
            await fetched(made, f"{server.url}/m")


async def test_a_redirect_is_followed_to_an_allowed_host_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "tok3n")
    signed_in = Host(token=FromEnvironment("SECRET_TOKEN"), is_plain_http=True)
    async with http_server(file_server(CONTENT)) as store:
        there = always(reply(302, location=f"{store.url}/blob?signature=1"))
        async with http_server(there) as server:
            settings = RegistrySettings(hosts={server.host: signed_in, store.host: signed_in})
            async with (
                transport(settings=settings) as made,
                made.stream(f"{server.url}/m", offset=7, headers={"X-Key": "k3y"}) as download,
            ):
                assert download.starts_at == 7
                assert b"".join([chunk async for chunk in download.chunks]) == CONTENT[7:]
            assert server.asked[0].headers["authorization"] == "Bearer tok3n"
            assert server.asked[0].headers["x-key"] == "k3y"
            assert {"authorization", "x-key"}.isdisjoint(store.asked[0].headers)
            assert store.asked[0].headers["range"] == "bytes=7-"


async def test_a_redirect_on_the_same_host_keeps_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "tok3n")
    async with http_server(always(reply(307, location="/new?page=2"), reply(200, b"{}"))) as server:
        settings = RegistrySettings(
            hosts={server.host: Host(token=FromEnvironment("SECRET_TOKEN"), is_plain_http=True)}
        )
        async with transport(settings=settings) as made:
            answered = await made.request("GET", f"{server.url}/old")
    assert answered.url == f"{server.url}/new"
    assert [(asked.target, asked.headers["authorization"]) for asked in server.asked] == [
        ("/old", "Bearer tok3n"),
        ("/new?page=2", "Bearer tok3n"),
    ]


@pytest.mark.parametrize(
    ("location", "error", "words"),
    [
        ("/again", ModelUnavailable, "redirects more than 5 times"),
        ("https://evil.example/m?signature=abc", AccessDenied, "evil.example: no model may be fetched from there; add"),
        ("http://169.254.169.254/latest/meta-data", AccessDenied, "169.254.169.254: no model may be fetched"),
        ("file:///etc/passwd", ModelUnavailable, "is not an http or https URL"),
        ("https://ann:pw@127.0.0.1/m", ModelUnavailable, "a user or a password"),
        ("http://a:b/", ModelUnavailable, "no URL"),
    ],
)
async def test_a_redirect_that_leads_astray_is_not_followed(location: str, error: type[Exception], words: str) -> None:
    async with http_server(always(reply(302, location=location))) as server, transport(server) as made:
        with pytest.raises(error) as caught:
            await fetched(made, f"{server.url}/m")
        assert words in str(caught.value)
        assert not {"pw", "signature"} & set(str(caught.value).replace(":", " ").replace("?", " ").split())


async def test_a_redirected_question_with_content_is_refused() -> None:
    async with http_server(always(reply(307, location="/new"))) as server, transport(server) as made:
        with pytest.raises(ModelUnavailable, match="redirects a POST to"):
            await made.request("POST", f"{server.url}/old", content={})


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("https://example.com/m", AccessDenied, "example.com: no model may be fetched from there; add example.com to"),
        ("http://huggingface.co/m", AccessDenied, "huggingface.co: asking without TLS is not allowed; use https, or"),
        ("ftp://huggingface.co/m", ModelUnavailable, "is not an http or https URL"),
        ("https://huggingface.co@evil.example/m", ModelUnavailable, "a user or a password"),
        ("https://huggingface.co:8443/m", AccessDenied, "huggingface.co:8443: no model may be fetched from there"),
        ("https://huggingface.co:x/m", ModelUnavailable, "cannot be read"),
        ("https://a\0b/m", ModelUnavailable, "cannot be read"),
    ],
)
async def test_what_may_not_be_asked_is_refused_before_anything_is_sent(
    url: str, error: type[Exception], words: str
) -> None:
    async with transport() as made:
        with pytest.raises(error) as caught:
            await made.request("GET", url)
        assert words in str(caught.value)


async def test_a_port_where_nobody_listens_and_a_name_that_nobody_has() -> None:
    settings = RegistrySettings(hosts={"127.0.0.1:1": PLAIN, "no-such-host.invalid": PLAIN})
    async with transport(settings=settings) as made:
        with pytest.raises(SourceUnavailable, match="refuses connections: is it running, and is the port right"):
            await made.request("GET", "http://127.0.0.1:1/")
        with pytest.raises(SourceUnavailable, match=r"its name cannot be resolved|no connection within"):
            await made.request("GET", "https://no-such-host.invalid/")


async def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with http_server(file_server(CONTENT)) as server, transport(server) as made:
        assert await fetched(made, f"{server.url}/m") == (0, CONTENT)
