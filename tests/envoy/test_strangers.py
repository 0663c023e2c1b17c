"""Strangers before protected endpoints, in a real Envoy: no path, method, encoding or protocol leads past the check.

The same matrix for every way to protect an endpoint: keys, certificates and tokens. What counts is that the replica
sees nothing; that the answer is a refusal is checked wherever the request is one that has an answer.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2

from adapters.key_sets import parsed_key_set
from router.domain.callers import Access, CertificateHolders, KeyHolders, KeySlot, TokenHolders
from router.domain.tls import ListenerTls
from router.domain.tokens import Claim, KeySetFile, TokenRules
from router.keys import hashed, new_key
from serving.listener import Listener
from serving.protocol import server_handler
from serving.server_view import IndexEntry, ServerView
from tests.certificates import TestCa
from tests.envoy.data_plane import DataPlane, data_plane, upstream
from tests.envoy.replica import Replica
from tests.envoy.waiting import eventually
from tests.envoy.wire import Answer, Wire, http2_request, request, statuses
from tests.identity import AUDIENCE, ISSUER, Provider, SigningKey, key_set

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICE = "inference.GRPCInferenceService"
INFER = "/v2/models/locked/infer"
Headers = Mapping[str, str]


@dataclass(frozen=True)
class Stranger:
    """Somebody with no credential, or with one that does not open the endpoint `locked`."""

    headers: Headers
    shown: ssl.SSLContext | None = None


@dataclass(frozen=True)
class Guarded:
    """An Envoy before the endpoints `locked`, `others` (protected alike, for others) and `open`."""

    plane: DataPlane
    locked: Replica
    opened: Replica
    strangers: tuple[Stranger, ...]
    friend: Stranger  # who may

    def wire(self, who: Stranger) -> Wire:
        return Wire(self.plane.gateway.http_port, who.shown)

    async def check_nobody_came(self) -> None:
        """The replica has seen nobody, and answers its friend. Who is allowed in elsewhere came by the front door."""
        assert [(seen.path, dict(seen.headers)) for seen in self.locked.requests] == []
        assert [seen.path for seen in self.opened.requests if not seen.path.startswith(b"/v2/models/open")] == []
        wire = self.wire(self.friend)
        assert (await wire.ask(request("POST", INFER, self.friend.headers))).status == 200
        await wire.close()
        assert len(self.locked.requests) == 1
        self.locked.requests.clear()


KEY, REVOKED, OTHERS_KEY = new_key(), new_key(), new_key()
PROVIDER = Provider()
RULES = TokenRules(ISSUER, KeySetFile("/keys.json"), (AUDIENCE,), (Claim(("team",), ("fraud",)),))
TOKENS = TokenHolders(RULES, parsed_key_set("keys.json", key_set(PROVIDER.key).encode()).content)


def bearer(credential: str) -> Headers:
    return {"authorization": f"Bearer {credential}"}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["key", "mtls", "jwt"])
async def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    match request.param:
        case "key":
            async with _plane() as plane:
                wrong = ({}, {"x-api-key": new_key()}, {"x-api-key": REVOKED}, bearer(OTHERS_KEY), {"x-api-key": "x"})
                strangers = tuple(Stranger(headers) for headers in wrong)
                mine, theirs = (KeyHolders(((KeySlot.PRIMARY, hashed(key)),)) for key in (KEY, OTHERS_KEY))
                await plane.endpoint(
                    "locked", upstream("blue"), access=KeyHolders(((KeySlot.PRIMARY, hashed(REVOKED)),))
                )
                yield await _before(plane, mine, theirs, strangers, Stranger({"x-api-key": KEY}))
        case "jwt":
            async with _plane() as plane:
                forged = Provider(SigningKey("k1"))
                wrong = (
                    {},
                    bearer(forged.token()),
                    bearer(PROVIDER.token(exp=1)),
                    bearer(PROVIDER.token(aud="others")),
                    bearer(PROVIDER.token(team="risk")),
                )
                strangers = tuple(Stranger(headers) for headers in wrong)
                theirs = replace(TOKENS, rules=replace(RULES, audiences=("others",)))
                yield await _before(plane, TOKENS, theirs, strangers, Stranger(bearer(PROVIDER.token())))
        case "mtls":
            ca = TestCa.in_folder(tmp_path_factory.mktemp("strangers"))
            tls = ListenerTls((ca.server("server"),), str(ca.file))
            async with _plane(tls, ca.file) as plane:
                nobody, other, friend = (
                    ca.trusting(ca.client(name, [name]) if name else None) for name in ("", "other.app", "app")
                )
                told = {"x-forwarded-client-cert": 'Hash=00;DNS=app;Subject="CN=app"'}
                strangers = (Stranger({}, nobody), Stranger({}, other), Stranger(told, other))
                mine, theirs = CertificateHolders(("app",)), CertificateHolders(("other.app",))
                yield await _before(plane, mine, theirs, strangers, Stranger({}, friend))


@asynccontextmanager
async def _plane(tls: ListenerTls | None = None, authority: Path | None = None) -> AsyncIterator[DataPlane]:
    """With the real control plane's answers to calls about the whole server."""
    async with data_plane(tls=tls, authority=authority) as plane:
        await plane.server.kill()
        view = ServerView("1", True, (IndexEntry("open", "1", "READY"),))  # router/server_state.py lists open ones only
        listener = Listener(server_handler(lambda: view), token=b"", max_body_bytes=1024 * 1024)
        await listener.open_unix(plane.gateway.server_socket)
        await eventually(lambda: _is_live(plane))
        yield plane
        await listener.close(grace_s=0)


