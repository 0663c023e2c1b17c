"""What holds for a rollout whatever happens to it, in whatever order."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.analysis import Result, Verdict
from router.domain.errors import Conflict
from router.domain.plain import from_plain, to_plain
from router.domain.policy import Policy
from router.domain.rollout import (
    AbortAsked,
    ApplyTraffic,
    Event,
    PauseAsked,
    Phase,
    PromoteAsked,
    Replicas,
    ReplicasObserved,
    ResumeAsked,
    Rollout,
    RolloutSpec,
    Split,
    Standing,
    Superseded,
    Ticked,
    TrafficApplied,
    VerdictReached,
    start,
)
from router.domain.rollout_commands import commands_of, wake_at
from router.domain.rollout_transitions import TRANSITIONS, advance
from router.domain.strategy import Analyze, ForSeconds, Pause, SetMirror, SetWeight, Step, Strategy
from router.domain.traffic import Traffic

T0 = datetime(2026, 1, 1, tzinfo=UTC)
WAITS: tuple[Step, ...] = (Analyze(), Pause(), Pause(ForSeconds(30)))
ACKNOWLEDGE = "acknowledge"  # Envoy takes what was last asked for

replicas = st.builds(Replicas, ready=st.integers(0, 2), wanted=st.integers(0, 2))
# Mostly both are well, else no scenario would come far.
observations = st.one_of(
    st.just(ReplicasObserved(Replicas(2, 2), Replicas(2, 2))), st.builds(ReplicasObserved, replicas, replicas)
)
verdicts = st.sampled_from(
    [
        VerdictReached(Verdict(result, result, ()))
        for result in (Result.PASS, Result.PASS, Result.FAIL, Result.INCONCLUSIVE)
    ]
)
operators = st.sampled_from(
    [
        PauseAsked("ann"),
        ResumeAsked("ann"),
        PromoteAsked("ann"),
        PromoteAsked("ann", True),
        AbortAsked("ann"),
        Superseded("ann"),
    ]
)
happenings = st.one_of(
    st.just(ACKNOWLEDGE), st.just(ACKNOWLEDGE), st.just(Ticked()), observations, verdicts, verdicts, operators
)
scripts = st.lists(st.tuples(st.sampled_from([0, 1, 40, 70, 700, 4000]), happenings), max_size=60)


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    weights = sorted(draw(st.sets(st.integers(1, 99), max_size=4)))
    moves = draw(st.booleans())
    steps: list[Step] = [SetMirror(draw(st.integers(1, 100)))] if draw(st.booleans()) or not moves else []
    for percent in (*weights, 100) if moves else ():
        steps += [SetWeight(percent), draw(st.sampled_from(WAITS))]
    spec = RolloutSpec("fraud", "green", Strategy("mine", tuple(steps)), Policy())
    standing = Standing(Split(Traffic.of({"blue": 100})), {"blue": 2, "green": 2})
    return start("r1", spec, standing, "ann", T0)


def event_of(rollout: Rollout, happening: Event | str) -> Event:
    return TrafficApplied(rollout.asked) if isinstance(happening, str) else happening


@settings(deadline=None)
@given(rollouts(), scripts)
def test_traffic_sums_to_100_and_never_moves_onto_who_is_not_ready(
    rollout: Rollout, script: list[tuple[int, Event | str]]
) -> None:
    now = T0
    for seconds, happening in script:
        now += timedelta(seconds=seconds)
        event = event_of(rollout, happening)
        if type(event) not in TRANSITIONS[rollout.phase]:
            continue
        try:
            rollout = advance(rollout, event, now).rollout
        except Conflict:
            continue
        ready = {
            name
            for name, side in (
                (rollout.stable, rollout.stable_replicas),
                (rollout.candidate, rollout.candidate_replicas),
            )
            if side.ready
        }
        for command in commands_of(rollout):
            if isinstance(command, ApplyTraffic):
                assert sum(percent for _, percent in command.split.traffic.shares) == 100
                for name, percent in command.split.traffic.shares:
                    assert percent <= rollout.in_force.traffic.percent(name) or name in ready
        if rollout.asked.traffic.percent("green") > rollout.in_force.traffic.percent("green"):
            assert rollout.stable_replicas.ready, "the way back is open"


@settings(deadline=None)
@given(rollouts(), scripts)
def test_a_crash_at_any_event_loses_nothing_and_does_nothing_twice(
    rollout: Rollout, script: list[tuple[int, Event | str]]
) -> None:
    """Two control planes: one lives on, the other is born again from JSON before and after every event, and hears of
    what is in force a second time."""
    now, reborn = T0, rollout
    for seconds, happening in script:
        now += timedelta(seconds=seconds)
        event = event_of(rollout, happening)
        reborn = from_plain(Rollout, json.loads(json.dumps(to_plain(reborn))))
        assert commands_of(reborn) == commands_of(rollout)
        assert wake_at(reborn) == wake_at(rollout)
        if type(event) not in TRANSITIONS[rollout.phase]:
            continue
        try:
            lived = advance(rollout, event, now)
        except Conflict:
            continue
        revived = advance(reborn, event, now)
        assert revived == lived
        rollout = lived.rollout
        reborn = revived.rollout
        if TrafficApplied in TRANSITIONS[reborn.phase]:
            again = advance(reborn, TrafficApplied(reborn.in_force), now)
            assert again.announcements == ()
            reborn = again.rollout
    assert reborn == rollout


@settings(deadline=None)
@given(rollouts(), scripts)
def test_a_rollout_goes_forward_only_and_its_end_is_the_end(
    rollout: Rollout, script: list[tuple[int, Event | str]]
) -> None:
    now = T0
    for seconds, happening in script:
        now += timedelta(seconds=seconds)
        event = event_of(rollout, happening)
        before = rollout
        if type(event) not in TRANSITIONS[rollout.phase]:
            continue
        try:
            transition = advance(rollout, event, now)
        except Conflict:
            continue
        rollout = transition.rollout
        assert rollout.step_index >= before.step_index
        assert rollout.revision == before.revision + len(transition.announcements)
        if rollout.phase is not before.phase or rollout.step_index != before.step_index:
            assert transition.announcements, "every change is told"
        if before.phase in (Phase.ROLLING_BACK, Phase.ABORTING):
            assert rollout.phase is before.phase or rollout.phase.is_terminal
    if rollout.phase.is_terminal:
        assert TRANSITIONS[rollout.phase] == {}
        assert commands_of(rollout) == ()
        assert wake_at(rollout) is None


@settings(deadline=None)
@given(rollouts())
def test_when_all_is_well_every_rollout_arrives(rollout: Rollout) -> None:
    now = T0
    rollout = advance(rollout, ReplicasObserved(Replicas(2, 2), Replicas(2, 2)), now).rollout
    weights = []
    for _ in range(200):
        if rollout.phase.is_decided:
            break
        now += timedelta(seconds=61)
        if rollout.asked != rollout.in_force:
            event: Event = TrafficApplied(rollout.asked)
        elif rollout.phase is Phase.PAUSED:
            event = ResumeAsked("ann")
        else:
            event = VerdictReached(Verdict(Result.PASS, "good", ()))
        rollout = advance(rollout, event, now).rollout
        weights.append(rollout.weight_percent)
    assert rollout.phase is (Phase.PROMOTED if rollout.strategy.moves_traffic else Phase.SUCCEEDED)
    assert rollout.weight_percent == (100 if rollout.strategy.moves_traffic else 0)
    assert rollout.mirror_percent == 0
    wanted = {step.percent for step in rollout.strategy.steps if isinstance(step, SetWeight)}
    assert wanted <= set(weights), "no step is left out"


@settings(deadline=None)
@given(rollouts(), st.integers(0, 3))
def test_time_that_goes_by_by_itself_is_waited_for_exactly(rollout: Rollout, number: int) -> None:
    """A tick before `wake_at` changes nothing, a tick then does."""
    now = T0
    rollout = advance(rollout, ReplicasObserved(Replicas(2, 2), Replicas(2, 2)), now).rollout
    for _ in range(number):
        if rollout.asked != rollout.in_force:
            rollout = advance(rollout, TrafficApplied(rollout.asked), now).rollout
        if rollout.phase is Phase.PROGRESSING and rollout.step:
            rollout = replace(rollout, verdict=Verdict(Result.PASS, "good", ()))
        wake = wake_at(rollout)
        if wake is None:
            return
        assert advance(rollout, Ticked(), wake - timedelta(seconds=0.001)).rollout == rollout
        after = advance(rollout, Ticked(), wake).rollout
        assert (after.phase, after.step_index) != (rollout.phase, rollout.step_index)
        rollout, now = after, wake
