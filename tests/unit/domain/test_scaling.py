"""How many replicas there shall be: steps, limits, patience; and that a constant load comes to rest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil

import hypothesis
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from router.domain.errors import Invalid
from router.domain.scaling import LOOK_BACK_S, Memory, Observed, ScaleSettings, decide

SETTINGS = ScaleSettings(max_instances=8, target_utilization_percentage=50, scale_down_delay_s=60)
LATER = 1000.0


def decided(settings: ScaleSettings, target: int, *loads: float, running: int | None = None) -> int:
    """The decision about replicas that have run unchanged for long."""
    count = len(loads) if running is None else running
    return decide(settings, Observed(LATER, target, count, loads), Memory(count, 0.0))[0]


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ((0.0,), 1),
        ((0.5,), 1),
        ((0.505,), 1),  # within what cannot be told from the target
        ((0.6,), 2),
        ((1.0,), 2),
        ((4.0,), 2),  # at most twice what runs, whatever waits
        ((0.5, 0.5), 2),
        ((0.6, 0.5), 3),
        ((1.0, 1.0), 4),
        ((1.0, 1.0, 1.0), 6),
        ((1.0, 1.0, 1.0, 1.0, 1.0), 8),  # the limit
    ],
)
def test_more_are_started_when_they_are_busier_than_the_target(loads: tuple[float, ...], expected: int) -> None:
    assert decided(SETTINGS, len(loads), *loads) == expected


def test_nothing_is_decided_about_replicas_that_were_not_measured_as_they_are() -> None:
    assert decided(SETTINGS, 2, 1.0, running=2) == 2  # one of two has not told its load
    young = Memory(running=1, since_s=LATER - LOOK_BACK_S + 0.1)
    assert decide(SETTINGS, Observed(LATER, 1, 1, (1.0,)), young)[0] == 1
    assert decide(SETTINGS, Observed(LATER, 1, 1, (1.0,)), replace(young, since_s=LATER - LOOK_BACK_S))[0] == 2
    changed, memory = decide(SETTINGS, Observed(LATER, 2, 2, (1.0, 1.0)), Memory(1, 0.0))
    assert (changed, memory) == (2, Memory(2, LATER))


def test_a_replica_that_still_starts_is_not_asked_for_twice() -> None:
    assert decided(SETTINGS, 2, 1.0) == 2


def test_new_limits_count_at_once() -> None:
    assert decided(replace(SETTINGS, max_instances=2), 5, *[1.0] * 5) == 2
    assert decided(replace(SETTINGS, min_instances=3), 1, 0.0) == 3
    assert decided(SETTINGS, 0, running=0) == 1  # zero is not decided here


@dataclass
class Scaled:
    """A deployment whose replicas share `demand` and start after `start_s`; decided about four times a second."""

    settings: ScaleSettings
    start_s: float = 2.0
    target: int = 1
    memory: Memory = field(default_factory=Memory)
    now_s: float = 0.0
    targets: list[tuple[float, int]] = field(default_factory=list)
    _births_s: list[float] = field(default_factory=lambda: [0.0])

    def run(self, demand: float, seconds: float, shiver: float = 0.0) -> None:
        end_s, step = self.now_s + seconds, 0
        while self.now_s < end_s:
            step += 1
            self.now_s += 0.25
            running = sum(birth_s <= self.now_s for birth_s in self._births_s)
            share = demand * (1 + (shiver if step % 2 else -shiver)) / max(running, 1)
            loads = (min(share, 1.0),) * running  # one replica cannot be more than busy
            before = self.target
            observed = Observed(self.now_s, self.target, running, loads)
            self.target, self.memory = decide(self.settings, observed, self.memory)
            if self.target != before:
                self.targets.append((self.now_s, self.target))
            del self._births_s[self.target :]
            self._births_s += [self.now_s + self.start_s] * (self.target - len(self._births_s))


def test_fewer_run_only_when_fewer_were_enough_for_the_whole_delay() -> None:
    world = Scaled(SETTINGS)
    world.run(demand=2.0, seconds=60)
    assert world.target == 4
    world.run(demand=0.4, seconds=50)
    world.run(demand=1.9, seconds=5)  # begins anew
    world.run(demand=0.4, seconds=59)
    assert world.target == 4
    world.run(demand=0.4, seconds=10)
    assert world.target == 1


def test_as_many_stay_as_were_needed_at_most_during_the_delay() -> None:
    world = Scaled(SETTINGS)
    world.run(demand=2.0, seconds=60)
    world.run(demand=0.2, seconds=30)
    world.run(demand=1.2, seconds=5)
    world.run(demand=0.2, seconds=30)
    assert world.target == 3


demands = st.floats(0, 12)
limits = st.builds(
    lambda least, more, percent, delay: ScaleSettings(
        max_instances=max(least + more, 1),
        min_instances=least,
        target_utilization_percentage=percent,
        scale_down_delay_s=delay,
    ),
    st.integers(0, 5),
    st.integers(0, 10),
    st.integers(20, 100),
    st.integers(0, 30),
)


@hypothesis.settings(deadline=None)
@given(limits, demands, demands)
def test_a_constant_load_comes_to_rest_within_the_limits_and_is_served(
    settings: ScaleSettings, before: float, demand: float
) -> None:
    world = Scaled(settings)
    world.run(before, seconds=60)
    world.run(demand, seconds=120)
    at_rest_s = world.now_s
    world.run(demand, seconds=120)
    assert not [change for change in world.targets if change[0] > at_rest_s]
    assert all(settings.least_awake <= target <= settings.max_instances for _, target in world.targets)
    needed = ceil(demand / (settings.target_utilization_percentage / 100) - 0.02)
    assert world.target >= min(needed, settings.max_instances) or demand > world.target
    event(f"{len(world.targets)} changes")


@hypothesis.settings(deadline=None)
@given(limits, demands)
def test_a_load_that_shivers_does_not_start_and_stop_replicas_for_ever(settings: ScaleSettings, demand: float) -> None:
    world = Scaled(settings)
    world.run(demand, seconds=180, shiver=0.03)
    so_far = len(world.targets)
    world.run(demand, seconds=120, shiver=0.03)
    assert len(world.targets) == so_far


@hypothesis.settings(deadline=None)
@given(limits, st.lists(st.tuples(demands, st.integers(1, 40)), max_size=8))
def test_no_step_leaves_the_limits_or_more_than_doubles(
    settings: ScaleSettings, phases: list[tuple[float, int]]
) -> None:
    world = Scaled(settings)
    for demand, seconds in phases:
        world.run(demand, seconds)
    before = settings.least_awake
    for _, target in world.targets:
        assert settings.least_awake <= target <= settings.max_instances
        assert target <= max(2 * before, settings.least_awake)
        before = target


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"max_instances": 0}, "max_instances"),
        ({"max_instances": 2, "min_instances": 3}, "min_instances"),
        ({"max_instances": 2, "target_utilization_percentage": 0}, "target_utilization_percentage"),
        ({"max_instances": 2, "target_utilization_percentage": 101}, "target_utilization_percentage"),
        ({"max_instances": 2, "idle_timeout_s": 0}, "idle_timeout_s"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, int], key: str) -> None:
    with pytest.raises(Invalid) as refusal:
        ScaleSettings(**wrong)
    assert refusal.value.key == f"scale_settings.{key}"
