"""The admin API about models."""

from __future__ import annotations

import asyncio

from tests.api.admin import SPECS, Admin, error_of

CHAMPION = {"reference": "models:/fraud@champion"}


async def test_a_pull_is_started_followed_and_found_again(admin: Admin) -> None:
    admin.bench.source.held = asyncio.Event()
    started = (await admin.http.post("/api/v1/models/pulls", json=CHAMPION)).json()
    admin.bench.source.held.set()
    assert (started["state"], started["digest"], started["by"]) == ("running", "", "an operator")
    ended = (await admin.http.get(f"/api/v1/models/pulls/{started['id']}", params={"timeout_s": 10})).json()
    assert (ended["state"], ended["done_bytes"], ended["total_bytes"]) == ("done", 5, 5)
    assert [pull["id"] for pull in (await admin.http.get("/api/v1/models/pulls")).json()["pulls"]] == [started["id"]]
    (model,) = (await admin.http.get("/api/v1/models")).json()["models"]
    assert model["digest"] == ended["digest"]
    assert model["origins"][0]["lineage"] == {"run_id": "7"}
    error_of(await admin.http.get("/api/v1/models/pulls/nobody"), 404, "not_found")


async def test_a_pull_is_cancelled(admin: Admin) -> None:
    admin.bench.source.held = asyncio.Event()
    started = (await admin.http.post("/api/v1/models/pulls", json=CHAMPION)).json()
    for _ in range(2):
        ended = (await admin.http.delete(f"/api/v1/models/pulls/{started['id']}")).json()
        assert ended["state"] == "cancelled"
    lines = (await admin.http.get("/api/v1/audit")).json()["lines"]
    assert [(line["actor"], line["action"], line["subject"]) for line in lines] == [
        ("an operator", "pull_cancelled", CHAMPION["reference"])
    ]


async def test_the_audit_log_says_who_removed_models_from_the_cache(admin: Admin) -> None:
    pulled = await admin.http.post("/api/v1/models/pulls", json=CHAMPION, params={"timeout_s": 10})
    collect = {"keep_last": 0, "unused_for_s": 0}
    for _ in range(2):
        assert (await admin.http.post("/api/v1/models/collect", json=collect)).status_code == 200
    lines = (await admin.http.get("/api/v1/audit")).json()["lines"]
    told = [line["detail"] for line in lines if line["action"] == "models_collected"]
    assert told == [f"digests {pulled.json()['digest']}"]


async def test_a_reference_that_is_none_is_refused(admin: Admin) -> None:
    for reference in ("m.onnx", "ftp://host/m", "file:relative/m.onnx", "file:/m#../../secret"):
        reply = await admin.http.post("/api/v1/models/pulls", json={"reference": reference})
        error_of(reply, 422, "invalid")


async def test_only_enough_of_a_digest_finds_a_model(admin: Admin) -> None:
    await admin.http.post("/api/v1/models/pulls", json=CHAMPION, params={"timeout_s": 10})
    (model,) = (await admin.http.get("/api/v1/models")).json()["models"]
    assert (await admin.http.get(f"/api/v1/models/{model['digest'][:6]}")).json() == model
    for digest in (model["digest"][:5], "0" * 64, "..%2f..", "ABCDEF"):
        error_of(await admin.http.get(f"/api/v1/models/{digest}"), 404, "not_found" if "%" not in digest else "http")


async def test_a_deployment_whose_model_was_not_pulled_has_no_lineage(admin: Admin) -> None:
    await admin.apply(*SPECS)
    lineage = (await admin.http.get("/api/v1/endpoints/e/deployments/blue/lineage")).json()
    assert (lineage["origin"], lineage["checks"]) == (None, [])
    error_of(await admin.http.get("/api/v1/endpoints/e/deployments/red/lineage"), 404, "not_found")


async def test_a_viewer_looks_and_pulls_nothing(admin: Admin) -> None:
    created = await admin.http.post("/api/v1/tokens", json={"name": "ann", "role": "viewer"})
    assert created.status_code in (200, 201), created.text
    viewer = admin.client({"authorization": f"Bearer {created.json()['secret']}"})
    assert (await viewer.get("/api/v1/models")).status_code == 200
    error_of(await viewer.post("/api/v1/models/pulls", json=CHAMPION), 403, "forbidden")
    error_of(await viewer.post("/api/v1/models/collect", json={}), 403, "forbidden")
    await viewer.aclose()
