"""Routes about watched references."""

from __future__ import annotations

from router.domain.watching import Failed, Known, Moved, Named, Refused
from tests.api.admin import SPECS, Admin, error_of

WATCHED = [{**SPECS[0], "mirror_traffic": {}, "watch": {"policy": "notify", "every": "30s"}}, *SPECS[1:]]
NEXT = Known("r2", "", "models:/fraud/2", "2")


async def test_a_watched_endpoint_tells_what_its_reference_names_and_what_it_waits_for(admin: Admin) -> None:
    assert (await admin.apply(*WATCHED)).status_code == 200
    admin.bench.watching.happen("e", Named(NEXT), Failed("no route to host"))
    shown = (await admin.http.get("/api/v1/endpoints/e/watch")).json()
    assert shown["waits_for"] == "waits for somebody's yes: crossfade model accept e"
    assert (shown["stage"], shown["policy"], shown["ref"]) == ("moved", "notify", "file:/blue.onnx")
    assert shown["model"] == {"pinned": "models:/fraud/2", "version": "2", "revision": "r2", "sha256": ""}
    assert shown["in_service"]["pinned"] == "models:/fraud/1"
    assert (shown["failures"], shown["trouble"], shown["staleness_s"]) == (1, "no route to host", 0.0)
    assert (await admin.http.get("/api/v1/watches")).json()["watches"] == [shown]
    endpoint = (await admin.http.get("/api/v1/endpoints/e")).json()
    assert endpoint["watch"]["every"] == "30s"


async def test_a_yes_names_who_said_it(admin: Admin) -> None:
    await admin.apply(*WATCHED)
    admin.bench.watching.happen("e", Named(NEXT))
    path, ann = "/api/v1/endpoints/e/watch/accept", {"x-crossfade-by": "ann"}
    reply = await admin.http.post(path, json={"allow_signature_change": True}, headers=ann)
    assert (reply.status_code, reply.json()["accepted_by"]) == (200, "ann")
    stage = admin.bench.watching.standing("e").watched.stage
    assert isinstance(stage, Moved)
    assert stage.consent
    assert stage.consent.may_change_signature


async def test_what_is_barred_is_told_with_its_reason(admin: Admin) -> None:
    await admin.apply(*WATCHED)
    admin.bench.watching.happen("e", Named(NEXT), Refused(NEXT, "graph: a Loop that never ends"))
    shown = (await admin.http.get("/api/v1/endpoints/e/watch")).json()
    assert shown["stage"] == "stopped"
    assert [bar["reason"] for bar in shown["barred"]] == ["graph: a Loop that never ends"]


async def test_where_nothing_is_watched_or_nothing_new_there_is_nothing_to_accept(admin: Admin) -> None:
    await admin.apply(*SPECS)
    path = "/api/v1/endpoints/e/watch"
    error_of(await admin.http.get(path), 409, "conflict")
    error_of(await admin.http.get("/api/v1/endpoints/f/watch"), 404, "not_found")
    assert (await admin.http.get("/api/v1/watches")).json() == {"watches": []}
    await admin.apply(*WATCHED)
    error_of(await admin.http.post(f"{path}/accept"), 409, "conflict")
    error_of(await admin.http.post(f"{path}/accept", json={"allow_signature_change": "yes"}), 422, "malformed_request")


async def test_the_same_spec_applied_again_moves_neither_traffic_nor_models_of_a_watched_endpoint(admin: Admin) -> None:
    await admin.apply(*WATCHED)
    before = (await admin.http.get("/api/v1/endpoints/e/deployments/blue")).json()["model_sha256"]
    await admin.http.patch("/api/v1/endpoints/e", json={"traffic": {"green": 100}})
    admin.bench.models.content["file:/blue.onnx"] = "b"
    admin.bench.models.asked.clear()
    done = (await admin.apply(*WATCHED)).json()
    assert done["notes"] == ["traffic of endpoint 'e' is left to its watch, and stays as it is"]
    assert (await admin.http.get("/api/v1/endpoints/e")).json()["traffic"] == {"green": 100}
    assert (await admin.http.get("/api/v1/endpoints/e/deployments/blue")).json()["model_sha256"] == before
    assert admin.bench.models.asked == [], "it needs no source"
    without = [{key: value for key, value in WATCHED[0].items() if key != "watch"}, *WATCHED[1:]]
    await admin.apply(*without)
    assert (await admin.http.get("/api/v1/endpoints/e")).json()["traffic"] == {"blue": 100}
    assert (await admin.http.get("/api/v1/endpoints/e/deployments/blue")).json()["model_sha256"] == "b" * 64
