"""Strangers before the admin API: every call that it says it has, without a token and with the wrong ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest

from router.api.guards import LIVE_PATH, role_needed
from router.domain.access import Role
from tests.api.admin import SPECS, Admin
from tests.fakes import NOON, TOKEN

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get")
SHOWN = [
    {},
    {"authorization": ""},
    {"authorization": "Bearer"},
    {"authorization": "Bearer "},
    {"authorization": f"Bearer {TOKEN}x"},
    {"authorization": f"Bearer {TOKEN[:-1]}"},
    {"authorization": f"Bearer {TOKEN.upper()}"},
    {"authorization": f"Basic {TOKEN}"},
    {"authorization": TOKEN},
    {"authorization": f"Bearer {'a' * 8000}"},
    {"x-api-key": TOKEN, "cookie": f"token={TOKEN}; authorization=Bearer {TOKEN}"},
    {"proxy-authorization": f"Bearer {TOKEN}", "x-forwarded-authorization": f"Bearer {TOKEN}"},
    {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "x-crossfade-by": "root"},
    {"x-http-method-override": "GET", "x-original-url": LIVE_PATH, "x-rewrite-url": LIVE_PATH},
]
SPELLINGS = [
    "/api/v1/live/../status",
    "/api/v1/live/%2e%2e/status",
    "/api/v1/live%2f..%2fstatus",
    "/api/v1/live/",
    "/api/v1/live//status",
    "/api/v1/live;/status",
    "/api/v1/live%00",
    "/api/v1/LIVE",
    "//api/v1/status",
    "/api//v1/status",
    "/api/v1/status/",
    "/api/v1/status?path=/api/v1/live",
    "/api/v1/%73tatus",
    "/API/v1/status",
    "/api/openapi.json/",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/",
    "",
    "/metrics",
    "/static/../api/v1/status",
]
RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


async def calls(admin: Admin) -> list[tuple[str, str]]:
    """Method and path of everything that the API says of itself, with names of what there is in the paths."""
    document = (await admin.http.get("/api/openapi.json")).json()
    named = {"endpoint": "e", "name": "e", "deployment": "blue"}
    filled = [
        (method.upper(), re.sub(r"{(\w+)(:\w+)?}", lambda found: named.get(found[1], "1"), path))
        for path, item in document["paths"].items()
        for method in item
    ]
    assert len(filled) > 50
    return filled


@pytest.mark.parametrize("headers", SHOWN)
async def test_whoever_shows_no_valid_token_gets_nowhere(admin: Admin, headers: dict[str, str]) -> None:
    await admin.apply(*SPECS)
    before = admin.bench.desired.state("e")
    everything = await calls(admin)
    async with admin.client(headers) as stranger:
        for method, path in everything:
            if path != LIVE_PATH:
                assert_refused(await stranger.request(method, path, json={}))
        for path in SPELLINGS:
            assert_refused(await stranger.get(path))
    assert admin.bench.desired.state("e") == before


async def test_no_method_gets_past_the_missing_token(admin: Admin) -> None:
    async with admin.client({}) as stranger:
        for path in sorted({path for _, path in await calls(admin)} - {LIVE_PATH}):
            for method in METHODS:
                assert_refused(await stranger.request(method, path, json={}))


def assert_refused(reply: httpx.Response) -> None:
    """401, and 429 once it was tried too often."""
    assert reply.status_code in (401, 429), (reply.request.method, reply.request.url, reply.status_code)
    if reply.request.method == "HEAD":
        return
    assert reply.json()["error"]["code"] in ("unauthorized", "too_many_failures")
    assert reply.headers.get("www-authenticate" if reply.status_code == 401 else "retry-after")


async def test_an_expired_and_a_revoked_token_are_no_tokens(admin: Admin) -> None:
    expiring = await made(admin, "expiring", Role.ADMIN, valid_for_s=60)
    revoked = await made(admin, "revoked", Role.ADMIN)
    assert {(await client.get("/api/v1/status")).status_code for client in (expiring, revoked)} == {200}
    assert (await admin.http.delete("/api/v1/tokens/revoked")).status_code == 200
    admin.bench.oversight.access.now = lambda: NOON + timedelta(minutes=2)
    everything = await calls(admin)
    for client in (expiring, revoked):
        for method, path in everything:
            if path != LIVE_PATH:
                assert_refused(await client.request(method, path, json={}))
        await client.aclose()


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
async def test_a_token_that_is_too_weak_is_told_which_role_it_takes(admin: Admin, role: Role) -> None:
    await admin.apply(*SPECS)
    before = admin.bench.desired.state("e")
    client = await made(admin, "weak", role)
    refused = 0
    for method, path in await calls(admin):
        needed = role_needed(method, path)
        if RANK[needed] <= RANK[role] or path == LIVE_PATH:
            continue
        for spelling in spellings(path):
            reply = await client.request(method, spelling, json={})
            assert reply.status_code in (403, 404, 307), (method, spelling, reply.status_code)
            refused += reply.status_code == 403
        assert (await client.request(method, path, json={})).json()["error"]["code"] == "forbidden"
    await client.aclose()
    assert refused > 5
    assert admin.bench.desired.state("e") == before


def spellings(path: str) -> Iterator[str]:
    yield path
    yield f"{path}/"
    yield path.replace("/v1/", "/v1//")
    yield path.replace("/v1/", "/v1/./")
    yield path.replace("/v1/t", "/v1/%74").replace("/v1/a", "/v1/%61").replace("/v1/q", "/v1/%71")
    yield path.replace("/v1/", "/v1/live/../")


async def made(admin: Admin, name: str, role: Role, **keys: object) -> httpx.AsyncClient:
    reply = await admin.http.post("/api/v1/tokens", json={"name": name, "role": str(role), "groups": [], **keys})
    assert reply.status_code == 200, reply.text
    return admin.client({"authorization": f"Bearer {reply.json()['secret']}"})
