"""Plans: what an apply or a single change would do to the states, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from router.domain.endpoint import EndpointState
from router.domain.errors import Conflict, Invalid, ModelUnavailable, NotFound
from router.domain.listening import DEFAULT, Offer
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.scaling import ScaleSettings
from router.domain.traffic import Mirror, Traffic
from router.plan import Action, FieldChange, Plan
from router.plan_commands import plan_deployment_removal, plan_endpoint_removal, plan_scale, plan_traffic
from router.plan_documents import Models, plan_apply
from router.rules import Rules
from router.spec import Document, SpecProblems, read_documents
from router.spec.changes import TrafficChange

OPEN = Rules()


def endpoint(name: str = "e", **keys: Any) -> dict[str, Any]:
    return {"kind": "Endpoint", "name": name, **keys}


def deployment(name: str = "blue", of: str = "e", **keys: Any) -> dict[str, Any]:
    return {"kind": "Deployment", "name": name, "endpoint": of, "model": "file:/m.onnx", **keys}


def models_of(documents: tuple[Document, ...], digit: str = "a") -> Models:
    named = {document.content.model for document in documents if hasattr(document.content, "model")}
    return {ref: ResolvedModel(ref.location, digit * 64) for ref in named if isinstance(ref, ModelRef)}


def plan(states: dict[str, EndpointState], *specs: dict[str, Any], digit: str = "a", rules: Rules = OPEN) -> Plan:
    documents = read_documents(specs)
    return plan_apply(states, documents, models_of(documents, digit), rules)


def state_after(*specs: dict[str, Any]) -> EndpointState:
    (state,) = plan({}, *specs).changed
    return state


def refused(states: dict[str, EndpointState], *specs: dict[str, Any], rules: Rules = OPEN) -> list[str]:
    with pytest.raises(SpecProblems) as refusal:
        plan(states, *specs, rules=rules)
    return [str(problem) for problem in refusal.value.problems]


def actions(made: Plan) -> list[tuple[Action, str]]:
    return [(change.action, change.deployment or change.endpoint) for change in made.changes]


BLUE_LIVE = (endpoint(traffic={"blue": 100}), deployment("blue"))


def test_a_new_endpoint_and_its_deployment_come_into_being_together_at_revision_1() -> None:
    made = plan({}, *BLUE_LIVE)
    (state,) = made.changed
    assert state.revision == 1
    assert state.endpoint.traffic == Traffic.of({"blue": 100})
    assert actions(made) == [(Action.CREATED, "e"), (Action.CREATED, "blue")]


def test_the_order_of_documents_does_not_matter() -> None:
    assert plan({}, *reversed(BLUE_LIVE)).changed == plan({}, *BLUE_LIVE).changed


def test_applying_the_same_again_changes_nothing() -> None:
    state = state_after(*BLUE_LIVE)
    made = plan({"e": state}, *BLUE_LIVE)
    assert made.changed == ()
    assert actions(made) == [(Action.UNCHANGED, "e"), (Action.UNCHANGED, "blue")]


def test_a_new_deployment_starts_without_traffic() -> None:
    state = state_after(*BLUE_LIVE)
    (after,) = plan({"e": state}, deployment("green")).changed
    assert after.endpoint.traffic == Traffic.of({"blue": 100})
    assert sorted(after.deployments) == ["blue", "green"]
    assert after.revision == 2


def test_what_has_a_command_of_its_own_survives_a_spec_that_does_not_name_it() -> None:
    state = state_after(
        endpoint(traffic={"blue": 100}, mirror_traffic={"green": 5}),
        deployment("blue", instance_count=3),
        deployment("green"),
    )
    (after,) = plan({"e": state}, endpoint(allow_anonymous=True), deployment("blue", model_version="2")).changed
    assert after.endpoint.traffic == Traffic.of({"blue": 100})
    assert after.endpoint.mirror == Mirror("green", 5)
    assert after.deployments["blue"].spec.instance_count == 3


def test_every_other_key_that_is_left_out_means_its_default() -> None:
    state = state_after(endpoint(allow_anonymous=True), deployment("blue", resources={"cpu": 4}, model_version="7"))
    (after,) = plan({"e": state}, endpoint(), deployment("blue")).changed
    assert after.endpoint.allow_anonymous is False
    assert after.deployments["blue"].spec.resources.cpu == 1
    assert after.deployments["blue"].model_version == "a" * 12


def test_a_change_says_which_keys_differ_and_how() -> None:
    state = state_after(*BLUE_LIVE, deployment("green"))
    made = plan({"e": state}, endpoint(traffic={"green": 100}), deployment("blue", resources={"cpu": 2}))
    assert [change.fields for change in made.changes] == [
        (FieldChange("traffic", {"blue": 100}, {"green": 100}),),
        (FieldChange("resources.cpu", 1, 2),),
    ]


def test_new_content_behind_the_same_reference_is_a_change() -> None:
    state = state_after(*BLUE_LIVE)
    made = plan({"e": state}, deployment("blue"), digit="b")
    assert made.changes[0].fields == (FieldChange("model_sha256", "a" * 64, "b" * 64),)
    assert made.changed[0].deployments["blue"].model.sha256 == "b" * 64


def test_other_endpoints_are_not_touched() -> None:
    one, two = state_after(*BLUE_LIVE), state_after(endpoint("f"))
    assert [state.endpoint.name for state in plan({"e": one, "f": two}, deployment("green")).changed] == ["e"]


def test_traffic_to_a_deployment_that_nobody_has_is_refused() -> None:
    state = state_after(*BLUE_LIVE)
    assert refused({"e": state}, endpoint(traffic={"blu": 100}, mirror_traffic={"green": 1})) == [
        "document 1: traffic.blu: endpoint 'e' has no deployment 'blu' (did you mean 'blue'?)",
        "document 1: mirror_traffic.green: endpoint 'e' has no deployment 'green' (known: blue)",
    ]


def test_a_deployment_of_an_endpoint_that_nobody_has_is_refused() -> None:
    state = state_after(*BLUE_LIVE)
    assert refused({}, deployment()) == [
        "document 1: endpoint: endpoint 'e' does not exist (add a document of kind Endpoint)"
    ]
    assert refused({"eel": state}, deployment(of="eels")) == [
        "document 1: endpoint: endpoint 'eels' does not exist (did you mean 'eel'?)"
    ]


def test_a_missing_model_is_refused_together_with_every_other_problem() -> None:
    documents = read_documents([deployment("blue"), endpoint(traffic={"red": 100}), endpoint("f"), deployment(of="g")])
    ref = next(iter(models_of(documents)))
    with pytest.raises(SpecProblems) as refusal:
        plan_apply({}, documents, {ref: ModelUnavailable("file:/m.onnx: there is no such file")}, OPEN)
    assert [(problem.document, problem.key) for problem in refusal.value.problems] == [
        (0, "model"),
        (1, "traffic.red"),
        (3, "endpoint"),
        (3, "model"),
    ]


def test_traffic_onto_a_kept_mirror_is_refused() -> None:
    state = state_after(endpoint(traffic={"blue": 100}, mirror_traffic={"green": 5}), deployment(), deployment("green"))
    (words,) = refused({"e": state}, endpoint(traffic={"green": 100}))
    assert "mirror_traffic.green: 'green' already has live traffic" in words


def test_a_deployment_with_traffic_and_no_replica_is_refused() -> None:
    words = "instance_count: deployment 'blue' would have 100% of the traffic and no replica"
    assert words in refused({}, endpoint(traffic={"blue": 100}), deployment(instance_count=0))[0]
    stopped = state_after(endpoint(), deployment(instance_count=0))
    assert words in refused({"e": stopped}, endpoint(traffic={"blue": 100}))[0]


def test_an_anonymous_endpoint_beyond_this_machine_must_say_so() -> None:
    strict = Rules((Offer(DEFAULT, "10.0.0.5", (8000,), is_tls=True),))
    assert "auth_mode: everybody on the network could call 'e'" in refused({}, endpoint(), rules=strict)[0]
    assert plan({}, endpoint(allow_anonymous=True), rules=strict).changed


def test_new_traffic_is_a_new_revision_and_the_same_traffic_is_none() -> None:
    state = state_after(*BLUE_LIVE, deployment("green"))
    shifted = plan_traffic(state, TrafficChange(Traffic.of({"blue": 90, "green": 10})), OPEN)
    assert [item.revision for item in shifted.changed] == [2]
    assert plan_traffic(state, TrafficChange(Traffic.of({"blue": 100})), OPEN).changed == ()


def test_a_mirror_is_set_and_taken_away() -> None:
    state = state_after(*BLUE_LIVE, deployment("green"))
    (mirrored,) = plan_traffic(state, TrafficChange(mirror=Mirror("green", 7)), OPEN).changed
    assert mirrored.endpoint.mirror == Mirror("green", 7)
    (plain,) = plan_traffic(mirrored, TrafficChange(mirror=None), OPEN).changed
    assert plain.endpoint == state.endpoint


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (TrafficChange(Traffic.of({"red": 100})), "traffic.red"),
        (TrafficChange(Traffic.of({"stopped": 100})), "traffic.stopped"),
        (TrafficChange(mirror=Mirror("blue", 5)), "mirror_traffic.blue"),
    ],
)
def test_traffic_that_cannot_be_is_refused(change: TrafficChange, key: str) -> None:
    state = state_after(*BLUE_LIVE, deployment("stopped", instance_count=0))
    with pytest.raises(Invalid) as refusal:
        plan_traffic(state, change, OPEN)
    assert refusal.value.key == key


def test_scaling_changes_the_count_alone() -> None:
    state = state_after(*BLUE_LIVE)
    made = plan_scale(state, "blue", 4)
    assert made.changes[0].fields == (FieldChange("instance_count", 1, 4),)
    assert plan_scale(state, "blue", 1).changed == ()
    with pytest.raises(Conflict, match="100% of the traffic and no replica"):
        plan_scale(state, "blue", 0)
    with pytest.raises(NotFound):
        plan_scale(state, "green", 1)


SCALED = {"min_instances": 0, "max_instances": 4}


def test_scale_settings_and_an_instance_count_take_each_others_place_and_survive_a_spec_that_names_neither() -> None:
    fixed = state_after(endpoint(traffic={"blue": 100}), deployment("blue", instance_count=3))
    (scaled,) = plan({"e": fixed}, deployment("blue", scale_settings=SCALED)).changed
    assert scaled.deployments["blue"].spec.scale_settings == ScaleSettings(max_instances=4, min_instances=0)
    (kept,) = plan({"e": scaled}, deployment("blue", model_version="2")).changed
    assert kept.deployments["blue"].spec.scale_settings == scaled.deployments["blue"].spec.scale_settings
    (again,) = plan({"e": kept}, deployment("blue", model_version="2", instance_count=2)).changed
    assert again.deployments["blue"].spec.scale_settings is None
    assert again.deployments["blue"].spec.instance_count == 2


def test_a_change_of_scale_settings_is_told_key_by_key_and_replaces_no_replica() -> None:
    state = state_after(*BLUE_LIVE[:1], deployment("blue", scale_settings={"max_instances": 4}))
    made = plan({"e": state}, deployment("blue", scale_settings={"max_instances": 6}))
    assert made.changes[0].fields == (FieldChange("scale_settings.max_instances", 4, 6),)
    assert made.changed[0].deployments["blue"].generation == state.deployments["blue"].generation


def test_a_deployment_that_may_sleep_can_have_traffic() -> None:
    assert plan({}, endpoint(traffic={"blue": 100}), deployment(scale_settings=SCALED)).changed


def test_scaling_by_hand_what_scales_by_itself_is_refused_with_the_way_out() -> None:
    state = state_after(endpoint(), deployment(scale_settings=SCALED))
    with pytest.raises(Conflict, match=r"from 0 to 4 replicas: change its scale_settings, or apply .* instance_count"):
        plan_scale(state, "blue", 2)


def test_a_deployment_goes_only_without_traffic() -> None:
    state = state_after(*BLUE_LIVE, deployment("green"))
    (after,) = plan_deployment_removal(state, "green").changed
    assert sorted(after.deployments) == ["blue"]
    with pytest.raises(Conflict, match="100% of the traffic"):
        plan_deployment_removal(state, "blue")
    with pytest.raises(NotFound):
        plan_deployment_removal(state, "red")


def test_an_endpoint_goes_with_its_deployments_only_without_traffic_or_by_force() -> None:
    live, idle = state_after(*BLUE_LIVE), state_after(endpoint(), deployment())
    assert plan_endpoint_removal(idle, is_forced=False).deleted == ("e",)
    with pytest.raises(Conflict, match=r"live traffic \(blue=100%\)"):
        plan_endpoint_removal(live, is_forced=False)
    forced = plan_endpoint_removal(live, is_forced=True)
    assert actions(forced) == [(Action.DELETED, "blue"), (Action.DELETED, "e")]


def on_triton(**settings: Any) -> dict[str, Any]:
    asked = {"servers": [{"host": "t1"}], "model": "m", **settings}
    return {"kind": "Deployment", "name": "blue", "endpoint": "e", "backend": "triton", "triton": asked}


@pytest.mark.parametrize(
    "after",
    [
        on_triton(model="n"),
        on_triton(version="2"),
        on_triton(sequences=True),
        on_triton(tls={"ca": {"file": "/ca.pem"}}),
        on_triton(mode="bridge"),
        deployment("blue"),
    ],
)
def test_tritons_that_have_traffic_are_not_asked_for_something_else(after: dict[str, Any]) -> None:
    live = state_after(endpoint(traffic={"blue": 100}), on_triton())
    (problem,) = refused({"e": live}, after)
    assert "'blue' has traffic, and its Tritons would at once be asked for what this says" in problem
    at_rest = state_after(endpoint(traffic={}), on_triton())
    assert actions(plan({"e": at_rest}, after)) == [(Action.CHANGED, "blue")]


def test_tritons_that_have_traffic_may_move() -> None:
    live = state_after(endpoint(traffic={"blue": 100}), on_triton())
    moved = on_triton(servers=[{"host": "t1"}, {"host": "t2"}])
    assert actions(plan({"e": live}, {**moved, "request_settings": {"request_timeout_ms": 9000}})) == [
        (Action.CHANGED, "blue")
    ]