async def _is_live(plane: DataPlane) -> bool:
    return (await plane.http.get("/v2/health/live")).status_code == 200


async def _before(
    plane: DataPlane, mine: Access, theirs: Access, strangers: tuple[Stranger, ...], friend: Stranger
) -> Guarded:
    locked, others, opened = [await plane.replica(name) for name in ("locked", "others", "open")]
    await plane.endpoint("locked", upstream("blue", locked), access=mine)
    await plane.endpoint("others", upstream("blue", others), access=theirs)
    await plane.endpoint("open", upstream("blue", opened))
    made = Guarded(plane, locked, opened, strangers, friend)
    locked.requests.clear()
    await made.check_nobody_came()
    return made


async def test_a_friend_is_let_in_by_the_same_bytes(guarded: Guarded) -> None:
    """So that what is refused below is refused for who sends it."""
    wire, headers = guarded.wire(guarded.friend), [*guarded.friend.headers.items()]
    await wire.send_and_listen(http2_request(http2(*headers)))
    await wire.send_and_listen(http2_request(http2(*headers), trailers=TRAILERS))
    calling = [*headers, ("content-type", "application/grpc"), ("te", "trailers")]
    answers = [await wire.ask(request("POST", f"/{SERVICE}/ModelInfer", calling, frame(infer("locked"))))]
    answers += [await wire.ask(request("POST", target, headers)) for target in (INFER, "/endpoints/locked/score")]
    await wire.close()
    assert [answer.status for answer in answers] == [200] * 3
    assert len(guarded.locked.requests) == 5
    guarded.locked.requests.clear()


# -- every path of the protocol, and every other spelling of it

