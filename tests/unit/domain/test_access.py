"""Roles, tokens and quotas."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import pytest

from router.domain.access import Operator, Role, Token, hash_of, new_secret
from router.domain.deployment import DeployedModel, Deployment
from router.domain.deployment_settings import Resources
from router.domain.endpoint import Endpoint, EndpointState
from router.domain.errors import Invalid
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.quota import Quota, Usage, in_words, overdrawn, usage_of
from router.domain.scaling import ScaleSettings

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_each_role_may_what_the_one_before_it_may() -> None:
    assert [[one.includes(other) for other in Role] for one in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_groups_limit_what_is_seen_and_no_groups_mean_everything() -> None:
    limited = Operator("ci", Role.OPERATOR, ("fraud",))
    assert (limited.sees("fraud"), limited.sees("credit"), limited.sees("")) == (True, False, False)
    assert Operator("ann", Role.VIEWER).sees("fraud")


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"name": "no name"}, "name"),
        ({"groups": ("b", "a")}, "groups"),
        ({"groups": ("a", "a")}, "groups"),
        ({"role": Role.ADMIN, "groups": ("a",)}, "role"),
        ({"expires_at": NOON}, "expires_at"),
    ],
)
def test_a_token_that_makes_no_sense_cannot_be_built(fields: dict[str, object], key: str) -> None:
    sound: dict[str, object] = {"name": "ci", "role": Role.OPERATOR, "groups": (), "sha256": "0", "created_at": NOON}
    with pytest.raises(Invalid) as error:
        Token(**(sound | fields))  # type: ignore[arg-type]
    assert error.value.key == key


def test_a_token_is_valid_until_it_expires() -> None:
    token = Token("ci", Role.VIEWER, (), "0", NOON, NOON + timedelta(hours=1))
    assert token.is_valid(NOON + timedelta(minutes=59))
    assert not token.is_valid(NOON + timedelta(hours=1))


def test_secrets_differ_and_their_hash_does_not_hold_them() -> None:
    one, other = new_secret(), new_secret()
    assert one != other
    assert one not in hash_of(one)


def state(name: str, group: str, **fields: object) -> EndpointState:
    spec = Deployment("blue", name, ModelRef("file", "/m.onnx"), **fields)  # type: ignore[arg-type]
    deployed = DeployedModel(spec, ResolvedModel("/m.onnx", "a" * 64))
    return EndpointState(Endpoint(name, group=group), MappingProxyType({"blue": deployed}))


def test_a_group_uses_the_most_replicas_that_its_deployments_may_have() -> None:
    states = [
        state("a", "fraud", instance_count=2, resources=Resources(cpu=0.5)),
        state(
            "b",
            "fraud",
            scale_settings=ScaleSettings(min_instances=1, max_instances=4),
            resources=Resources(cpu=2, gpu=0.5),
        ),
        state("c", "credit", instance_count=9),
    ]
    assert usage_of("fraud", states) == Usage(deployments=2, replicas=6, cpus=9.0, gpus=2.0)


def test_only_more_than_the_quota_is_overdrawn_never_less_than_before() -> None:
    quota = Quota(replicas=4, cpus=8)
    assert overdrawn(quota, Usage(replicas=2), Usage(replicas=4, cpus=8)) == ""
    assert overdrawn(quota, Usage(replicas=2), Usage(replicas=5, cpus=9)) == "5 replicas of 4 and 9 cpus of 8"
    assert overdrawn(quota, Usage(replicas=9), Usage(replicas=8)) == ""
    assert overdrawn(quota, Usage(replicas=9), Usage(replicas=9, cpus=1)) == ""
    assert overdrawn(Quota(), Usage(), Usage(replicas=10**6)) == ""
    assert in_words(quota) == "4 replicas, 8 cpus"
    assert in_words(Quota()) == "no limit"
    with pytest.raises(Invalid):
        Quota(cpus=-1)
