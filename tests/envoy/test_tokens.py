"""Endpoints for holders of tokens, in a real Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise

import grpc
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from adapters.key_sets import parsed_key_set
from router.domain.callers import TokenHolders
from router.domain.limits import MIN_RATE, CallerLimits, Limits
from router.domain.tokens import Claim, KeySetFile, TokenRules
from router.domain.traffic import Mirror
from router.xds.tokens import CLAIMS_TEXT
from tests.envoy.data_plane import DataPlane, data_plane, upstream
from tests.envoy.replica import MAX_BODY_BYTES, Replica
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.identity import (
    AUDIENCE,
    ISSUER,
    Provider,
    SigningKey,
    key_set,
    signed_with_secret,
    unsigned,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROTATIONS = 100
STUB = service_pb2_grpc.GRPCInferenceServiceStub
PROVIDER, STRANGER = Provider(), Provider(SigningKey("k9"))
RULES = TokenRules(ISSUER, KeySetFile("/keys.json"), (AUDIENCE,), (Claim(("team",), ("fraud", "risk")),))


def holders(*keys: SigningKey, rules: TokenRules = RULES) -> TokenHolders:
    return TokenHolders(rules, parsed_key_set("keys.json", key_set(*keys or (PROVIDER.key,)).encode()).content)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane() -> AsyncIterator[DataPlane]:
    async with data_plane() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(plane: DataPlane) -> Replica:
    """Behind the endpoint `locked`. The endpoint `others` takes tokens for another audience."""
    blue = await plane.replica("blue")
    await plane.endpoint("locked", upstream("blue", blue), access=holders())
    other = upstream("blue", await plane.replica("other"))
    await plane.endpoint("others", other, access=holders(rules=replace(RULES, audiences=("others",))))
    return blue


@pytest_asyncio.fixture(loop_scope="module")
async def stub(plane: DataPlane) -> AsyncIterator[STUB]:
    async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
        yield STUB(channel)


async def test_a_token_is_answered_and_goes_no_further(plane: DataPlane, replica: Replica, stub: STUB) -> None:
    replica.requests.clear()
    token = PROVIDER.token()
    for path in ("/v2/models/locked/infer", "/v2/models/locked/infer?a=b", "/endpoints/locked/score"):
        reply = await plane.http.post(path, headers=bearer(token), content=b"{}")
        assert reply.status_code == 200, (path, reply.text)
    metadata = (("authorization", f"Bearer {token}"),)
    message = service_pb2.ModelInferRequest(model_name="locked")
    assert (await stub.ModelInfer(message, metadata=metadata, timeout=DEADLINE_S)).model_name == "blue"
    assert len(replica.requests) == 4
    seen = str([(request.path, request.headers) for request in replica.requests])
    assert "authorization" not in seen
    assert all(text not in seen for text in token.split("."))


async def test_each_subject_may_ask_as_often_as_the_limit_says(plane: DataPlane) -> None:
    blue = upstream("blue", await plane.replica("blue"))
    limits = Limits(per_caller=CallerLimits(MIN_RATE, burst=2))
    await plane.endpoint("rationed", blue, access=holders(), limits=limits)
    for subject in ("ann", "bob"):  # a new token is not a new caller
        asked = [await plane.infer("rationed", bearer(PROVIDER.token(sub=subject, jti=str(n)))) for n in range(3)]
        assert [reply.status_code for reply in asked] == [200, 200, 429]


async def test_each_subject_may_have_as_many_under_way_as_the_limit_says(plane: DataPlane, stub: STUB) -> None:
    blue = await plane.replica("blue")
    blue.answer = lambda _: None
    limits = Limits(per_caller=CallerLimits(concurrent_requests=1))
    await plane.endpoint("portioned", upstream("blue", blue, timeout_ms=60_000), access=holders(), limits=limits)
    message = service_pb2.ModelInferRequest(model_name="portioned")
    held = []
    for subject in ("ann", "bob" * 3000, "bob" * 3000 + "b"):
        held.append(asyncio.create_task(plane.infer("portioned", bearer(PROVIDER.token(sub=subject)))))
        await eventually(lambda: len(blue.requests), len(held))
        another = bearer(PROVIDER.token(sub=subject, jti="another"))
        refused = await plane.infer("portioned", another)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        call = stub.ModelInfer(message, metadata=tuple(another.items()), timeout=DEADLINE_S)
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for task in held:
        task.cancel()


@pytest.mark.parametrize(
    "algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
)
async def test_every_algorithm_with_public_keys_is_taken(plane: DataPlane, algorithm: str) -> None:
    blue, signer = await plane.replica("blue"), SigningKey("k", algorithm)
    name = f"by-{algorithm}"
    await plane.endpoint(name, upstream("blue", blue), access=holders(signer))
    assert (await plane.infer(name, bearer(PROVIDER.token(signer)))).status_code == 200
    forged = SigningKey("k", algorithm)
    refused = await plane.infer(name, bearer(PROVIDER.token(forged)))
    assert (refused.status_code, refused.json()["error"]) == (
        401,
        "the token's signature is wrong, or it has no expiry",
    )


NOW = int(time.time())
PUBLIC = json.dumps(PROVIDER.key.jwk()).encode()
REFUSED = [
    ({}, "needs a token"),
    ({"authorization": ""}, "needs a token"),
    ({"authorization": "Basic dXNlcjpwYXNz"}, "needs a token"),
    ({"x-api-key": PROVIDER.token()}, "needs a token"),
    ({"cookie": f"authorization={PROVIDER.token()}"}, "needs a token"),
    ({"authorization": PROVIDER.token()}, "needs a token"),
    (bearer("x"), "cannot be read"),
    (bearer("a.b.c"), "cannot be read"),
    (bearer("x" * 8000), "cannot be read"),
    (bearer(unsigned()), "cannot be read"),
    (bearer(signed_with_secret(PUBLIC, "k1")), "known here"),
    (bearer(PROVIDER.token(header={"alg": "HS256"})), "known here"),
    (bearer(PROVIDER.token(header={"alg": "RS256"})), "known here"),
    (bearer(PROVIDER.token(header={"kid": "k2"})), "known here"),
    (bearer(STRANGER.token()), "known here"),
    (bearer(STRANGER.token(header={"kid": "k1"})), "signature is wrong"),
    (bearer(STRANGER.token(header={"kid": "k1", "jwk": STRANGER.key.jwk()})), "signature is wrong"),
    (bearer(STRANGER.token(header={"kid": "k1", "jku": "http://127.0.0.1/keys.json"})), "signature is wrong"),
    (bearer(PROVIDER.token()[:-4] + "AAAA"), "signature is wrong"),
    (bearer(PROVIDER.token(exp=NOW - 120)), "has expired"),
    (bearer(PROVIDER.token(exp=None)), "no expiry"),
    (bearer(PROVIDER.token(nbf=NOW + 3600)), "not valid yet"),
    (bearer(PROVIDER.token(iss="https://elsewhere.example/")), "another issuer"),
    (bearer(PROVIDER.token(iss=None)), "another issuer"),
    (bearer(PROVIDER.token(aud="others")), "another audience"),
    (bearer(PROVIDER.token(aud=None)), "another audience"),
]


@pytest.mark.parametrize(("headers", "words"), REFUSED)
async def test_what_is_wrong_with_a_token_is_said_and_no_more(
    plane: DataPlane, replica: Replica, stub: STUB, headers: dict[str, str], words: str
) -> None:
    replica.requests.clear()
    reply = await plane.infer("locked", headers)

    assert (reply.status_code, reply.headers["content-type"]) == (401, "application/json"), reply.text
    assert words in reply.json()["error"]
    assert "token" in reply.json()["error"]
    error = "" if words == "needs a token" else ', error="invalid_token"'
    assert reply.headers["www-authenticate"] == f'Bearer realm="crossfade"{error}'

    message = service_pb2.ModelInferRequest(model_name="locked")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await stub.ModelInfer(message, metadata=tuple(headers.items()), timeout=DEADLINE_S)
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert words in (refusal.value.details() or "")
    assert not replica.requests


CLAIMS = [
    (Claim(("team",), ("fraud",)), {"team": "fraud"}, {"team": "Fraud"}),
    (Claim(("team",), ("fraud", "risk")), {"team": "risk"}, {"team": None}),
    (Claim(("groups",), ("score",)), {"groups": ["read", "score"]}, {"groups": ["score-all", "read"]}),
    (Claim(("scope",), ("score",)), {"scope": "read score"}, {"scope": "read score:all"}),
    (Claim(("realm_access", "roles"), ("score",)), {"realm_access": {"roles": ["score"]}}, {"roles": ["score"]}),
    (Claim(("https://bank.example/team",), ("fraud",)), {"https://bank.example/team": "fraud"}, {"team": "fraud"}),
    (Claim(("email_verified",), (True,)), {"email_verified": True}, {"email_verified": "true"}),
]


@pytest.mark.parametrize(("claim", "good", "bad"), CLAIMS)
async def test_a_token_must_say_what_the_endpoint_asks_for(
    plane: DataPlane, stub: STUB, claim: Claim, good: dict[str, object], bad: dict[str, object]
) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("claiming", upstream("blue", blue), access=holders(rules=replace(RULES, claims=(claim,))))
    assert (await plane.infer("claiming", bearer(PROVIDER.token(**good)))).status_code == 200
    refused = await plane.infer("claiming", bearer(PROVIDER.token(**bad)))
    assert (refused.status_code, refused.json()["error"]) == (403, CLAIMS_TEXT)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await stub.ModelInfer(
            service_pb2.ModelInferRequest(model_name="claiming"),
            metadata=(("authorization", f"Bearer {PROVIDER.token(**bad)}"),),
            timeout=DEADLINE_S,
        )
    assert (refusal.value.code(), refusal.value.details()) == (grpc.StatusCode.PERMISSION_DENIED, CLAIMS_TEXT)
    assert len(blue.requests) == 1


async def test_a_token_for_one_endpoint_does_not_open_another(plane: DataPlane, replica: Replica, stub: STUB) -> None:
    token = PROVIDER.token(aud="others")
    replica.requests.clear()
    assert (await plane.infer("others", bearer(token))).status_code == 200
    for path in ("/v2/models/locked/infer", "/endpoints/locked/score", "/v2/models/others/../locked/infer"):
        assert (await plane.http.post(path, headers=bearer(token), content=b"{}")).status_code == 401
    message = service_pb2.ModelInferRequest(model_name="locked")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await stub.ModelInfer(message, metadata=(("authorization", f"Bearer {token}"),), timeout=DEADLINE_S)
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not replica.requests


@pytest.mark.parametrize("name", ["verified", "refused"])
async def test_an_endpoint_may_be_called_as_what_is_noted_of_tokens(plane: DataPlane, name: str) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint(name, upstream("blue", blue), access=holders())
    assert (await plane.infer(name, headers=bearer(PROVIDER.token()))).status_code == 200
    reply = await plane.infer(name, headers=bearer(PROVIDER.token(team="other", message="Jwt is expired")))
    assert (reply.status_code, reply.json()) == (403, {"error": CLAIMS_TEXT})


async def test_while_the_issuers_keys_are_not_known_nobody_gets_in_and_the_reason_is_said(
    plane: DataPlane, stub: STUB
) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("unready", upstream("blue", blue), access=TokenHolders(RULES))
    reply = await plane.infer("unready", bearer(PROVIDER.token()))
    assert (reply.status_code, "not known here" in reply.json()["error"]) == (503, True)
    message = service_pb2.ModelInferRequest(model_name="unready")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await stub.ModelInfer(message, metadata=(("authorization", f"Bearer {PROVIDER.token()}"),), timeout=DEADLINE_S)
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not blue.requests


async def test_a_stranger_is_refused_before_his_body_has_come(plane: DataPlane, replica: Replica) -> None:
    head = f"POST /v2/models/locked/infer HTTP/1.1\r\nhost: a\r\ncontent-length: {MAX_BODY_BYTES}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.gateway.http_port)
    writer.write(head.encode())
    async with asyncio.timeout(DEADLINE_S):
        assert (await reader.readline()).split()[1] == b"401"
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_mirrored_copy_carries_no_token(plane: DataPlane) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    await plane.endpoint(
        "mirrored",
        upstream("blue", blue),
        upstream("green", green),
        traffic={"blue": 100},
        mirror=Mirror("green", 100),
        access=holders(),
    )
    assert (await plane.infer("mirrored", bearer(PROVIDER.token()))).status_code == 200
    await eventually(lambda: len(green.requests), 1)
    assert b"authorization" not in green.requests[0].headers


async def test_a_hundred_rotations_of_the_issuers_keys_under_load_refuse_no_valid_token(plane: DataPlane) -> None:
    """As a provider does it: the next key is published, then used, then the last one is withdrawn."""
    blue = await plane.replica("blue")
    keys = [SigningKey(f"r{number}") for number in range(ROTATIONS + 1)]
    token, failures, answered, is_over = PROVIDER.token(keys[0]), list[str](), [0, 0], asyncio.Event()
    await plane.endpoint("rotating", upstream("blue", blue), access=holders(keys[0]))

    async def over_http() -> None:
        while not is_over.is_set():
            reply = await plane.infer("rotating", bearer(token))
            answered[0] += 1
            if reply.status_code != 200:
                failures.append(f"HTTP {reply.status_code} {reply.text}")

    async def over_grpc(calls: STUB) -> None:
        message = service_pb2.ModelInferRequest(model_name="rotating")
        while not is_over.is_set():
            try:
                await calls.ModelInfer(message, metadata=(("authorization", f"Bearer {token}"),), timeout=DEADLINE_S)
            except grpc.aio.AioRpcError as error:
                failures.append(f"gRPC {error.code()} {error.details()}")
            answered[1] += 1

    async with grpc.aio.insecure_channel(plane.grpc_address) as channel, asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(over_http())
        group.create_task(over_grpc(STUB(channel)))
        try:
            for old, new in pairwise(keys):
                await plane.endpoint("rotating", upstream("blue", blue), access=holders(old, new))
                last, token = token, PROVIDER.token(new)
                # Requests that took the last token have ended when everybody has been answered once more.
                enough = [count + 6 for count in answered]
                await eventually(
                    lambda enough=enough: failures or all(a >= b for a, b in zip(answered, enough, strict=True))
                )
                await plane.endpoint("rotating", upstream("blue", blue), access=holders(new))
                assert (await plane.infer("rotating", bearer(last))).status_code == 401
        finally:
            is_over.set()
    assert failures == []


async def test_nothing_of_a_token_is_in_the_logs_or_in_envoys_configuration(plane: DataPlane, replica: Replica) -> None:
    good, expired = PROVIDER.token(sub="someone-special"), PROVIDER.token(exp=NOW - 120, sub="someone-special")
    for token in (good, expired, STRANGER.token()):
        reply = await plane.http.post("/v2/models/locked/infer", headers=bearer(token), content=b"{}")
        await eventually(
            lambda made=reply.headers["x-request-id"]: any(line["request_id"] == made for line in plane.access_log())
        )
    pages = [await plane.admin(page) for page in ("/config_dump", "/stats")]
    seen = json.dumps(plane.access_log()) + "".join(pages) + (plane.folder / "envoy.log").read_text()
    assert "someone-special" not in seen
    assert not any(text in seen for token in (good, expired) for text in token.split(".")[1:])