ROUTES = [
    *(f"/v2/models/locked{rest}" for rest in ("", "/", "/infer", "/ready", "/config", "/stats", "/trace/setting")),
    *(f"/v2/models/locked/versions/{rest}" for rest in ("1", "1/infer", "1/ready", "1/config", "1/stats", "9/infer")),
    *(f"/v2/models/locked/{rest}" for rest in ("generate", "generate_stream", "versions", "ModelInfer", "ModelReady")),
    *(f"/v2/models/locked/versions/1/{rest}" for rest in ("ModelInfer", "ModelStreamInfer", "generate")),
    "/endpoints/locked/score",
    f"/{SERVICE}/ModelInfer",
    f"/{SERVICE}/ModelStreamInfer",
]
SPELLINGS = [
    *(f"{INFER}{rest}" for rest in ("?x=1", "?x-api-key=a", "?access_token=a", "#part", "/", ".", "%20", "%3f", "/.")),
    *(f"/v2/models/locked{rest}/infer" for rest in ("/", "/.", "/x/..", ";a=b", ".", "%2e", "%20", "%00", "+", "%09")),
    *(f"/v2/models/{name}/infer" for name in ("Locked", "LOCKED", "%6c%6f%63%6b%65%64", "open/../locked", "locked%2f")),
    *(f"/v2/models/open/%2e%2e/locked{rest}" for rest in ("/infer", "/%2e/infer", "/x/%2E%2e/infer")),
    *("/" * number + "v2/models/locked/infer" for number in (2, 3)),
    *("/v2//models//locked//infer", "/./v2/models/locked/./infer", "/v2/./models/x/../locked/infer"),
    *("/%76%32/models/locked/infer", "/v2%2fmodels%2flocked%2finfer", "/v2/models%2flocked/infer"),
    *(
        "/v2\\models\\locked\\infer",
        "/v2/models/locked%5cinfer",
        "\\v2/models/locked/infer",
        "/v2/models/locked\\infer",
    ),
    *("/V2/models/locked/infer", "/v2/Models/locked/infer", "/v2/models/locked/INFER", "/v2/models/locked/%69nfer"),
    *(
        "/x/models/locked/infer",
        "/-/models/locked/infer",
        "/-/server/-/v2/models/locked/infer",
        "/v3/models/locked/infer",
    ),
    *("/endpoints/locked/score?x=1", "/endpoints//locked/score", "/endpoints/open/../locked/score"),
    *(
        "/endpoints/locked%2f../score",
        "/endpoints/locked/score/",
        "/endpoints/%6cocked/score",
        "/Endpoints/locked/score",
    ),
    *(f"/{SERVICE}//ModelInfer", f"/{SERVICE}/ModelInfer/", f"/{SERVICE}/ModelInfer?x", f"//{SERVICE}/ModelInfer"),
    *("http://a/v2/models/locked/infer", "HTTP://locked/v2/models/locked/infer", "http://user:word@a/v2/models/locked"),
    *("https://a/v2/models/locked/infer", "//a/v2/models/locked/infer", "http://a//v2/models/locked/infer"),
    *("*", "/", "locked", "v2/models/locked/infer", "a:80", "?", "/%"),
]
METHODS = ["POST", "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"]


async def test_no_path_and_no_method_leads_in(guarded: Guarded) -> None:
    for stranger in guarded.strangers:
        wire = guarded.wire(stranger)
        for target, method in product([*ROUTES, *SPELLINGS], METHODS):
            answer = await _asked(wire, request(method, target, stranger.headers))
            assert answer is None or answer.is_refusal, (method, target, stranger.headers, answer)
        await wire.close()
    await guarded.check_nobody_came()


async def _asked(wire: Wire, sent: bytes) -> Answer | None:
    """None: the connection was ended without an answer, which lets in nobody either."""
    try:
        return await wire.ask(sent)
    except ConnectionError:
        return None


async def test_every_path_of_the_protocol_says_what_is_missing(guarded: Guarded) -> None:
    """A path that belongs to the endpoint is refused for the credential and for nothing else."""
    answers = set()
    for stranger in guarded.strangers:
        wire = guarded.wire(stranger)
        for target in ("", "/infer", "/ready", "/config", "/stats", "/versions/1", "/versions/1/infer", "/versions/9"):
            answers.add((await wire.ask(request("POST", f"/v2/models/locked{target}", stranger.headers))).status)
        await wire.close()
    assert answers <= {401, 403}


# -- headers

