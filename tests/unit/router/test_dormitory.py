"""Who is held in the waiting room, and who is let go."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from router.desired import Desired
from router.domain.endpoint import EndpointState
from router.domain.rollout import Phase, RolloutSpec, Split, Standing, start
from router.domain.routing import Replica, routing_for
from router.domain.scaling import ScaleSettings
from router.domain.strategy import canary
from router.domain.traffic import Traffic
from router.dormitory import Dormitory
from router.events import EventLog
from tests.fake_world import FakeRoom, replica_of
from tests.unit.router.states import deployed, state

BLUE = deployed("blue", scaling=ScaleSettings(max_instances=2, min_instances=0))
STATE = state({"blue": 100}, BLUE)
IDLE = replace(replica_of(BLUE), is_idle=True)
AWAKE = routing_for(STATE, Traffic.of({"blue": 100}), [IDLE])


class Night:
    def __init__(self, state: EndpointState = STATE) -> None:
        self.room = FakeRoom()
        self.events = EventLog(lambda: datetime.now(UTC))
        self.woken = 0
        self.desired = Desired({"fraud": state})
        self.dormitory = Dormitory(self.desired, self.room, self.events, self._count)

    def _count(self) -> None:
        self.woken += 1

    @property
    def told(self) -> list[str]:
        return [event.kind for event in self.events.after(0)]


@pytest.fixture
async def night() -> Night:
    """Blue has fallen asleep."""
    night = Night()
    await night.dormitory.fall_asleep([IDLE])
    return night


async def test_an_acknowledgement_of_the_time_before_lets_nobody_go(night: Night) -> None:
    night.dormitory.let_go(AWAKE, [IDLE])
    assert night.room.let_gone == []


async def test_waking_is_told_once_however_many_ask(night: Night) -> None:
    for _ in range(3):
        night.room.ask("fraud", "blue")
    assert night.woken == 1
    assert night.told == ["deployment_asleep", "deployment_woken"]


async def test_a_new_replica_takes_the_place_of_the_stand_in_and_who_waits_is_let_go(night: Night) -> None:
    night.room.ask("fraud", "blue")
    (stand_in,) = night.dormitory.with_stand_ins([])
    assert stand_in.address == await night.room.open(BLUE, lambda _: None)
    fresh = replica_of(BLUE, 2)
    assert night.dormitory.with_stand_ins([fresh]) == (fresh,)
    night.dormitory.let_go(AWAKE, [fresh])
    assert night.room.let_gone == [(("fraud", "blue"), "")]


async def test_only_stand_ins_of_deployments_that_may_sleep_are_restored(night: Night) -> None:
    stand_ins: tuple[Replica, ...] = night.dormitory.with_stand_ins([])
    again = Night()
    strangers = [replace(stand_ins[0], deployment="green"), replace(stand_ins[0], endpoint="other"), IDLE]
    await again.dormitory.restore([*strangers, *stand_ins])
    assert again.dormitory.with_stand_ins([]) == stand_ins


GREEN = deployed("green", scaling=ScaleSettings(max_instances=2, min_instances=0))
BOTH = state({"blue": 100}, BLUE, GREEN)
ROLLOUT = start(
    "r1",
    RolloutSpec("fraud", "green", canary()),
    Standing(Split(Traffic.of({"blue": 100})), {"blue": 1, "green": 1}),
    "ann",
    datetime(2026, 1, 1, tzinfo=UTC),
)


async def test_both_sides_of_a_rollout_stay_awake_until_it_is_decided() -> None:
    night = Night(BOTH)
    idle = [IDLE, replace(replica_of(GREEN), is_idle=True)]
    night.desired.publish_rollout(ROLLOUT)
    await night.dormitory.fall_asleep(idle)
    assert night.told == []

    night.desired.publish_rollout(replace(ROLLOUT, phase=Phase.PROMOTED))
    await night.dormitory.fall_asleep(idle)
    assert night.told == ["deployment_asleep", "deployment_asleep"]


async def test_a_rollout_wakes_who_sleeps_once() -> None:
    night = Night(BOTH)
    await night.dormitory.fall_asleep([replace(replica_of(GREEN), is_idle=True)])
    night.desired.publish_rollout(ROLLOUT)
    for _ in range(2):
        await night.dormitory.fall_asleep([])
    assert night.woken == 1
    assert night.told == ["deployment_asleep", "deployment_woken"]
