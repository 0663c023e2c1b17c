"""The admin API as HTTP: the real application, in this process, on fakes of what lies behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from router.access import Access
from router.admin_ports import RayStatus
from router.api.guards import MAX_BODY_BYTES
from router.ports import ProxyStatus
from tests.api.admin import SPECS, Admin, error_of
from tests.fakes import NOON, TOKEN, MemoryAccess


async def test_applying_twice_creates_once(admin: Admin) -> None:
    first = (await admin.apply(*SPECS)).json()
    assert [(change["kind"], change["name"], change["action"]) for change in first["changes"]] == [
        ("endpoint", "e", "created"),
        ("deployment", "blue", "created"),
        ("deployment", "green", "created"),
    ]
    assert first["revisions"] == {"e": 1}
    second = (await admin.apply(*SPECS)).json()
    assert {change["action"] for change in second["changes"]} == {"unchanged"}
    assert second["revisions"] == {"e": 1}


async def test_a_dry_run_tells_the_difference_and_changes_nothing(admin: Admin) -> None:
    await admin.apply(*SPECS)
    dry = (await admin.apply(SPECS[1] | {"resources": {"cpu": 2}}, dry_run=True)).json()
    assert dry["dry_run"] is True
    assert dry["changes"][0]["fields"] == [{"key": "resources.cpu", "old": 1, "new": 2}]
    assert (await admin.http.get("/api/v1/endpoints/e")).json()["revision"] == 1


async def test_every_problem_is_listed_with_document_key_and_hint(admin: Admin) -> None:
    reply = await admin.apply({"kind": "Endpoint", "name": "e", "trafic": {}}, SPECS[1] | {"instance_count": "2"})
    error = error_of(reply, 422, "invalid")
    assert error["problems"] == [
        {"key": "trafic", "message": "is not a key here", "hint": "did you mean 'traffic'?", "document": 0},
        {
            "key": "instance_count",
            "message": "must be a whole number, not the text '2'",
            "hint": "use a whole number from 0 to 1000",
            "document": 1,
        },
    ]
    assert (await admin.http.get("/api/v1/endpoints")).json() == {"endpoints": []}


async def test_a_missing_model_is_a_problem_of_its_document(admin: Admin) -> None:
    admin.bench.models.missing = {"file:/green.onnx"}
    error = error_of(await admin.apply(*SPECS), 422, "invalid")
    assert [(problem["document"], problem["key"]) for problem in error["problems"]] == [(2, "model")]


async def test_an_endpoint_shows_what_was_asked_for_and_what_is_in_force(admin: Admin) -> None:
    await admin.apply(*SPECS)
    admin.bench.reconciler.held.add("e")
    reply = await admin.http.get("/api/v1/endpoints/e")
    endpoint = reply.json()
    assert reply.headers["etag"] == '"1"'
    assert endpoint["traffic"] == {"blue": 100}
    assert endpoint["mirror_traffic"] == {"green": 5}
    assert endpoint["in_force"] == {"revision": 0, "traffic": {}, "mirror_traffic": {}}
    assert endpoint["state"] == "updating"
    blue, green = endpoint["deployments"]
    assert (blue["traffic"], blue["mirror_traffic"], blue["model_version"]) == (100, 0, "a" * 12)
    assert (green["traffic"], green["mirror_traffic"], green["model_version"]) == (0, 5, "2")
    assert blue["state"] == "ready"


@pytest.mark.parametrize(
    ("trouble", "state"), [("none", "ready"), ("failure", "failed"), ("rejection", "rejected"), ("no traffic", "idle")]
)
async def test_an_endpoint_says_its_state_in_one_word(admin: Admin, trouble: str, state: str) -> None:
    await admin.apply(*SPECS)
    if trouble == "failure":
        admin.bench.reconciler.failures["green"] = "the model does not load"
    if trouble == "rejection":
        admin.bench.reconciler.rejections["e"] = "no such cluster"
    if trouble == "no traffic":
        await admin.http.patch("/api/v1/endpoints/e", json={"traffic": {}})
    endpoint = (await admin.http.get("/api/v1/endpoints/e")).json()
    assert endpoint["state"] == state
    assert endpoint["error"] == ("no such cluster" if trouble == "rejection" else "")


async def test_traffic_and_mirror_change_one_by_one(admin: Admin) -> None:
    await admin.apply(*SPECS)
    ended = await admin.http.patch("/api/v1/endpoints/e", json={"mirror_traffic": {}})
    assert ended.headers["etag"] == '"2"'
    assert ended.json()["changes"][0]["fields"] == [{"key": "mirror_traffic", "old": {"green": 5}, "new": {}}]
    await admin.http.patch("/api/v1/endpoints/e", json={"traffic": {"blue": 90, "green": 10}})
    endpoint = (await admin.http.get("/api/v1/endpoints/e")).json()
    assert (endpoint["traffic"], endpoint["mirror_traffic"]) == ({"blue": 90, "green": 10}, {})


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({}, ""),
        ({"trafic": {}}, "trafic"),
        ({"traffic": {"blue": 99}}, "traffic"),
        ({"traffic": {"blue": "100"}}, "traffic.blue"),
        ({"traffic": {"red": 100}}, "traffic.red"),
        ({"traffic": {"green": 100}}, "mirror_traffic.green"),
    ],
)
async def test_traffic_that_cannot_be_is_refused_with_its_key(admin: Admin, change: dict[str, Any], key: str) -> None:
    await admin.apply(*SPECS)
    error = error_of(await admin.http.patch("/api/v1/endpoints/e", json=change), 422, "invalid")
    assert error["problems"][0]["key"] == key
    assert admin.bench.desired.state("e").revision == 1


async def test_of_many_changes_to_one_revision_exactly_one_is_done(admin: Admin) -> None:
    await admin.apply(*SPECS)
    await admin.http.patch("/api/v1/endpoints/e", json={"mirror_traffic": {}})
    replies = await asyncio.gather(
        *(
            admin.http.patch(
                "/api/v1/endpoints/e",
                json={"traffic": {"blue": 100 - percent, "green": percent}},
                headers={"if-match": '"2"'},
            )
            for percent in range(1, 21)
        )
    )
    won = [reply for reply in replies if reply.status_code == 200]
    assert len(won) == 1
    lost = [error_of(reply, 409, "revision_conflict") for reply in replies if reply not in won]
    assert len(lost) == 19
    # Who lost is told what is there now.
    assert {json.dumps(error["current"]["traffic"]) for error in lost} == {
        json.dumps((await admin.http.get("/api/v1/endpoints/e")).json()["traffic"])
    }
    assert {error["current"]["revision"] for error in lost} == {3}


async def test_an_apply_against_an_old_revision_is_refused(admin: Admin) -> None:
    assert (await admin.apply(*SPECS, revisions={"e": 0})).status_code == 200
    error_of(await admin.apply(*SPECS, revisions={"e": 0}), 409, "revision_conflict")


@pytest.mark.parametrize("header", ["1", 'W/"1"', '"one"', '"1", "2"', ""])
async def test_a_precondition_that_is_no_revision_is_refused(admin: Admin, header: str) -> None:
    await admin.apply(*SPECS)
    reply = await admin.http.patch("/api/v1/endpoints/e", json={"traffic": {}}, headers={"if-match": header})
    error_of(reply, 400, "bad_precondition")


async def test_deployments_are_listed_scaled_and_deleted(admin: Admin) -> None:
    await admin.apply(*SPECS)
    base = "/api/v1/endpoints/e/deployments"
    names = [item["name"] for item in (await admin.http.get(base)).json()["deployments"]]
    assert names == ["blue", "green"]
    scaled = await admin.http.patch(f"{base}/green", json={"instance_count": 3})
    assert scaled.headers["etag"] == '"2"'
    assert (await admin.http.get(f"{base}/green")).json()["replicas_wanted"] == 3
    error_of(await admin.http.delete(f"{base}/blue"), 409, "conflict")
    error_of(await admin.http.delete(f"{base}/green"), 409, "conflict")  # it is mirrored to
    await admin.http.patch("/api/v1/endpoints/e", json={"mirror_traffic": {}})
    assert (await admin.http.delete(f"{base}/green")).json()["changes"][0]["action"] == "deleted"
    error_of(await admin.http.get(f"{base}/green"), 404, "not_found")


async def test_a_deployment_that_scales_by_itself_shows_its_limits_and_no_fixed_number(admin: Admin) -> None:
    scaled = SPECS[1] | {"scale_settings": {"min_instances": 2, "max_instances": 9}}
    await admin.apply(SPECS[0] | {"mirror_traffic": {}}, scaled)
    shown = (await admin.http.get("/api/v1/endpoints/e/deployments/blue")).json()
    assert shown["instance_count"] is None
    assert shown["scale_settings"]["min_instances"] == 2
    assert shown["scale_settings"]["target_utilization_percentage"] == 70

    refused = await admin.http.patch("/api/v1/endpoints/e/deployments/blue", json={"instance_count": 3})

    assert "change its scale_settings" in error_of(refused, 409, "conflict")["message"]


async def test_an_endpoint_with_traffic_is_deleted_only_by_force(admin: Admin) -> None:
    await admin.apply(*SPECS)
    error_of(await admin.http.delete("/api/v1/endpoints/e"), 409, "conflict")
    gone = await admin.http.delete("/api/v1/endpoints/e", params={"force": "true"}, headers={"if-match": '"1"'})
    assert gone.json()["revisions"] == {"e": 0}
    settled = await admin.http.get("/api/v1/endpoints/e/settled", params={"revision": 0})
    assert settled.json() == {"outcome": "in_force", "reason": ""}
    error_of(await admin.http.get("/api/v1/endpoints/e"), 404, "not_found")


async def test_waiting_ends_in_force_failed_or_pending(admin: Admin) -> None:
    await admin.apply(*SPECS)

    async def settled() -> dict[str, Any]:
        query = {"revision": 1, "timeout_s": 0.01}
        reply: dict[str, Any] = (await admin.http.get("/api/v1/endpoints/e/settled", params=query)).json()
        return reply

    assert await settled() == {"outcome": "in_force", "reason": ""}
    admin.bench.reconciler.held.add("e")
    assert await settled() == {"outcome": "pending", "reason": "blue: 0 of 1 replicas ready"}
    admin.bench.reconciler.failures["blue"] = "out of memory"
    assert await settled() == {"outcome": "failed", "reason": "deployment 'blue' failed: out of memory"}


async def test_who_is_not_there_is_named_with_who_is(admin: Admin) -> None:
    await admin.apply(*SPECS)
    error = error_of(await admin.http.get("/api/v1/endpoints/ee"), 404, "not_found")
    assert error["hint"] == "did you mean 'e'?"
    assert error["known"] == ["e"]
    error = error_of(await admin.http.get("/api/v1/endpoints/e/deployments/bleu"), 404, "not_found")
    assert error["hint"] == "did you mean 'blue'?"


async def test_logs_are_the_last_lines(admin: Admin) -> None:
    await admin.apply(*SPECS)
    reply = await admin.http.get("/api/v1/endpoints/e/deployments/blue/logs", params={"lines": 2})
    assert reply.json() == {"lines": ["e/blue line 8", "e/blue line 9"]}
    error_of(await admin.http.get("/api/v1/endpoints/e/deployments/red/logs"), 404, "not_found")


async def test_status_shows_proxies_ray_and_endpoints(admin: Admin) -> None:
    await admin.apply(*SPECS)
    admin.gateway.proxies = (ProxyStatus("envoy-1", is_up_to_date=False, rejected=(("route e", "no such cluster"),)),)
    admin.gateway.ray = RayStatus(is_connected=False, address="127.0.0.1:6379", reason="connection refused")
    status = (await admin.http.get("/api/v1/status")).json()
    assert status["proxies"] == [
        {
            "proxy": "envoy-1",
            "is_up_to_date": False,
            "rejected": [{"resource": "route e", "reason": "no such cluster"}],
        }
    ]
    assert status["ray"] == {"is_connected": False, "address": "127.0.0.1:6379", "reason": "connection refused"}
    assert [endpoint["name"] for endpoint in status["endpoints"]] == ["e"]
    assert status["uptime_s"] > 0


async def test_events_are_kept_for_who_asks_later(admin: Admin) -> None:
    await admin.apply(*SPECS)
    events = (await admin.http.get("/api/v1/events", params={"after": 1})).json()
    assert [event["message"] for event in events["events"]] == [
        "deployment e/blue created",
        "deployment e/green created",
    ]
    assert events["last_id"] == 3


async def test_everything_but_live_needs_the_token(admin: Admin) -> None:
    schema = (await admin.http.get("/api/openapi.json")).json()
    operations = [(method, path) for path, item in schema["paths"].items() for method in item]
    assert len(operations) >= 14
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": "Basic eDp5"}):
        async with admin.client(headers) as stranger:
            for method, path in [*operations, ("get", "/api/openapi.json"), ("get", "/nowhere")]:
                reply = await stranger.request(method, path)
                if path == "/api/v1/live":
                    assert reply.json() == {"live": True, "name": "crossfade", "version": "0.1.0"}
                elif reply.status_code != 429:  # so many wrong calls in a row are slowed down
                    error_of(reply, 401, "unauthorized")
                    assert reply.headers["www-authenticate"] == "Bearer"


async def test_the_openapi_document_names_every_reply(admin: Admin) -> None:
    document = (await admin.http.get("/api/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    references = set(_references(document))
    assert references
    for reference in references:
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["description"], f"{method} {path} says nothing about itself"
            assert "200" in operation["responses"]


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    if isinstance(node, list):
        return [found for value in node for found in _references(value)]
    return []


async def test_an_oversized_body_is_refused_whether_its_length_is_announced_or_not(admin: Admin) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 65536 + 1):
            yield b" " * 65536

    error_of(await admin.http.post("/api/v1/apply", content=b" " * (MAX_BODY_BYTES + 1)), 413, "too_large")
    error_of(await admin.http.post("/api/v1/apply", content=chunks()), 413, "too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"documents": 3}',
        b'{"documents": [], "more": 1}',
        b'{"documents": [], "dry_run": "yes"}',
        b'{"documents": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
        b'{"documents": [{"kind": NaN}]}',
        b'{"documents": [{"kind": "\xff"}]}',
        b"\x00\x01",
    ],
)
async def test_a_malformed_apply_is_refused_as_the_callers_mistake(admin: Admin, body: bytes) -> None:
    reply = await admin.http.post("/api/v1/apply", content=body, headers={"content-type": "application/json"})
    assert reply.status_code in (400, 422), reply.text
    assert reply.json()["error"]["message"]


async def test_unknown_paths_and_methods_are_told_in_the_same_shape(admin: Admin) -> None:
    error_of(await admin.http.get("/api/v1/nowhere"), 404, "http")
    error_of(await admin.http.put("/api/v1/status"), 405, "http")


def test_a_gateway_without_a_token_does_not_open_its_api() -> None:
    with pytest.raises(ValueError, match="needs a token"):
        Access("", MemoryAccess(), lambda: NOON)
