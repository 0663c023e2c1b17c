"""What the reconciler decides: what starts, what ends, and when it is safe to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.decisions import (
    addresses_of,
    app_key,
    apps_to_delete,
    apps_to_deploy,
    failure_of,
    ready_count,
    ready_deployments,
    replicas_to_release,
    wanted_apps,
)
from router.domain.routing import ReplicaState, Shield, routing_for
from router.domain.scaling import ScaleSettings
from router.domain.traffic import Traffic
from router.ports import RunningApp
from tests.fake_world import replica_of
from tests.unit.router.states import deployed, state

BLUE, GREEN = deployed("blue"), deployed("green", count=2)
NEW_BLUE = deployed("blue", version="2")


def running(*models: object) -> tuple[RunningApp, ...]:
    return tuple(RunningApp(*app_key(model)) for model in models)  # type: ignore[arg-type]  # deployed models


def test_every_deployment_with_instances_is_wanted() -> None:
    stopped = deployed("old", count=0)
    assert wanted_apps([state({"blue": 100}, BLUE, GREEN, stopped)]).keys() == {app_key(BLUE), app_key(GREEN)}


@pytest.mark.parametrize(
    ("apps", "counts", "expected"),
    [
        ((), {}, [BLUE, GREEN]),
        (running(BLUE, GREEN), {app_key(BLUE): 1, app_key(GREEN): 2}, []),
        (running(BLUE, GREEN), {app_key(BLUE): 1, app_key(GREEN): 1}, [GREEN]),
        # After a restart nobody knows what Ray was told last: it is told again, which changes nothing.
        (running(BLUE, GREEN), {}, [BLUE, GREEN]),
        (running(BLUE), {app_key(BLUE): 1, app_key(GREEN): 2}, [GREEN]),
    ],
)
def test_what_is_missing_or_has_another_count_is_deployed(
    apps: tuple[RunningApp, ...], counts: dict[tuple[str, str, str], int], expected: list[object]
) -> None:
    assert apps_to_deploy(wanted_apps([state({"blue": 100}, BLUE, GREEN)]), apps, counts) == expected


def test_an_old_generation_is_deleted_only_when_no_envoy_sends_to_it() -> None:
    old, new = replica_of(BLUE), replica_of(NEW_BLUE)
    wanted = wanted_apps([state({"blue": 100}, NEW_BLUE)])
    apps = running(BLUE, NEW_BLUE)
    assert apps_to_delete(wanted, apps, [old, new], {old.address, new.address}) == []
    assert apps_to_delete(wanted, apps, [old, new], {new.address}) == list(running(BLUE))


def test_a_sleeping_deployment_is_not_wanted_and_another_scale_is_told_to_ray() -> None:
    scaled = deployed("blue", scaling=ScaleSettings(max_instances=3, min_instances=0))
    states = [state({"blue": 100}, scaled)]
    assert wanted_apps(states, asleep={app_key(scaled)}) == {}
    wanted = wanted_apps(states)
    assert apps_to_deploy(wanted, running(scaled), {app_key(scaled): ScaleSettings(3, 0)}) == []
    assert apps_to_deploy(wanted, running(scaled), {app_key(scaled): ScaleSettings(4, 0)}) == [scaled]


def test_a_sleeping_deployment_can_answer_and_is_held_as_long_as_it_may_take_to_start() -> None:
    scaled = deployed("blue", scaling=ScaleSettings(max_instances=3, min_instances=0, start_timeout_s=30))
    asleep, old = replica_of(scaled, 1, ReplicaState.ASLEEP), replica_of(scaled, 2)
    world = state({"blue": 100}, scaled)
    assert ready_deployments(world, [asleep]) == {"blue"}
    (held,) = routing_for(world, Traffic.of({"blue": 100}), [asleep, old]).upstreams
    assert (held.addresses, held.is_held, held.request_timeout_ms) == ((asleep.address,), True, 35_000)
    (awake,) = routing_for(world, Traffic.of({"blue": 100}), [old]).upstreams
    assert (awake.addresses, awake.is_held, awake.request_timeout_ms) == ((old.address,), False, 5000)
    assert held.max_requests == awake.max_requests == 3000  # a change would make Envoy build the cluster anew


def test_a_new_generations_replicas_answer_rather_than_an_older_ones_stand_in() -> None:
    scaling = ScaleSettings(max_instances=3, min_instances=0)
    old, new = deployed("blue", scaling=scaling), deployed("blue", version="2", scaling=scaling)
    asleep, ready = replica_of(old, 1, ReplicaState.ASLEEP), replica_of(new)
    for replicas, expected in (([asleep], asleep), ([asleep, ready], ready)):
        (upstream,) = routing_for(state({}, new), Traffic(), replicas).upstreams
        assert upstream.addresses == (expected.address,)


def test_what_is_wanted_is_never_deleted() -> None:
    assert apps_to_delete(wanted_apps([state({}, BLUE)]), running(BLUE), [], set()) == []


def test_a_draining_replica_is_released_when_no_envoy_sends_to_it() -> None:
    draining, ready = replica_of(BLUE, 1, ReplicaState.DRAINING), replica_of(BLUE, 2)
    assert replicas_to_release([draining, ready], {draining.address}) == ()
    assert replicas_to_release([draining, ready], {ready.address}) == (draining.id,)


def test_the_addresses_of_a_routing_are_those_of_its_ready_replicas() -> None:
    ready, loading = replica_of(BLUE, 1), replica_of(BLUE, 2, ReplicaState.LOADING)
    routing = routing_for(state({"blue": 100}, BLUE), Traffic.of({"blue": 100}), [ready, loading])
    assert addresses_of(routing) == {ready.address}
    assert addresses_of(None) == frozenset()


def test_an_older_generation_makes_a_deployment_ready_but_does_not_count() -> None:
    old = replica_of(BLUE)
    assert ready_deployments(state({"blue": 100}, NEW_BLUE), [old]) == {"blue"}
    assert ready_count(NEW_BLUE, [old]) == 0
    assert ready_count(NEW_BLUE, [old, replica_of(NEW_BLUE)]) == 1


def test_only_a_failure_of_the_present_generation_counts() -> None:
    failed = replica_of(BLUE, 1, ReplicaState.FAILED, "no such file")
    assert failure_of(BLUE, [failed]) == "no such file"
    assert failure_of(NEW_BLUE, [failed]) == ""
    assert failure_of(GREEN, [failed]) == ""
    assert failure_of(BLUE, [replace(failed, endpoint="other")]) == ""


def test_a_routing_keeps_the_shield_as_long_as_both_deployments_exist() -> None:
    shield, traffic = Shield("green", "blue"), Traffic.of({"blue": 100})
    assert routing_for(state({"blue": 100}, BLUE, GREEN), traffic, [], shield).shield == shield
    assert routing_for(state({"blue": 100}, BLUE), traffic, [], shield).shield is None
