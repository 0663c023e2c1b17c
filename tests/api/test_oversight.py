"""Tokens, roles, groups, quotas and the audit log over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from router.api.guards import role_needed
from router.domain.access import Role
from router.domain.listening import Offer
from tests.api.admin import SPECS, Admin, error_of
from tests.fakes import NOON

FRAUD: list[dict[str, Any]] = [
    {"kind": "Endpoint", "name": "fraud", "group": "fraud-team"},
    {"kind": "Deployment", "name": "blue", "endpoint": "fraud", "model": "file:/blue.onnx"},
]
COMMAND = {"name": "drift", "at_most": 1, "command": ["/bin/true"]}


async def token(admin: Admin, name: str, role: str = "operator", *groups: str, **keys: Any) -> httpx.AsyncClient:
    """A client that shows a new token."""
    request = {"name": name, "role": role, "groups": list(groups), **keys}
    reply = await admin.http.post("/api/v1/tokens", json=request)
    assert reply.status_code == 200, reply.text
    return admin.client({"authorization": f"Bearer {reply.json()['secret']}"})


async def lines(admin: Admin) -> list[tuple[str, str, str]]:
    found = (await admin.http.get("/api/v1/audit", params={"after": 0})).json()["lines"]
    return [(line["actor"], line["action"], line["subject"]) for line in found]


async def test_a_viewer_looks_and_changes_nothing(admin: Admin) -> None:
    await admin.apply(*SPECS)
    async with await token(admin, "screen", "viewer") as viewer:
        assert (await viewer.get("/api/v1/endpoints/e")).status_code == 200
        error = error_of(await viewer.patch("/api/v1/endpoints/e", json={"traffic": {"green": 100}}), 403, "forbidden")
        assert error["message"] == "the token 'screen' is a viewer's: this call needs the role operator"
        error_of(await viewer.get("/api/v1/audit"), 403, "forbidden")
    assert admin.bench.desired.state("e").revision == 1


async def test_an_operator_changes_and_does_not_make_tokens(admin: Admin) -> None:
    async with await token(admin, "ci") as operator:
        assert (await operator.post("/api/v1/apply", json={"documents": SPECS})).status_code == 200
        error_of(await operator.post("/api/v1/tokens", json={"name": "mine", "role": "admin"}), 403, "forbidden")
    assert ("an operator (token ci)", "endpoint_created", "e") in await lines(admin)


async def test_every_route_that_changes_something_needs_more_than_a_viewer(admin: Admin) -> None:
    document = (await admin.http.get("/api/openapi.json")).json()
    calls = [(method.upper(), path) for path, item in document["paths"].items() for method in item]
    assert {role_needed(method, path) for method, path in calls if method != "GET"} == {Role.OPERATOR, Role.ADMIN}
    assert {path for method, path in calls if role_needed(method, path) is Role.ADMIN} == {
        "/api/v1/tokens",
        "/api/v1/tokens/{name}",
        "/api/v1/quotas",
        "/api/v1/quotas/{group}",
        "/api/v1/audit",
        "/api/v1/audit/verified",
    }


async def test_a_token_for_a_group_sees_no_other_endpoint_anywhere(admin: Admin) -> None:
    await admin.apply(*SPECS, *FRAUD)
    document = (await admin.http.get("/api/openapi.json")).json()
    async with await token(admin, "ci", "operator", "fraud-team") as limited:
        assert [item["name"] for item in (await limited.get("/api/v1/endpoints")).json()["endpoints"]] == ["fraud"]
        assert [item["name"] for item in (await limited.get("/api/v1/status")).json()["endpoints"]] == ["fraud"]
        events = (await limited.get("/api/v1/events")).json()["events"]
        assert {event["endpoint"] for event in events} <= {"", "fraud"}
        hidden = error_of(await limited.get("/api/v1/endpoints/e"), 404, "not_found")
        unknown = error_of(await limited.get("/api/v1/endpoints/x"), 404, "not_found")
        assert {**hidden, "message": ""} == {**unknown, "message": ""}
        assert hidden["known"] == ["fraud"]
        below = [path for path in document["paths"] if path.startswith("/api/v1/endpoints/{")]
        assert len(below) >= 10
        for path in below:
            of_hidden = path.replace("{endpoint}", "e").replace("{name}", "e" if "{endpoint}" not in path else "blue")
            for method in document["paths"][path]:
                reply = await limited.request(method, of_hidden, json={"to": "green"}, params={"revision": 1})
                assert reply.status_code in (404, 422), (method, path, reply.text)
                assert "mirror" not in reply.text


async def test_a_token_for_a_group_applies_only_within_it(admin: Admin) -> None:
    await admin.apply(*SPECS)
    async with await token(admin, "ci", "operator", "fraud-team") as limited:
        for documents in (
            SPECS,  # somebody else's
            [{"kind": "Endpoint", "name": "e", "group": "fraud-team"}],  # taking it over
            [{"kind": "Endpoint", "name": "new"}],  # in no group
            [*FRAUD, SPECS[1]],  # one of each
        ):
            reply = await limited.post("/api/v1/apply", json={"documents": documents})
            assert "group: fraud-team" in error_of(reply, 403, "forbidden")["message"]
        assert (await limited.post("/api/v1/apply", json={"documents": FRAUD})).status_code == 200
        moved = await limited.post("/api/v1/apply", json={"documents": [{"kind": "Endpoint", "name": "fraud"}]})
        error_of(moved, 403, "forbidden")


async def test_only_an_admin_may_have_programs_run(admin: Admin) -> None:
    await admin.apply(*SPECS)
    await admin.http.patch("/api/v1/endpoints/e", json={"mirror_traffic": {}})
    rollout = {"to": "green", "analysis": {"metrics": [COMMAND]}}
    async with await token(admin, "ci") as operator:
        error_of(await operator.post("/api/v1/endpoints/e/rollouts", json=rollout), 403, "forbidden")
        document = {"kind": "Rollout", "endpoint": "e", **rollout}
        error_of(await operator.post("/api/v1/apply", json={"documents": [document]}), 403, "forbidden")
    assert (await admin.http.post("/api/v1/endpoints/e/rollouts", json=rollout)).status_code == 200


async def test_a_watch_whose_rollouts_run_programs_takes_an_admin_too(admin: Admin) -> None:
    watch = {"policy": "auto", "rollout": {"analysis": {"metrics": [COMMAND]}}}
    documents = [{"kind": "Endpoint", "name": "fraud", "watch": watch}]
    async with await token(admin, "ci") as operator:
        error_of(await operator.post("/api/v1/apply", json={"documents": documents}), 403, "forbidden")
    assert (await admin.apply(*documents)).status_code == 200


async def test_a_revoked_and_an_expired_token_are_refused(admin: Admin) -> None:
    async with await token(admin, "ci") as revoked, await token(admin, "brief", valid_for_s=60) as brief:
        assert (await brief.get("/api/v1/endpoints")).status_code == 200
        await admin.http.delete("/api/v1/tokens/ci")
        error_of(await revoked.get("/api/v1/endpoints"), 401, "unauthorized")
    assert [item["name"] for item in (await admin.http.get("/api/v1/tokens")).json()["tokens"]] == ["brief"]
    error_of(await admin.http.delete("/api/v1/tokens/ci"), 404, "not_found")
    error_of(await admin.http.post("/api/v1/tokens", json={"name": "brief"}), 409, "conflict")
    error_of(await admin.http.post("/api/v1/tokens", json={"name": "root"}), 409, "conflict")


async def test_many_wrong_tokens_are_slowed_down_told_once_and_keep_no_valid_one_out(admin: Admin) -> None:
    async with admin.client({"authorization": "Bearer guess"}) as stranger:
        statuses = [(await stranger.get("/api/v1/endpoints")).status_code for _ in range(12)]
        assert statuses == [401] * 10 + [429] * 2
        assert int((await stranger.get("/api/v1/endpoints")).headers["retry-after"]) == 60
    assert (await admin.http.get("/api/v1/endpoints")).status_code == 200
    assert [line for line in await lines(admin) if line[1] == "login_refused"] == [
        ("127.0.0.1", "login_refused", "admin API")
    ]


async def test_secrets_are_in_no_list_and_no_line_of_the_log(admin: Admin) -> None:
    made = (await admin.http.post("/api/v1/tokens", json={"name": "ci"})).json()
    assert made["secret"].startswith("cfo_")
    for path in ("tokens", "audit", "audit/verified", "status", "events"):
        assert made["secret"] not in (await admin.http.get(f"/api/v1/{path}")).text


async def test_a_quota_refuses_more_and_leaves_what_runs(admin: Admin) -> None:
    await admin.apply(*FRAUD)
    reply = await admin.http.put("/api/v1/quotas/fraud-team", json={"replicas": 2})
    assert reply.json()["usage"] == {"deployments": 1, "replicas": 1, "cpus": 1.0, "gpus": 0.0}
    scale = "/api/v1/endpoints/fraud/deployments/blue"
    assert (await admin.http.patch(scale, json={"instance_count": 2})).status_code == 200
    error = error_of(await admin.http.patch(scale, json={"instance_count": 3}), 409, "quota_exceeded")
    assert error["message"].startswith("group 'fraud-team' would use 3 replicas of 2")
    error_of(await admin.apply(FRAUD[1] | {"instance_count": 3}, dry_run=True), 409, "quota_exceeded")
    await admin.http.put("/api/v1/quotas/fraud-team", json={"replicas": 1})
    assert (await admin.http.patch(scale, json={"instance_count": 1})).status_code == 200
    await admin.http.delete("/api/v1/quotas/fraud-team")
    assert (await admin.http.patch(scale, json={"instance_count": 5})).status_code == 200
    error_of(await admin.http.delete("/api/v1/quotas/fraud-team"), 404, "not_found")


@pytest.mark.parametrize("request_body", [{"replicas": -1}, {"replicas": "two"}, {"memory": 1}])
async def test_a_quota_that_makes_no_sense_is_refused(admin: Admin, request_body: dict[str, Any]) -> None:
    assert (await admin.http.put("/api/v1/quotas/fraud-team", json=request_body)).status_code == 422


async def test_the_audit_log_tells_who_did_what_and_that_nothing_was_altered(admin: Admin) -> None:
    await admin.apply(*SPECS)
    await admin.http.patch("/api/v1/endpoints/e", json={"traffic": {"blue": 100}, "mirror_traffic": {}})
    await admin.http.delete("/api/v1/endpoints/e/deployments/green", headers={"x-crossfade-by": "ann"})
    await admin.http.post("/api/v1/tokens", json={"name": "ci"})
    assert await lines(admin) == [
        ("an operator", "endpoint_created", "e"),
        ("an operator", "deployment_created", "e/blue"),
        ("an operator", "deployment_created", "e/green"),
        ("an operator", "endpoint_changed", "e"),
        ("ann", "deployment_deleted", "e/green"),
        ("an operator", "token_created", "ci"),
    ]
    found = (await admin.http.get("/api/v1/audit", params={"limit": 2})).json()["lines"]
    assert [line["number"] for line in found] == [5, 6]
    assert found[0]["at"].startswith(NOON.isoformat()[:19])
    verified = (await admin.http.get("/api/v1/audit/verified")).json()
    assert verified == {"is_whole": True, "lines": 6, "head": found[1]["hash"], "broken_at": None, "reason": ""}


async def test_what_changed_nothing_leaves_no_line(admin: Admin) -> None:
    await admin.apply(*SPECS)
    before = await lines(admin)
    await admin.apply(*SPECS)
    await admin.apply({"kind": "Endpoint", "name": "e", "trafic": {}})
    assert await lines(admin) == before


GATEWAY = {
    "kind": "Gateway",
    "listeners": [
        {"name": "default", "endpoints": "all"},
        {"name": "inside", "address": "10.0.0.5", "port": 9000, "tls": False, "endpoints": ["fraud"]},
    ],
}


async def test_only_an_admin_says_where_scoring_is_offered(admin: Admin) -> None:
    for role in ("operator", "viewer"):
        async with await token(admin, f"a-{role}", role) as other:
            error_of(await other.post("/api/v1/apply", json={"documents": [GATEWAY]}), 403, "forbidden")
    done = (await admin.apply(GATEWAY)).json()
    (change,) = done["changes"]
    assert (change["kind"], change["endpoint"], change["name"], change["action"]) == (
        "gateway",
        "",
        "gateway",
        "changed",
    )
    assert change["fields"][0]["key"] == "listener inside"
    assert (await admin.http.get("/api/v1/gateway/settled")).json() == {"outcome": "in_force", "reason": ""}
    admin.bench.reconciler.rejections[""] = "cannot bind"
    failed = (await admin.http.get("/api/v1/gateway/settled")).json()
    assert failed == {"outcome": "failed", "reason": "cannot bind"}


async def test_status_warns_of_keys_in_clear_text(admin: Admin) -> None:
    admin.gateway.offers = (Offer("inside", "10.0.0.5", (9000,), is_tls=False),)
    await admin.apply({"kind": "Endpoint", "name": "fraud", "auth_mode": "key"})
    (warning,) = (await admin.http.get("/api/v1/status")).json()["warnings"]
    assert "endpoint 'fraud' takes keys in clear text at listener 'inside'" in warning


async def test_listeners_are_shown_to_who_sees_every_endpoint(admin: Admin) -> None:
    await admin.apply(GATEWAY)
    async with await token(admin, "looks", "viewer") as viewer:
        shown = (await viewer.get("/api/v1/gateway")).json()
    assert [item["name"] for item in shown["listeners"]] == ["default", "inside"]
    assert (await admin.apply(shown["spec"])).json()["changes"][0]["action"] == "unchanged"
    async with await token(admin, "ci", "operator", "fraud-team") as limited:
        error_of(await limited.get("/api/v1/gateway"), 403, "forbidden")
        assert "fraud" not in (await limited.get("/api/v1/events")).text
