"""The objective for latency: one that somebody has set is a bound, the usual one is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.domain.deployment import DeployedModel, Deployment
from router.domain.deployment_settings import Batching
from router.domain.errors import Invalid
from router.domain.model_ref import ModelRef, ResolvedModel
from router.spec import read_documents, to_plain

UNSET = Deployment("blue", "fraud", ModelRef("file", "/m.onnx"))
SET = replace(UNSET, batching=Batching(latency_slo_ms=50))
MODEL = ResolvedModel("/m.onnx", "a" * 64)


def test_where_none_is_set_fifty_milliseconds_are_aimed_at() -> None:
    assert UNSET.batching.objective_ms == 50
    assert Batching(latency_slo_ms=7).objective_ms == 7


@pytest.mark.parametrize("milliseconds", [0, -1, 600_001])
def test_one_out_of_range_is_refused(milliseconds: int) -> None:
    with pytest.raises(Invalid, match="latency_slo_ms"):
        Batching(latency_slo_ms=milliseconds)


@pytest.mark.parametrize("deployment", [UNSET, SET])
def test_whether_one_was_set_is_kept_on_the_way_through_the_spec(deployment: Deployment) -> None:
    plain = to_plain(deployment)
    assert ("latency_slo_ms" in plain["batching"]) is (deployment is SET)
    (read,) = read_documents([plain])
    assert read.content == deployment


def test_replicas_are_started_anew_when_one_is_set_although_it_is_the_usual_one() -> None:
    assert DeployedModel(SET, MODEL).generation != DeployedModel(UNSET, MODEL).generation