FORGED: list[list[tuple[str, str]]] = [
    [("x-crossfade-admitted", "locked/primary")],
    [("X-Crossfade-Admitted", "locked/primary"), ("x-crossfade-admitted", "locked/secondary")],
    [("x_crossfade_admitted", "locked/primary"), ("x-crossfade_admitted", "locked/primary")],
    [("x-crossfade-gateway", "the-gateway-token")],
    [("x-crossfade-original-path", INFER)],
    [("x-crossfade-original-path", "/endpoints/locked/score"), ("x-crossfade-admitted", "locked/primary")],
    [("x-crossfade-model", "locked"), ("content-type", "application/grpc")],
    [("x-crossfade-mirrored", "1"), ("x-crossfade-deployment", "blue")],
    [("x-crossfade-stream", "1"), ("x-crossfade-upstream", "locked/blue"), ("x-crossfade-routed-path", INFER)],
    [("x-crossfade-deployment", "blue")],
    [("azureml-model-deployment", "blue")],
    [("x-crossfade-no-retry", "1"), ("x-crossfade-retry", "1")],
    [("x-original-url", INFER), ("x-rewrite-url", INFER), ("x-forwarded-path", INFER), ("x-forwarded-uri", INFER)],
    [("x-envoy-original-path", "/v2/models/open/infer"), ("x-envoy-original-url", "/v2/models/open/infer")],
    [("x-envoy-internal", "true"), ("x-forwarded-for", "127.0.0.1"), ("x-real-ip", "127.0.0.1")],
    [("x-envoy-external-address", "127.0.0.1"), ("x-envoy-decorator-operation", "open")],
    [("x-envoy-upstream-alt-stat-name", "a"), ("x-envoy-max-retries", "9"), ("x-envoy-retry-on", "5xx,401")],
    [("x-envoy-hedge-on-per-try-timeout", "true"), ("x-envoy-upstream-rq-timeout-ms", "0")],
    [("x-envoy-ip-tags", "internal"), ("x-envoy-force-trace", "true"), ("x-client-trace-id", "a")],
    [("x-http-method-override", "OPTIONS"), ("x-method-override", "GET"), ("x-http-method", "HEAD")],
    [("x-forwarded-host", "open"), ("x-host", "open"), ("forwarded", "for=127.0.0.1;host=open;proto=https")],
    [("x-forwarded-client-cert", "By=a;URI=app;DNS=app"), ("ssl-client-verify", "SUCCESS"), ("x-ssl-cert", "app")],
    [("x-forwarded-proto", "https"), ("x-forwarded-port", "443"), ("front-end-https", "on")],
    [("host", "open"), ("host", "locked")],
    [("connection", "authorization, x-api-key, x-crossfade-admitted")],
    [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")],
    [("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA")],
    [("connection", "upgrade"), ("upgrade", "tls/1.3, h2c, websocket")],
    [("origin", "http://a"), ("access-control-request-method", "POST")],
    [("te", "trailers"), ("trailer", "authorization, x-api-key")],
    [("expect", "100-continue")],
    [("content-type", "application/grpc")],
    [("content-type", "application/grpc-web+proto"), ("x-grpc-web", "1")],
    [("content-type", "application/grpc"), ("grpc-encoding", "gzip")],
    [("authorization", "Basic bG9ja2VkOg=="), ("proxy-authorization", "Bearer x"), ("cookie", "x-api-key=x")],
    [("authorization", "Bearer x"), ("authorization", "Bearer y"), ("x-api-key", "x"), ("x-api-key", "y")],
    [("authorization", "Negotiate x"), ("x-api-key", "' or 1=1 --")],
]
ASKED = ["/v2/models/locked/infer", "/v2/models/locked/infer?x=1", "/endpoints/locked/score", f"/{SERVICE}/ModelInfer"]


async def test_no_header_leads_in(guarded: Guarded) -> None:
    for stranger in guarded.strangers:
        wire = guarded.wire(stranger)
        for forged, target, method in product(FORGED, ASKED, ("POST", "OPTIONS", "GET")):
            answer = await _asked(wire, request(method, target, [*stranger.headers.items(), *forged]))
            while answer is not None and answer.status == 100:
                answer = await _asked(wire, b"")
            assert answer is None or answer.is_refusal, (method, target, forged, answer)
        await wire.close()
    await guarded.check_nobody_came()


# -- messages that two servers could read differently

HEAD = b"POST /v2/models/locked/infer HTTP/1.1\r\nhost: a\r\n"
OPEN = b"POST /v2/models/open/infer HTTP/1.1\r\nhost: a\r\n"
SECOND = HEAD + b"content-length: 2\r\n\r\n{}"
LENGTH = b"content-length: %d\r\n" % len(SECOND)
SMUGGLED = [
    OPEN + b"content-length: 2\r\ncontent-length: 60\r\n\r\n{}" + SECOND,
    OPEN + b"content-length: 2, 60\r\n\r\n{}" + SECOND,
    OPEN + b"content-length: +2\r\n\r\n{}" + SECOND,
    OPEN + b"content-length: 0x2\r\n\r\n{}" + SECOND,
    OPEN + b"content-length : 2\r\n\r\n{}" + SECOND,
    OPEN + b"content-length: 2\r\n\r\n{}" + SECOND,
    OPEN + b"content-length:\t2\r\n\r\n{}" + SECOND,
    OPEN + LENGTH + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
    OPEN + b"transfer-encoding: chunked\r\n" + LENGTH + b"\r\n0\r\n\r\n" + SECOND,
    OPEN + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + SECOND,
    OPEN + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SECOND,
    OPEN + b"transfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n" + SECOND,
    OPEN + b"transfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n" + SECOND,
    OPEN + b"transfer-encoding:\x0bchunked\r\n" + LENGTH + b"\r\n0\r\n\r\n" + SECOND,
    OPEN + b"transfer-encoding : chunked\r\n" + LENGTH + b"\r\n0\r\n\r\n" + SECOND,
    OPEN + b"transfer-encoding\r\n : chunked\r\n" + LENGTH + b"\r\n0\r\n\r\n" + SECOND,
    OPEN + b"x: y\r\n transfer-encoding: chunked\r\n" + LENGTH + b"\r\n0\r\n\r\n" + SECOND,
    OPEN + b"transfer-encoding: chunked\r\n\r\n2;x=\n" + SECOND + b"\r\n{}\r\n0\r\n\r\n",
    OPEN + b"transfer-encoding: chunked\r\n\r\n2\n{}\n0\n\n" + SECOND,
    OPEN + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n" + SECOND,
    OPEN + b"transfer-encoding: chunked\r\n\r\n0\r\nx-crossfade-admitted: locked/primary\r\n\r\n" + SECOND,
    OPEN + b"content-length: 2\r\nconnection: keep-alive\r\n\r\n{}\r\n\r\n" + SECOND,
    OPEN + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n" + SECOND,
    OPEN + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n" + SECOND,
    OPEN + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n" + SECOND,
    b"GET /v2/models/open HTTP/1.1\r\nhost: a\r\n" + LENGTH + b"\r\n" + SECOND + SECOND,
    b"GET /v2/models/open HTTP/1.1\r\nhost: a\r\n\r\n" + SECOND,
    b"HEAD /v2/models/open HTTP/1.1\r\nhost: a\r\n\r\n" + SECOND,
    b"CONNECT locked:443 HTTP/1.1\r\nhost: locked:443\r\n\r\n" + SECOND,
    b"CONNECT /v2/models/locked/infer HTTP/1.1\r\nhost: a\r\n\r\n" + SECOND,
    # Another request line, and other line ends.
    b"GET /v2/models/locked\r\n\r\n",
    b"POST /v2/models/locked/infer HTTP/1.0\r\n\r\n",
    b"POST /v2/models/locked/infer HTTP/0.9\r\n\r\n",
    b"POST /v2/models/locked/infer HTTP/1.2\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    b"POST /v2/models/locked/infer HTTP/2.0\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    b"POST  /v2/models/locked/infer  HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    b"POST\t/v2/models/locked/infer\tHTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    b"POST /v2/models/open/infer\r/v2/models/locked/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    b"POST /v2/models/open/infer HTTP/1.1 /v2/models/locked/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    b"POST /v2/models/locked/infer HTTP/1.1\nhost: a\ncontent-length: 2\n\n{}",
    b"POST /v2/models/locked/infer HTTP/1.1\rhost: a\rcontent-length: 2\r\r{}",
    b"\r\n\r\n" + SECOND,
    b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + SECOND,
    # Headers that are none, or have more in them than one.
    HEAD + b"x-crossfade-admitted : locked/primary\r\ncontent-length: 2\r\n\r\n{}",
    HEAD + b" x-crossfade-admitted: locked/primary\r\ncontent-length: 2\r\n\r\n{}",
    HEAD + b"x:\r\n x-crossfade-admitted: locked/primary\r\ncontent-length: 2\r\n\r\n{}",
    HEAD + b"x: y\rx-crossfade-admitted: locked/primary\r\ncontent-length: 2\r\n\r\n{}",
    HEAD + b"x: y\nx-crossfade-admitted: locked/primary\r\ncontent-length: 2\r\n\r\n{}",
    HEAD + b"x: y\0x-crossfade-admitted: locked/primary\r\ncontent-length: 2\r\n\r\n{}",
    HEAD + b"x-crossfade-admitted\0: locked/primary\r\ncontent-length: 2\r\n\r\n{}",
    HEAD + b"\0x-crossfade-admitted: locked/primary\r\ncontent-length: 2\r\n\r\n{}",
    HEAD + b"x-crossfade-admitted\xc2\xa0: locked/primary\r\ncontent-length: 2\r\n\r\n{}",
    HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-crossfade-admitted: locked/primary\r\n\r\n",
]


async def test_no_message_is_smuggled_in(guarded: Guarded) -> None:
    stranger = guarded.strangers[0]
    guarded.opened.requests.clear()
    received = await asyncio.gather(*(guarded.wire(stranger).send_and_listen(sent) for sent in SMUGGLED))
    for sent, answers in zip(SMUGGLED, received, strict=True):
        # The first request may be one to the open endpoint; no other may be answered well.
        well = [status for status in statuses(answers) if status < 300 and status != 100]
        assert len(well) <= sent.startswith((OPEN, b"GET /v2/models/open", b"HEAD /v2/models/open")), (sent, answers)
    await guarded.check_nobody_came()


PSEUDO = {":method": "POST", ":scheme": "http", ":authority": "a", ":path": INFER}


def http2(*extra: tuple[str, str], **changed: str | None) -> list[tuple[str, str]]:
    """None leaves a pseudo-header out."""
    made = PSEUDO | {f":{name}": value for name, value in changed.items()}
    return [*((name, value) for name, value in made.items() if value is not None), *extra]


FRAMES = [
    http2(),
    http2((":path", "/v2/models/open/infer")),
    [*http2(path="/v2/models/open/infer"), (":path", INFER)],
    [("x", "y"), *http2()],
    http2(("x", "y"), (":path", INFER), path=None),
    http2(path=None),
    http2(path=""),
    http2(path="*", method="OPTIONS"),
    http2(path="v2/models/locked/infer"),
    http2(path="http://a/v2/models/locked/infer"),
    http2(path="//v2/models/locked/infer"),
    http2(path="/v2/models/open/../locked/infer"),
    http2(path="/v2/models/locked/infer HTTP/1.1"),
    http2(path="/v2/models/open/infer HTTP/1.1\r\nhost: a\r\n\r\nPOST /v2/models/locked/infer"),
    http2(path="/v2/models/locked/infer\0"),
    http2(path="/v2/models/locked/infer\t"),
    http2(method="CONNECT"),
    http2(method="CONNECT", path=None, scheme=None),
    http2((":protocol", "websocket"), method="CONNECT"),
    http2((":protocol", "websocket")),
    http2(method="POST /v2/models/locked/infer HTTP/1.1\r\nx: "),
    http2(method=None),
    http2(scheme="https"),
    http2(scheme="file"),
    http2(scheme=None),
    http2(authority=None),
    http2(authority="a\r\nx-crossfade-admitted: locked/primary"),
    http2(("host", "open")),
    http2((":status", "200")),
    http2((":admitted", "locked/primary")),
    http2(("X-Crossfade-Admitted", "locked/primary")),
    http2(("x-crossfade-admitted", "locked/primary")),
    http2(("x-crossfade-admitted", "locked/primary"), ("x-crossfade-admitted", "locked/primary")),
    http2(("x", "y\r\nx-crossfade-admitted: locked/primary")),
    http2(("x: y\r\nx-crossfade-admitted", "locked/primary")),
    http2(("x", "y\0")),
    http2((" x-crossfade-admitted", "locked/primary")),
    http2(("x-crossfade-admitted ", "locked/primary")),
    http2(("", "locked/primary")),
    http2(("connection", "x-api-key")),
    http2(("upgrade", "h2c"), ("connection", "upgrade")),
    http2(("transfer-encoding", "chunked")),
    http2(("content-length", "0")),
    http2(("content-length", "60")),
    http2(("content-length", "2"), ("content-length", "3")),
    http2(("te", "gzip")),
    http2(("content-type", "application/grpc"), path=f"/{SERVICE}/ModelInfer"),
    http2(("content-type", "application/grpc"), ("x-crossfade-model", "locked"), path="/v2/models/locked/ModelInfer"),
]
TRAILERS = [("x-crossfade-admitted", "locked/primary"), ("x-api-key", "x"), ("authorization", "Bearer x")]


async def test_no_frame_leads_in(guarded: Guarded) -> None:
    stranger = guarded.strangers[0]
    guarded.opened.requests.clear()
    sent = [http2_request(fields) for fields in FRAMES]
    sent += [http2_request(fields, trailers=TRAILERS) for fields in FRAMES]
    await asyncio.gather(*(guarded.wire(stranger).send_and_listen(one) for one in sent))
    await guarded.check_nobody_came()


# -- gRPC, by hand: any method, name, framing and type of content

METHODS_OF_MODELS = {
    "ModelInfer": service_pb2.ModelInferRequest(model_name="locked"),
    "ModelStreamInfer": service_pb2.ModelInferRequest(model_name="locked", model_version="1"),
    "ModelReady": service_pb2.ModelReadyRequest(name="locked"),
    "ModelMetadata": service_pb2.ModelMetadataRequest(name="locked", version="1"),
    "ModelConfig": service_pb2.ModelConfigRequest(name="locked"),
    "ModelStatistics": service_pb2.ModelStatisticsRequest(name="locked"),
}
NAMES = ["locked", "locked/", "/locked", "open/../locked", "./locked", "locked/infer", "locked?x", "locked#x", "Locked"]
NAMES += ["locked\0", "locked ", "\tlocked", "locked/versions/1", "%6cocked", "..", "-", "", "locked\r\nx: y", "løcked"]


def frame(message: bytes, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


def infer(name: str) -> bytes:
    return service_pb2.ModelInferRequest(model_name=name).SerializeToString()


BODIES = [
    *(frame(infer(name)) for name in NAMES),
    frame(infer("open") + infer("locked")),  # the field twice in one message
    frame(infer("locked") + infer("open")),
    frame(infer("open")) + frame(infer("locked")),  # two messages in a call that has one
    frame(infer("locked")) + frame(infer("open")),
    frame(infer("locked"), flag=1),
    frame(infer("locked"), flag=128),
    frame(infer("locked"))[:-1],
    frame(infer("locked")) + b"\0",
    frame(b"") + frame(infer("locked")),
    infer("locked"),
    b"{}",
    b"",
]
KINDS = [
    "application/grpc",
    "application/grpc+proto",
    "application/grpc+json",
    "application/grpc-web",
    "application/json",
]


async def test_no_grpc_call_leads_in(guarded: Guarded) -> None:
    guarded.opened.requests.clear()
    for stranger in guarded.strangers:
        wire = guarded.wire(stranger)
        for method, message in METHODS_OF_MODELS.items():
            for kind, path in product(
                KINDS, (f"/{SERVICE}/{method}", f"/{SERVICE}/{method}?x=1", f"//{SERVICE}/{method}")
            ):
                headers = [*stranger.headers.items(), ("content-type", kind), ("te", "trailers")]
                answer = await _asked(wire, request("POST", path, headers, frame(message.SerializeToString())))
                assert answer is None or answer.is_refusal, (path, kind, answer)
        await wire.close()
    await guarded.check_nobody_came()


async def test_no_name_and_no_framing_of_a_grpc_call_leads_in(guarded: Guarded) -> None:
    for stranger in guarded.strangers[:2]:
        wire = guarded.wire(stranger)
        for method, body, extra in product(("ModelInfer", "ModelStreamInfer"), BODIES, ({}, {"grpc-encoding": "gzip"})):
            if method == "ModelStreamInfer" and not body:
                continue  # a stream that says nothing has time until it is idle for too long
            headers = {**stranger.headers, **extra, "content-type": "application/grpc", "te": "trailers"}
            await _asked(wire, request("POST", f"/{SERVICE}/{method}", headers, body))
        await wire.close()
    await guarded.check_nobody_came()


# -- what is said about the server as a whole, which needs no credential

SERVER_ROUTES = [
    *(("GET", path) for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/v2/models")),
    *(
        ("POST", f"/v2/repository/{path}")
        for path in ("index", "models/NAME/load", "models/NAME/unload", "models/NAME")
    ),
    *(("GET", f"/v2/{kind}sharedmemory/status") for kind in ("system", "cuda")),
    *(("GET", f"/v2/{kind}sharedmemory/region/NAME/status") for kind in ("system", "cuda")),
    *(
        ("POST", f"/v2/{kind}sharedmemory/region/NAME/{verb}")
        for kind in ("system", "cuda")
        for verb in ("register", "unregister")
    ),
    *(
        (method, path)
        for method in ("GET", "POST")
        for path in ("/v2/trace/setting", "/v2/logging", "/v2/repository/NAME")
    ),
    *(
        ("GET", path)
        for path in ("/metrics", "/stats", "/config_dump", "/api/v1/status", "/api/openapi.json", "/quitquitquit")
    ),
    ("GET", "/v2/repository/../models/NAME/x/../../../models"),
    ("GET", "/crossfade/metrics"),
]
SERVER_CALLS = {
    "ServerLive": service_pb2.ServerLiveRequest,
    "ServerReady": service_pb2.ServerReadyRequest,
    "ServerMetadata": service_pb2.ServerMetadataRequest,
    "RepositoryIndex": service_pb2.RepositoryIndexRequest,
    "ModelStatistics": service_pb2.ModelStatisticsRequest,
    "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest,
    "CudaSharedMemoryStatus": service_pb2.CudaSharedMemoryStatusRequest,
    "TraceSetting": service_pb2.TraceSettingRequest,
    "LogSettings": service_pb2.LogSettingsRequest,
}


def named_calls(name: str) -> dict[str, bytes]:
    """The server-level calls that name a model or a region."""
    made = {
        "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(model_name=name),
        "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(model_name=name),
        "SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest(name=name, key="/x", byte_size=1),
        "CudaSharedMemoryUnregister": service_pb2.CudaSharedMemoryUnregisterRequest(name=name),
        "TraceSetting": service_pb2.TraceSettingRequest(model_name=name),
    }
    calls = {f"/{SERVICE}/{method}": message.SerializeToString() for method, message in made.items()}
    return calls | {"/grpc.health.v1.Health/Check": b"\x0a" + bytes((len(name),)) + name.encode()}


async def test_what_is_said_of_the_whole_server_tells_nothing_of_protected_endpoints(guarded: Guarded) -> None:
    """By the real control plane's answers: those about `locked` are those about a name that nobody has."""
    wire = guarded.wire(guarded.strangers[0])
    try:
        for method, path in SERVER_ROUTES:
            said = {
                name: await _said(wire, request(method, path.replace("NAME", name))) for name in ("locked", "nobody")
            }
            assert said["locked"].replace("locked", "nobody") == said["nobody"], (method, path)
            assert "NAME" in path or "locked" not in said["locked"], (method, path)
        grpc = {"content-type": "application/grpc", "te": "trailers"}
        for call, kind in SERVER_CALLS.items():
            assert "locked" not in await _said(
                wire, request("POST", f"/{SERVICE}/{call}", grpc, frame(kind().SerializeToString()))
            )
        for path, message in named_calls("locked").items():
            known = await _said(wire, request("POST", path, grpc, frame(message)))
            unknown = await _said(wire, request("POST", path, grpc, frame(named_calls("nobody")[path])))
            assert known.replace("locked", "nobody") == unknown, path
    finally:
        await wire.close()
    assert guarded.locked.requests == []


async def _said(wire: Wire, sent: bytes) -> str:
    """All of an answer but what differs each time."""
    answer = await wire.ask(sent)
    kept = {name: value for name, value in answer.headers.items() if name not in ("x-request-id", "date")}
    kept = {name: value for name, value in kept.items() if name != "x-envoy-upstream-service-time"}
    return f"{answer.status} {kept} {answer.body!r}"
