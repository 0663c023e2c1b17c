"""Rollouts over the admin API: started, watched, steered, taken back, remembered; and as documents that are applied."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from router.domain.rollout import Phase
from tests.api.admin import SPECS, Admin, error_of
from tests.fake_rollouts import FAIL, MINUTE, PASS, UNSURE

ENDPOINT = {"kind": "Endpoint", "name": "e", "traffic": {"blue": 100}}
BOTH = (ENDPOINT, *SPECS[1:])
ROLLOUT = {"kind": "Rollout", "endpoint": "e", "to": "green", "strategy": "all_at_once"}
DIRECT = {
    "kind": "Deployment",
    "name": "green",
    "endpoint": "e",
    "backend": "triton",
    "triton": {"mode": "direct", "servers": [{"host": "t1"}], "model": "m"},
}
COMPARING = {
    **{key: ROLLOUT[key] for key in ("kind", "endpoint", "to")},
    "steps": [{"set_mirror": 10}, {"analyze": {"min_pairs": 9}}, {"set_weight": 100}],
}
BASE = "/api/v1/endpoints/e"


async def started(admin: Admin, **spec: Any) -> dict[str, Any]:
    await admin.apply(*BOTH)
    body = spec or {"strategy": "canary"}
    reply = await admin.http.post(f"{BASE}/rollouts", json={"to": "green", **body}, headers={"x-crossfade-by": "ann"})
    assert reply.status_code == 200, reply.text
    view: dict[str, Any] = reply.json()
    return view


async def latest(admin: Admin) -> dict[str, Any]:
    view: dict[str, Any] = (await admin.http.get(f"{BASE}/rollout")).json()
    return view


async def post(admin: Admin, command: str, body: Any = None, by: str = "bob") -> httpx.Response:
    return await admin.http.post(f"{BASE}/rollout/{command}", json=body, headers={"x-crossfade-by": by})


async def test_a_rollout_is_shown_with_its_steps_weights_replicas_and_evidence(admin: Admin) -> None:
    view = await started(admin)
    assert (view["phase"], view["stable"], view["candidate"], view["strategy"]) == (
        "progressing",
        "blue",
        "green",
        "canary",
    )
    assert view["started_by"] == "ann"
    assert [step["text"] for step in view["steps"][:3]] == ["mirror 10%", "analyze, 60 s or more", "weight 1%"]
    assert [step["state"] for step in view["steps"][:3]] == ["done", "current", "next"]
    assert view["steps"][0]["spec"] == {"set_mirror": 10}
    assert (view["step"], view["weight"], view["mirror"]) == (2, 0, 10)
    assert view["in_force"] == {"traffic": {"blue": 100}, "mirror_traffic": {"green": 10}}
    assert view["replicas"]["candidate"] == {"ready": 1, "wanted": 1}
    assert (view["verdict"], view["exposure_s"], view["outcome"], view["is_over"]) == (None, None, "", False)
    assert view["spec"]["analysis"]["alpha"] == 0.01

    admin.bench.rollouts.happen("e", UNSURE)
    view = await latest(admin)
    (row,) = view["verdict"]["rows"]
    assert row["metric"] == "errors"
    assert row["candidate"] == {"requests": 200, "hits": 1, "rate": 0.005}
    assert "needs about 420 more candidate requests" in row["sentence"]
    assert view["exposure_s"] == 0.2


async def test_a_weight_that_is_asked_for_is_not_one_in_force(admin: Admin) -> None:
    await started(admin, steps=[{"set_weight": 10}, {"pause": "until_promoted"}, {"set_weight": 100}])
    admin.bench.rollouts.held.add("e")
    view = (await post(admin, "promote", {"full": False})).json()
    assert (view["weight"], view["asked"]["traffic"]) == (10, {"green": 100})


async def test_what_a_rollout_was_given_would_start_it_again(admin: Admin) -> None:
    view = await started(admin, strategy="all_at_once", shield=False, keep_old="5m", analysis={"alpha": 0.05})
    spec = view["spec"]
    await post(admin, "abort")
    again = await admin.http.post(f"{BASE}/rollouts", json=spec)
    assert again.json()["spec"] == spec
    assert (spec["shield"], spec["keep_old"], spec["analysis"]["alpha"]) == (False, "5m", 0.05)


@pytest.mark.parametrize(
    ("body", "key", "hint"),
    [
        ({}, "", "The deployment that the traffic is moved to."),
        ({"to": "green", "stratgy": "canary"}, "stratgy", "did you mean 'strategy'?"),
        ({"to": "green", "steps": [{"set_weight": 50}]}, "steps", "end with set_weight: 100, or use no weights"),
        ({"to": "green", "keep_old": 60}, "keep_old", "did you mean '60s'?"),
        ({"to": "green", "endpoint": "f"}, "endpoint", "leave it out"),
        ({"kind": "Endpoint", "name": "e", "to": "green"}, "endpoint", ""),
    ],
)
async def test_a_rollout_that_cannot_be_is_refused_with_its_key(
    admin: Admin, body: dict[str, Any], key: str, hint: str
) -> None:
    await admin.apply(*BOTH)
    error = error_of(await admin.http.post(f"{BASE}/rollouts", json=body), 422, "invalid")
    assert error["problems"][0]["key"] == key
    assert hint in error["problems"][0]["hint"]
    error_of(await admin.http.get(f"{BASE}/rollout"), 404, "not_found")


async def test_who_is_not_there_is_named(admin: Admin) -> None:
    await admin.apply(*BOTH)
    error = error_of(await admin.http.post(f"{BASE}/rollouts", json={"to": "gren"}), 404, "not_found")
    assert error["hint"] == "did you mean 'green'?"
    for method, path in (
        ("POST", "rollouts"),
        ("GET", "rollouts"),
        ("GET", "rollout"),
        ("GET", "rollout/changed"),
        ("GET", "rollout/trail"),
        ("GET", "rollout/differences"),
        *(("POST", f"rollout/{command}") for command in ("pause", "resume", "promote", "abort", "undo")),
    ):
        reply = await admin.http.request(
            method,
            f"/api/v1/endpoints/ee/{path}",
            json={"to": "green"} if method == "POST" and path == "rollouts" else None,
        )
        assert error_of(reply, 404, "not_found")["hint"] == "did you mean 'e'?"


async def test_a_second_rollout_is_refused_while_one_is_under_way(admin: Admin) -> None:
    await started(admin)
    error_of(await admin.http.post(f"{BASE}/rollouts", json={"to": "green"}), 409, "conflict")


async def test_it_is_paused_resumed_promoted_and_aborted_and_the_trail_says_by_whom(admin: Admin) -> None:
    await started(admin, strategy="all_at_once")
    paused = (await post(admin, "pause")).json()
    assert (paused["phase"], paused["pause"], paused["reason"]) == ("paused", "operator", "paused by bob")
    error_of(await post(admin, "pause"), 409, "conflict")
    assert (await post(admin, "resume", by="")).json()["phase"] == "progressing"
    aborted = (await post(admin, "abort", {"reason": "looks odd"}, by="eve\x7f")).json()
    assert (aborted["phase"], aborted["outcome"], aborted["is_over"]) == ("aborted", "aborted", True)
    error_of(await post(admin, "abort"), 409, "conflict")
    error_of(await post(admin, "undo"), 409, "conflict")
    entries = (await admin.http.get(f"{BASE}/rollout/trail")).json()["entries"]
    assert [entry["by"] for entry in entries if entry["by"] != "crossfade"] == [
        "ann",
        "bob",
        "an operator",
        "an operator",
    ]
    assert "aborted by an operator: looks odd" in entries[-2]["message"]
    last = (await admin.http.get(f"{BASE}/rollout/trail", params={"limit": 1})).json()["entries"]
    assert last == entries[-1:]


async def test_promote_takes_one_step_or_with_full_all_and_undo_goes_back(admin: Admin) -> None:
    await started(
        admin,
        steps=[
            {"set_weight": 10},
            {"pause": "until_promoted"},
            {"set_weight": 50},
            {"pause": "until_promoted"},
            {"set_weight": 100},
        ],
    )
    assert (await post(admin, "promote")).json()["weight"] == 50
    done = (await post(admin, "promote", {"full": True})).json()
    assert (done["phase"], done["outcome"], done["weight"], done["step"]) == ("promoted", "promoted", 100, 6)
    back = (await post(admin, "undo")).json()
    assert (back["stable"], back["candidate"], back["undoes"], back["weight"]) == ("green", "blue", done["id"], 100)
    rollouts = (await admin.http.get(f"{BASE}/rollouts")).json()["rollouts"]
    assert [rollout["id"] for rollout in rollouts] == [back["id"], done["id"]]


@pytest.mark.parametrize(
    ("command", "body"), [("promote", {"full": "yes"}), ("promote", {"all": True}), ("abort", {"reason": "x" * 501})]
)
async def test_a_malformed_command_changes_nothing(admin: Admin, command: str, body: Any) -> None:
    before = await started(admin)
    error_of(await post(admin, command, body), 422, "malformed_request")
    assert await latest(admin) == before


async def test_waiting_ends_when_something_changes_or_the_time_is_over(admin: Admin) -> None:
    first = await started(admin)

    async def changed(seen: str) -> dict[str, Any]:
        query = {"seen": seen, "timeout_s": 0.01}
        view: dict[str, Any] = (await admin.http.get(f"{BASE}/rollout/changed", params=query)).json()
        return view

    assert await changed("") == first
    assert await changed(first["version"]) == first
    admin.bench.rollouts.script = [UNSURE, MINUTE]
    second = await changed(first["version"])
    assert second["version"] != first["version"]
    assert second["verdict"]["result"] == "inconclusive"
    assert await changed(first["version"]) == second  # what was missed is told at once
    assert len(admin.bench.rollouts.script) == 1


async def test_differences_are_listed_with_how_many_were_compared(admin: Admin) -> None:
    await admin.apply(*BOTH)
    reply = (await admin.http.get(f"{BASE}/rollout/differences", params={"limit": 1})).json()
    assert reply["answers"] == {"pairs": 100, "differ": 2}
    assert (reply["mirrored"], reply["arrived"]) == (105, 100)
    (difference,) = reply["differences"]
    assert (difference["reason"], difference["candidate"]) == ("top class 3 → 7", {"scores": "top class 7 (0.91)"})


async def test_an_endpoint_shows_the_rollout_that_is_under_way(admin: Admin) -> None:
    await started(admin)
    line = (await admin.http.get(BASE)).json()["rollout"]
    assert (line["candidate"], line["step"], line["steps"], line["step_text"]) == (
        "green",
        2,
        14,
        "analyze, 60 s or more",
    )
    assert (await admin.http.get("/api/v1/status")).json()["endpoints"][0]["rollout"] == line
    await post(admin, "abort")
    assert (await admin.http.get(BASE)).json()["rollout"] is None


AT_MIRROR: list[Any] = [{"set_mirror": 10}, {"analyze": {}}]
AT_WEIGHT: list[Any] = [{"set_weight": 10}, {"analyze": {}}, {"set_weight": 100}]
AT_PAUSE: list[Any] = [{"pause": "until_promoted"}, {"set_weight": 100}]


@pytest.mark.parametrize("steps", [AT_MIRROR, AT_WEIGHT, AT_PAUSE])
async def test_changes_by_hand_are_refused_while_a_rollout_is_under_way_unless_forced(
    admin: Admin, steps: list[Any]
) -> None:
    under_way = await started(admin, steps=steps)
    change = {"traffic": {"blue": 50, "green": 50}}
    for refused in (
        await admin.http.patch(BASE, json=change),
        await admin.http.delete(f"{BASE}/deployments/green"),
        await admin.apply(SPECS[2] | {"resources": {"cpu": 2}}),
    ):
        assert "crossfade rollout abort e" in error_of(refused, 409, "conflict")["message"]
    error = error_of(await admin.http.patch(BASE, json={"traffic": {"gren": 100}}), 422, "invalid")
    assert error["problems"][0]["key"] == "traffic.gren"
    assert await latest(admin) == under_way
    forced = await admin.http.patch(BASE, json=change, params={"force": "true"}, headers={"x-crossfade-by": "eve"})
    assert forced.status_code == 200, forced.text
    view = await latest(admin)
    assert (view["outcome"], view["reason"]) == ("aborted", "aborted by eve")
    assert (await admin.http.get(BASE)).json()["traffic"] == {"blue": 50, "green": 50}


@pytest.mark.parametrize("steps", [AT_MIRROR, AT_WEIGHT, AT_PAUSE])
async def test_a_forced_deletion_and_a_forced_apply_abort_the_rollout_too(admin: Admin, steps: list[Any]) -> None:
    await started(admin, steps=steps)
    gone = await admin.http.delete(f"{BASE}/deployments/green", params={"force": "true"})
    assert gone.status_code == 200, gone.text
    assert (await latest(admin))["outcome"] == "aborted"
    await started(admin, steps=steps)
    changed = await admin.apply(SPECS[2] | {"resources": {"cpu": 2}}, force=True)
    assert changed.status_code == 200, changed.text
    assert (await latest(admin))["outcome"] == "aborted"


# --- documents of kind Rollout -----------------------------------------------------------------------------------


def actions(reply: httpx.Response) -> dict[str, str]:
    assert reply.status_code == 200, reply.text
    return {f"{change['kind']} {change['name']}": change["action"] for change in reply.json()["changes"]}


async def test_applying_a_file_with_a_rollout_starts_it_once(admin: Admin) -> None:
    dry = await admin.apply(*BOTH, ROLLOUT, dry_run=True)
    assert actions(dry)["rollout green"] == "created"
    assert admin.bench.desired.states == {}
    assert actions(await admin.apply(*BOTH, ROLLOUT)) == {
        "endpoint e": "created",
        "deployment blue": "created",
        "deployment green": "created",
        "rollout green": "created",
    }
    running = await latest(admin)
    assert running["weight"] == 100
    again = await admin.apply(*BOTH, ROLLOUT)
    assert set(actions(again).values()) == {"unchanged"}
    assert again.json()["notes"] == ["traffic of endpoint 'e' is left to its rollout, and stays as it is"]
    assert await latest(admin) == running


async def test_applying_it_again_after_it_succeeded_moves_nothing_back(admin: Admin) -> None:
    await admin.apply(*BOTH, ROLLOUT)
    admin.bench.rollouts.happen("e", PASS, *[MINUTE] * 11)
    assert admin.bench.rollouts.latest("e").phase is Phase.SUCCEEDED
    revision = admin.bench.desired.state("e").revision
    sized = (ENDPOINT, SPECS[1] | {"instance_count": 1}, SPECS[2])
    again = await admin.apply(*sized, ROLLOUT)
    assert set(actions(again).values()) == {"unchanged"}
    assert again.json()["notes"] == [
        "traffic of endpoint 'e' is left to its rollout, and stays as it is",
        "instance_count of 'blue', which is retired, stays as the rollout left it",
    ]
    state = admin.bench.desired.state("e")
    assert state.revision == revision
    assert state.endpoint.traffic.as_dict() == {"green": 100}
    assert state.deployment("blue").spec.instance_count == 0


async def test_applying_it_again_after_it_was_rolled_back_tries_again(admin: Admin) -> None:
    await admin.apply(*BOTH, ROLLOUT)
    admin.bench.rollouts.happen("e", FAIL)
    assert (await latest(admin))["outcome"] == "rolled_back"
    assert actions(await admin.apply(*BOTH, ROLLOUT))["rollout green"] == "created"
    assert len(admin.bench.rollouts.history("e")) == 2


async def test_a_shadow_that_ended_well_is_not_repeated(admin: Admin) -> None:
    shadow = ROLLOUT | {"strategy": "shadow"}
    await admin.apply(*BOTH, shadow)
    admin.bench.rollouts.happen("e", PASS, MINUTE)
    assert admin.bench.rollouts.latest("e").phase is Phase.SUCCEEDED
    assert actions(await admin.apply(*BOTH, shadow))["rollout green"] == "unchanged"
    assert actions(await admin.apply(ROLLOUT))["rollout green"] == "created"


async def test_a_rollout_waits_until_the_rest_of_the_file_is_in_force(admin: Admin) -> None:
    admin.bench.reconciler.held.add("e")
    assert actions(await admin.apply(*BOTH, ROLLOUT))["rollout green"] == "waiting"
    error_of(await admin.http.get(f"{BASE}/rollout"), 404, "not_found")
    admin.bench.reconciler.held.clear()
    assert actions(await admin.apply(ROLLOUT)) == {"rollout green": "created"}


async def test_another_rollout_in_the_way_refuses_the_whole_file(admin: Admin) -> None:
    await started(admin)
    more = SPECS[2] | {"resources": {"cpu": 2}}
    error_of(await admin.apply(ENDPOINT, more, ROLLOUT), 409, "conflict")
    assert admin.bench.desired.state("e").deployment("green").spec.resources.cpu == 1


@pytest.mark.parametrize(
    ("documents", "key", "message"),
    [
        ((*BOTH, ROLLOUT | {"to": "red"}), "to", "endpoint 'e' has no deployment 'red'"),
        ((ROLLOUT,), "endpoint", "endpoint 'e' does not exist"),
        (({**ENDPOINT, "traffic": {}}, *SPECS[1:], ROLLOUT), "endpoint", "and it is with nobody"),
        (({**ENDPOINT, "traffic": {"blue": 90, "green": 10}}, *SPECS[1:], ROLLOUT), "endpoint", "blue=90 green=10"),
        (
            ({**ENDPOINT, "traffic": {"green": 100}}, *SPECS[1:], ROLLOUT),
            "to",
            "begins with all the traffic on 'green'",
        ),
        ((*BOTH[:2], SPECS[2] | {"instance_count": 0}, ROLLOUT), "to", "has no instances"),
        ((*BOTH[:2], DIRECT, COMPARING), "steps", "nobody records those of 'green'"),
    ],
)
async def test_a_rollout_that_could_not_start_refuses_the_whole_file(
    admin: Admin, documents: tuple[dict[str, Any], ...], key: str, message: str
) -> None:
    error = error_of(await admin.apply(*documents), 422, "invalid")
    assert error["problems"][-1]["key"] == key
    assert message in error["problems"][-1]["message"]
    assert error["problems"][-1]["document"] == len(documents) - 1
    assert admin.bench.desired.states == {}
