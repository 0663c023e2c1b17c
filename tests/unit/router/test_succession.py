"""Who follows the deployment that has the traffic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.domain.deployment import DeployedModel
from router.domain.endpoint import EndpointState
from router.domain.errors import Conflict
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.scaling import ScaleSettings
from router.domain.traffic import Mirror
from router.models.succession import successor
from tests.unit.router.states import deployed, state

NEXT = ResolvedModel("/cache/next.onnx", "cd" * 32)


def another(name: str, **spec: object) -> DeployedModel:
    """One that an operator keeps for a purpose of their own."""
    mine = deployed(name)
    return replace(mine, spec=replace(mine.spec, model=ModelRef.parse("file:/srv/mine.onnx"), **spec))


def name_after(found: EndpointState, model: ResolvedModel | None = None) -> str:
    return successor(found, "7", None, model).name


def test_the_colour_that_is_free_is_taken_and_the_settings_stay() -> None:
    live = deployed("blue", count=3)
    spec = successor(state({"blue": 100}, live), "7", None)
    assert spec == replace(live.spec, name="green", model_version="7")
    assert name_after(state({"green": 100}, deployed("green"))) == "blue"
    assert name_after(state({"v1": 100}, deployed("v1"))) == "blue"
    assert name_after(state({"v1": 100}, deployed("v1"), another("blue"))) == "green"


def test_a_deployment_that_scales_by_itself_is_followed_by_one_that_does() -> None:
    live = deployed("blue", scaling=ScaleSettings(4))
    assert successor(state({"blue": 100}, live), "7", None).scale_settings == ScaleSettings(4)


def test_what_nobody_can_miss_is_taken_over() -> None:
    stopped = another("green", instance_count=0)
    follows_too = replace(deployed("green"), spec=replace(deployed("blue").spec, name="green"))
    for there in (stopped, follows_too):
        assert name_after(state({"blue": 100}, deployed("blue"), there)) == "green"
    there = another("green")
    found = state({"blue": 100}, deployed("blue"), replace(there, model=NEXT))
    assert name_after(found, NEXT) == "green", "an interrupted attempt has deployed it already"


def test_what_somebody_may_miss_is_not_overwritten() -> None:
    mirrored = state({"blue": 100}, deployed("blue"), another("green", instance_count=0), mirror=Mirror("green", 5))
    for found in (state({"blue": 100}, deployed("blue"), another("green")), mirrored):
        with pytest.raises(Conflict, match="'green' would be overwritten"):
            successor(found, "7", None)


def test_without_one_deployment_that_has_all_the_traffic_there_is_nobody_to_follow() -> None:
    split = state({"blue": 50, "green": 50}, deployed("blue"), deployed("green"))
    for found in (split, state({})):
        with pytest.raises(Conflict, match="no deployment has all the traffic"):
            successor(found, "7", None)


def test_a_version_that_cannot_stand_in_a_url_is_left_out() -> None:
    assert successor(state({"blue": 100}, deployed("blue")), "release 7/b", None).model_version == ""
