"""Falling asleep and waking up: what stands in for whom, and what must not run meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from router.decisions import app_key
from router.domain.deployment import DeployedModel
from router.domain.endpoint import EndpointState
from router.domain.routing import Replica, ReplicaState, UnixAddress
from router.domain.scaling import ScaleSettings
from router.sleeps import Sleeps, falling_asleep
from tests.fake_world import replica_of
from tests.unit.router.states import deployed, state

SLEEPY = ScaleSettings(max_instances=2, min_instances=0)
BLUE = deployed("blue", scaling=SLEEPY)
NEW_BLUE = deployed("blue", version="2", scaling=SLEEPY)
NAME = ("fraud", "blue")
ROOM = UnixAddress("/waiting/blue")
IDLE = replace(replica_of(BLUE), is_idle=True)


def states(model: DeployedModel = BLUE) -> Mapping[str, EndpointState]:
    return {"fraud": state({model.spec.name: 100}, model)}


def sleeping() -> Sleeps:
    """Blue sleeps, and its replica has been told to stop."""
    sleeps = Sleeps()
    sleeps.begin(BLUE, [IDLE], ROOM)
    sleeps.note_stopped([])
    return sleeps


@pytest.mark.parametrize(
    ("model", "replicas", "falls"),
    [
        (BLUE, [IDLE], True),
        (BLUE, [IDLE, replica_of(BLUE, 2)], False),  # one of two is asked
        (BLUE, [IDLE, replace(replica_of(BLUE, 2), is_idle=True)], True),
        (BLUE, [IDLE, replica_of(BLUE, 2, ReplicaState.DRAINING)], True),
        (BLUE, [], False),  # it has not proved yet that it can start
        (BLUE, [replica_of(BLUE, 1, ReplicaState.LOADING)], False),
        (NEW_BLUE, [IDLE], False),  # idle is what the version before is
        (deployed("blue", scaling=ScaleSettings(max_instances=2)), [], False),
        (deployed("blue"), [IDLE], False),
    ],
)
def test_only_what_may_sleep_and_has_nothing_but_idle_replicas_falls_asleep(
    model: DeployedModel, replicas: list[Replica], falls: bool
) -> None:
    found = falling_asleep(states(model).values(), {"fraud": replicas}, frozenset())
    assert found == ([model] if falls else [])


def test_what_sleeps_does_not_fall_asleep_again() -> None:
    assert falling_asleep(states().values(), {"fraud": [IDLE]}, sleeping().names) == []


def test_the_stand_in_is_a_replica_of_the_generation_that_slept_at_the_rooms_address() -> None:
    (stand_in,) = sleeping().stand_ins
    assert (stand_in.endpoint, stand_in.deployment, stand_in.generation) == app_key(BLUE)
    assert (stand_in.address, stand_in.state) == (ROOM, ReplicaState.ASLEEP)


def test_a_woken_deployment_may_run_only_after_its_old_replicas_were_told_to_stop() -> None:
    sleeps = Sleeps()
    sleeps.begin(BLUE, [IDLE], ROOM)
    sleeps.note_stopped([app_key(BLUE)])  # it still runs
    assert sleeps.wake(NAME)
    assert sleeps.asleep == {app_key(BLUE)}
    sleeps.note_stopped([])
    assert sleeps.asleep == frozenset()


def test_waking_is_news_once() -> None:
    sleeps = sleeping()
    assert not sleeps.wake(("fraud", "green"))
    assert sleeps.wake(NAME)
    assert not sleeps.wake(NAME)


@pytest.mark.parametrize(
    ("model", "is_woken", "replicas", "is_over"),
    [
        (BLUE, False, [], False),
        (BLUE, False, [replica_of(BLUE, 2)], False),  # left over from a time that this process does not know
        (BLUE, True, [], False),
        (BLUE, True, [IDLE], False),  # the one from before, which has not stopped yet
        (BLUE, True, [replica_of(BLUE, 2, ReplicaState.LOADING)], False),
        (BLUE, True, [replica_of(BLUE, 2)], True),
        (BLUE, True, [replica_of(BLUE, 2, ReplicaState.FAILED, "no such file")], True),
        (NEW_BLUE, False, [], False),
        (NEW_BLUE, False, [replica_of(NEW_BLUE)], True),
        (deployed("blue"), False, [replica_of(deployed("blue"))], True),  # it may sleep no more
        (deployed("blue", count=0), False, [], True),
        (deployed("green"), False, [], True),  # blue was deleted
    ],
)
def test_a_sleep_ends_with_a_new_replica_a_failure_or_the_deployment(
    model: DeployedModel, is_woken: bool, replicas: list[Replica], is_over: bool
) -> None:
    sleeps = sleeping()
    if is_woken:
        sleeps.wake(NAME)
    sleeps.end_finished(states(model), {"fraud": replicas})
    assert (sleeps.names == frozenset()) is is_over


def test_who_slept_when_the_control_plane_ended_sleeps_on() -> None:
    sleeps = Sleeps()
    sleeps.restore(sleeping().stand_ins[0])
    sleeps.end_finished(states(), {})
    assert sleeps.names == {NAME}
    assert sleeps.asleep == {app_key(BLUE)}
