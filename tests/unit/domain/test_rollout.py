"""Scenarios: a rollout, events at offsets in seconds, and what it is then."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from router.domain.analysis import Result, Verdict
from router.domain.errors import Conflict, Invalid
from router.domain.policy import Policy
from router.domain.rollout import (
    AbortAsked,
    ApplyTraffic,
    Event,
    Page,
    PauseAsked,
    PauseCause,
    Phase,
    PromoteAsked,
    Replicas,
    ReplicasObserved,
    ResumeAsked,
    Rollout,
    RolloutSpec,
    Scale,
    Split,
    Standing,
    Superseded,
    Ticked,
    TrafficApplied,
    VerdictReached,
    start,
    undo,
)
from router.domain.rollout_commands import commands_of, wake_at
from router.domain.rollout_transitions import TRANSITIONS, advance
from router.domain.strategy import (
    Analyze,
    ForSeconds,
    Pause,
    SetMirror,
    SetWeight,
    Step,
    Strategy,
    all_at_once,
    canary,
    shadow,
)
from router.domain.traffic import Mirror, Traffic

T0 = datetime(2026, 1, 1, tzinfo=UTC)
BLUE = Split(Traffic.of({"blue": 100}))
STANDING = Standing(BLUE, {"blue": 2, "green": 2})
BOTH_READY = ReplicasObserved(stable=Replicas(2, 2), candidate=Replicas(2, 2))
NO_GREEN = ReplicasObserved(stable=Replicas(2, 2), candidate=Replicas(0, 2))
NO_BLUE = ReplicasObserved(stable=Replicas(0, 2), candidate=Replicas(2, 2))
HALF_BLUE = ReplicasObserved(stable=Replicas(1, 2), candidate=Replicas(2, 2))
PASS = VerdictReached(Verdict(Result.PASS, "good", ()))
FAIL = VerdictReached(Verdict(Result.FAIL, "9 of 20 requests failed", ()))
UNSURE = VerdictReached(Verdict(Result.INCONCLUSIVE, "needs about 420 more candidate requests", ()))
EVENTS: tuple[Event, ...] = (
    Ticked(),
    BOTH_READY,
    TrafficApplied(BLUE),
    UNSURE,
    PauseAsked("ann"),
    ResumeAsked("ann"),
    PromoteAsked("ann"),
    AbortAsked("ann"),
    Superseded("ann"),
)


def green(percent: int) -> TrafficApplied:
    return TrafficApplied(Split(Traffic.of({"blue": 100 - percent, "green": percent})))


def mirrored(percent: int) -> TrafficApplied:
    return TrafficApplied(Split(BLUE.traffic, Mirror("green", percent)))


def begun(strategy: Strategy | tuple[Step, ...], **policy: float) -> Rollout:
    recipe = strategy if isinstance(strategy, Strategy) else Strategy("mine", strategy)
    spec = RolloutSpec("fraud", "green", recipe, Policy(**policy))  # type: ignore[arg-type]
    return start("r1", spec, STANDING, "ann", T0)


def after(rollout: Rollout, *events: tuple[float, Event]) -> Rollout:
    for offset_s, event in events:
        rollout = advance(rollout, event, T0 + timedelta(seconds=offset_s)).rollout
    return rollout


def asked(rollout: Rollout) -> dict[str, int]:
    """The traffic that the rollout wants true now."""
    [split] = [command.split for command in commands_of(rollout) if isinstance(command, ApplyTraffic)]
    return split.traffic.as_dict()


def at_half() -> Rollout:
    """Half of the traffic is on green, and an analysis runs since 10 s."""
    rollout = after(begun((SetWeight(50), Analyze(), SetWeight(100), Analyze())), (0, BOTH_READY), (10, green(50)))
    assert rollout.phase is Phase.PROGRESSING
    return rollout


def in_phase(phase: Phase) -> Rollout:
    """A rollout that came to this phase by events."""
    half = at_half()
    promoted = after(half, (11, PromoteAsked("ann", is_full=True)), (12, green(100)))
    match phase:
        case Phase.PENDING:
            return begun(canary())
        case Phase.PROGRESSING:
            return half
        case Phase.PAUSED:
            return after(half, (11, PauseAsked("ann")))
        case Phase.PROMOTED:
            return promoted
        case Phase.RETIRING:
            return after(promoted, (612, Ticked()))
        case Phase.SUCCEEDED:
            return after(promoted, (612, Superseded("ann")))
        case Phase.ROLLING_BACK:
            return after(half, (11, FAIL))
        case Phase.ABORTING:
            return after(half, (11, AbortAsked("ann")))
        case Phase.ROLLED_BACK:
            return after(half, (11, FAIL), (12, TrafficApplied(BLUE)))
        case Phase.ABORTED:
            return after(half, (11, AbortAsked("ann")), (12, TrafficApplied(BLUE)))


def test_every_phase_has_its_row_and_only_terminal_ones_are_empty() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert {phase for phase, row in TRANSITIONS.items() if not row} == {phase for phase in Phase if phase.is_terminal}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_what_is_not_in_the_table_is_refused_and_the_rest_is_not(phase: Phase, event: Event) -> None:
    rollout = in_phase(phase)
    assert rollout.phase is phase
    if type(event) in TRANSITIONS[phase]:
        advance(rollout, event, T0 + timedelta(seconds=13))
    else:
        with pytest.raises(Conflict, match=phase):
            advance(rollout, event, T0 + timedelta(seconds=13))


def test_a_canary_goes_its_steps_and_keeps_the_old_deployment_for_a_while() -> None:
    rollout = after(begun(canary()), (0, BOTH_READY), (1, mirrored(10)), (61, PASS))
    now = 61.0
    for percent in (1, 5, 10, 25, 50, 100):
        assert asked(rollout).get("green") == percent
        rollout = after(rollout, (now + 1, green(percent)), (now + 30, PASS), (now + 60.9, PASS))
        assert isinstance(rollout.step, Analyze)  # 60 s from when the weight is in force
        rollout = after(rollout, (now + 61, Ticked()))
        now += 61
    assert rollout.phase is Phase.PROMOTED
    assert commands_of(rollout) == (ApplyTraffic(green(100).split, is_shielded=True),)
    assert wake_at(rollout) == T0 + timedelta(seconds=now + 600)
    rollout = after(rollout, (now + 600, Ticked()))
    assert rollout.phase is Phase.RETIRING
    assert commands_of(rollout) == (ApplyTraffic(green(100).split, is_shielded=False), Scale("blue", 0))
    gone = ReplicasObserved(stable=Replicas(2, 0), candidate=Replicas(2, 2))
    rollout = after(rollout, (now + 601, gone))
    assert rollout.phase is Phase.SUCCEEDED
    assert commands_of(rollout) == ()


def test_a_rollout_brings_both_sides_to_size_and_waits_for_them() -> None:
    rollout = begun(canary())
    assert commands_of(rollout)[1:] == (Scale("blue", 2), Scale("green", 2))
    rollout = after(rollout, (5, NO_GREEN))
    assert (rollout.phase, rollout.holding) == (Phase.PENDING, "green has 0 of 2 replicas ready")
    rollout = after(rollout, (6, HALF_BLUE))
    assert (rollout.phase, rollout.holding) == (Phase.PENDING, "blue has 1 of 2 replicas ready")
    assert after(rollout, (7, BOTH_READY)).phase is Phase.PROGRESSING


def test_a_candidate_that_never_comes_is_given_up() -> None:
    rollout = after(begun(canary(), max_wait_s=100), (99, NO_GREEN))
    assert wake_at(rollout) == T0 + timedelta(seconds=100)
    rollout = after(rollout, (100, Ticked()))
    assert rollout.phase is Phase.ROLLED_BACK
    assert rollout.reason == "gave up waiting: green has 0 of 2 replicas ready"


def test_a_weight_that_is_asked_for_is_not_in_force() -> None:
    rollout = after(begun((SetWeight(50), Analyze(), SetWeight(100))), (0, BOTH_READY), (500, Ticked()), (501, PASS))
    assert rollout.step == SetWeight(50)
    assert rollout.weight_percent == 0
    assert after(rollout, (600, green(50))).step_since == T0 + timedelta(seconds=600)


@pytest.mark.parametrize("observed", [HALF_BLUE, NO_BLUE])
def test_no_weight_grows_while_the_way_back_is_not_ready(observed: ReplicasObserved) -> None:
    rollout = after(at_half(), (20, observed), (80, PASS))
    assert rollout.step == SetWeight(100)
    assert rollout.holding.startswith("blue has ")
    assert asked(rollout) == {"blue": 50, "green": 50}
    assert asked(after(rollout, (81, BOTH_READY))) == {"green": 100}


def test_a_failing_candidate_is_rolled_back_and_the_reason_stays() -> None:
    rollout = after(at_half(), (20, FAIL))
    assert (rollout.phase, asked(rollout)) == (Phase.ROLLING_BACK, {"blue": 100})
    rollout = after(rollout, (21, TrafficApplied(BLUE)))
    assert (rollout.phase, rollout.reason) == (Phase.ROLLED_BACK, "9 of 20 requests failed")


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PAUSED, Phase.PROMOTED])
def test_a_candidate_without_replicas_is_rolled_back_at_once(phase: Phase) -> None:
    rollout = after(in_phase(phase), (20, NO_GREEN))
    assert rollout.phase is Phase.ROLLING_BACK
    assert asked(rollout) == {"blue": 100}


def test_a_candidate_that_had_no_request_yet_is_waited_for_again() -> None:
    rollout = after(begun((Pause(ForSeconds(10)), SetWeight(100))), (0, BOTH_READY), (1, NO_GREEN), (10, Ticked()))
    assert (rollout.phase, asked(rollout)) == (Phase.PROGRESSING, {"blue": 100})
    assert rollout.holding == "green has 0 of 2 replicas ready"
    assert asked(after(rollout, (11, BOTH_READY))) == {"green": 100}


def test_a_rollback_without_anybody_to_go_back_to_holds_and_pages_once() -> None:
    rollout = after(at_half(), (20, NO_BLUE))
    transition = advance(rollout, FAIL, T0 + timedelta(seconds=21))
    rollout = transition.rollout
    assert asked(rollout) == {"blue": 50, "green": 50}
    assert rollout.holding == "blue has 0 of 2 replicas ready, too few to take the traffic back"
    assert [type(said) for said in transition.announcements] == [Page]
    assert advance(rollout, Ticked(), T0 + timedelta(seconds=500)).announcements == ()
    assert asked(after(rollout, (501, BOTH_READY))) == {"blue": 100}


def test_a_rollback_that_stable_cannot_take_any_more_is_taken_back() -> None:
    rollout = after(at_half(), (20, FAIL), (20.1, NO_BLUE))
    assert asked(rollout) == {"blue": 50, "green": 50}


def test_a_rollback_waits_for_a_small_stable_but_not_for_ever() -> None:
    rollout = after(at_half(), (20, HALF_BLUE), (21, FAIL))
    assert asked(rollout) == {"blue": 50, "green": 50}
    assert wake_at(rollout) == T0 + timedelta(seconds=51)
    assert asked(after(rollout, (51, Ticked()))) == {"blue": 100}


def test_a_rollback_from_a_dead_candidate_does_not_wait_for_a_small_stable() -> None:
    dead = ReplicasObserved(stable=Replicas(1, 2), candidate=Replicas(0, 2))
    assert asked(after(at_half(), (20, dead))) == {"blue": 100}


def test_the_end_of_a_mirror_waits_for_nobody() -> None:
    rollout = after(begun(shadow()), (0, BOTH_READY), (1, mirrored(10)), (2, NO_BLUE), (3, FAIL))
    assert commands_of(rollout) == (ApplyTraffic(BLUE, is_shielded=True),)
    assert after(rollout, (4, TrafficApplied(BLUE))).phase is Phase.ROLLED_BACK


def test_without_a_verdict_it_waits_and_then_pauses_and_says_why() -> None:
    rollout = after(at_half(), (3609, UNSURE))
    assert rollout.phase is Phase.PROGRESSING
    assert wake_at(rollout) == T0 + timedelta(seconds=3610)
    rollout = after(rollout, (3610, Ticked()))
    assert (rollout.phase, rollout.pause) == (Phase.PAUSED, PauseCause.INCONCLUSIVE)
    assert rollout.reason == "no verdict after 3600 s: needs about 420 more candidate requests"
    assert asked(rollout) == {"blue": 50, "green": 50}
    assert after(rollout, (9999, Ticked()), (10_000, PASS)).phase is Phase.PAUSED
    assert after(rollout, (9999, FAIL)).phase is Phase.ROLLING_BACK


def test_nothing_measured_at_all_neither_passes_nor_fails() -> None:
    rollout = after(at_half(), (3610, Ticked()))
    assert (rollout.phase, rollout.reason) == (Phase.PAUSED, "no verdict after 3600 s: nothing was measured")


def test_resuming_starts_the_steps_clock_again() -> None:
    rollout = after(at_half(), (20, PASS), (30, PauseAsked("ann")), (1000, PASS), (1001, ResumeAsked("bob")))
    assert (rollout.phase, rollout.pause, rollout.reason) == (Phase.PROGRESSING, None, "resumed by bob")
    assert isinstance(after(rollout, (1060, PASS)).step, Analyze)
    assert after(rollout, (1061, PASS)).step == SetWeight(100)


def test_a_weight_that_is_not_in_force_when_paused_is_taken_back_when_the_way_back_is_lost() -> None:
    rollout = after(begun((SetWeight(50), SetWeight(100))), (0, BOTH_READY), (1, PauseAsked("ann")))
    assert asked(rollout) == {"blue": 50, "green": 50}
    rollout = after(rollout, (2, NO_BLUE))
    assert asked(rollout) == {"blue": 100}
    assert asked(after(rollout, (3, BOTH_READY), (4, ResumeAsked("ann")))) == {"blue": 50, "green": 50}


@pytest.mark.parametrize("go_on", [ResumeAsked("ann"), PromoteAsked("ann")])
def test_a_pause_until_promoted_ends_by_an_operator_alone(go_on: Event) -> None:
    rollout = after(begun((SetWeight(10), Pause(), SetWeight(100))), (0, BOTH_READY), (1, green(10)), (9999, Ticked()))
    assert (rollout.phase, rollout.pause) == (Phase.PAUSED, PauseCause.STEP)
    assert wake_at(rollout) is None
    assert asked(after(rollout, (10_000, go_on))) == {"green": 100}


def test_a_pause_of_some_seconds_ends_by_itself() -> None:
    rollout = after(begun((SetWeight(10), Pause(ForSeconds(30)), SetWeight(100))), (0, BOTH_READY), (1, green(10)))
    assert wake_at(rollout) == T0 + timedelta(seconds=31)
    assert after(rollout, (31, Ticked())).step == SetWeight(100)


def test_promoting_skips_what_the_step_waits_for() -> None:
    rollout = after(at_half(), (11, PromoteAsked("ann")))
    assert (rollout.step, asked(rollout)) == (SetWeight(100), {"green": 100})
    with pytest.raises(Conflict, match="moves traffic"):
        after(rollout, (12, PromoteAsked("ann")))


def test_promoting_in_full_goes_to_the_end() -> None:
    rollout = after(begun(canary()), (0, BOTH_READY), (1, mirrored(10)), (2, PromoteAsked("ann", is_full=True)))
    assert asked(rollout) == {"green": 100}
    assert after(rollout, (3, green(100))).phase is Phase.PROMOTED


def test_promoting_in_full_onto_a_candidate_that_is_not_ready_holds() -> None:
    half_green = ReplicasObserved(stable=Replicas(2, 2), candidate=Replicas(1, 2))
    rollout = after(at_half(), (11, half_green), (12, PromoteAsked("ann", is_full=True)))
    assert (asked(rollout), rollout.holding) == ({"blue": 50, "green": 50}, "green has 1 of 2 replicas ready")


def test_an_abort_returns_to_stable_and_says_who() -> None:
    rollout = after(at_half(), (11, AbortAsked("ann", "wrong model")), (12, TrafficApplied(BLUE)))
    assert (rollout.phase, rollout.reason) == (Phase.ABORTED, "aborted by ann: wrong model")


@pytest.mark.parametrize("event", [AbortAsked("ann"), FAIL])
def test_a_weight_that_was_asked_for_and_not_acknowledged_is_taken_back_before_it_is_over(event: Event) -> None:
    waiting = after(begun(canary((50, 100), mirror_percent=0)), (0, BOTH_READY))
    assert (asked(waiting), waiting.weight_percent) == ({"blue": 50, "green": 50}, 0)
    going_back = after(waiting, (1, event))
    assert not going_back.phase.is_terminal
    assert asked(going_back) == {"blue": 100}
    assert after(going_back, (2, TrafficApplied(BLUE))).phase.is_terminal


def test_replicas_that_are_about_to_end_are_not_counted_on() -> None:
    ending = ReplicasObserved(stable=Replicas(2, 2), candidate=Replicas(2, 0))
    waiting = after(begun(canary()), (0, ending))
    assert (waiting.phase, waiting.holding) == (Phase.PENDING, "green is to have 2 replicas, and is scaled up")


def test_an_abort_before_anything_moved_is_done_at_once() -> None:
    assert after(begun(canary()), (1, AbortAsked("ann"))).phase is Phase.ABORTED


def test_a_shadow_ends_without_moving_traffic() -> None:
    rollout = after(begun(shadow()), (0, BOTH_READY), (1, mirrored(10)), (61, PASS))
    assert commands_of(rollout) == (ApplyTraffic(BLUE, is_shielded=True),)
    rollout = after(rollout, (62, TrafficApplied(BLUE)))
    assert (rollout.phase, rollout.reason) == (Phase.SUCCEEDED, "the shadow ends, and no traffic was moved")
    with pytest.raises(Conflict, match="nothing to undo"):
        undo(rollout, "r2", "ann", T0)


@pytest.mark.parametrize("phase", [Phase.PROMOTED, Phase.RETIRING, Phase.SUCCEEDED])
def test_an_undo_goes_back_at_once_and_gives_the_old_deployment_its_size(phase: Phase) -> None:
    back = undo(in_phase(phase), "r2", "bob", T0)
    assert (back.stable, back.candidate, back.undoes) == ("green", "blue", "r1")
    assert Scale("blue", 2) in commands_of(back)
    assert after(back, (1, ReplicasObserved(Replicas(2, 2), Replicas(1, 2)))).phase is Phase.PENDING
    # The one that is taken back may be dead by now.
    back = after(back, (2, ReplicasObserved(stable=Replicas(0, 2), candidate=Replicas(2, 2))))
    assert asked(back) == {"blue": 100}
    assert after(back, (3, TrafficApplied(BLUE))).phase is Phase.PROMOTED


@pytest.mark.parametrize("phase", [phase for phase in Phase if not phase.is_decided])
def test_there_is_nothing_to_undo_before_the_end(phase: Phase) -> None:
    with pytest.raises(Conflict, match="nothing to undo"):
        undo(in_phase(phase), "r2", "bob", T0)


def test_a_size_that_changed_meanwhile_is_the_one_to_return_to() -> None:
    grown = ReplicasObserved(stable=Replicas(5, 5), candidate=Replicas(3, 3))
    rollout = after(at_half(), (11, grown), (12, PromoteAsked("ann", is_full=True)), (13, green(100)))
    back = undo(rollout, "r2", "ann", T0)
    assert (back.candidate_size, back.stable_size) == (5, 3)


@pytest.mark.parametrize("traffic", [{}, {"blue": 90, "green": 10}, {"green": 100}])
def test_a_rollout_starts_from_one_other_deployment_with_all_the_traffic(traffic: dict[str, int]) -> None:
    standing = Standing(Split(Traffic.of(traffic)), STANDING.sizes)
    with pytest.raises(Conflict, match="all the traffic"):
        start("r1", RolloutSpec("fraud", "green", all_at_once()), standing, "ann", T0)


def test_a_deployment_without_instances_is_no_candidate() -> None:
    with pytest.raises(Invalid, match="no instances"):
        start("r1", RolloutSpec("fraud", "green", canary()), Standing(BLUE, {"blue": 1, "green": 0}), "ann", T0)


def test_every_change_is_told_once_with_who_and_from_what_to_what() -> None:
    rollout = begun((SetWeight(50), Analyze(), SetWeight(100)))
    script = ((0, BOTH_READY), (0.5, Ticked()), (1, green(50)), (2, UNSURE), (3, AbortAsked("bob")))
    said = []
    for offset_s, event in script:
        transition = advance(rollout, event, T0 + timedelta(seconds=offset_s))
        rollout = transition.rollout
        said.extend(transition.announcements)
    assert [(item.revision, item.by, item.old_phase, item.phase, item.message) for item in said] == [
        (2, "crossfade", Phase.PENDING, Phase.PROGRESSING, "progressing: both deployments are ready"),
        (
            3,
            "crossfade",
            Phase.PROGRESSING,
            Phase.PROGRESSING,
            "traffic blue=100 → blue=50 green=50; step 2 of 3: analyze, 60 s or more",
        ),
        (4, "bob", Phase.PROGRESSING, Phase.ABORTING, "aborting: aborted by bob"),
    ]


def test_a_rollout_tells_its_state_in_a_line() -> None:
    rollout = after(at_half(), (20, HALF_BLUE), (80, PASS))
    assert str(rollout) == (
        "progressing, step 3/4 (weight 100%), 50% in force, holding: blue has 1 of 2 replicas ready"
    )


def test_the_shield_can_be_taken_off() -> None:
    rollout = begun(canary())
    bare = replace(rollout, policy=Policy(shield=False))
    assert [command.is_shielded for command in commands_of(bare) if isinstance(command, ApplyTraffic)] == [False]


def test_setting_a_mirror_to_nothing_ends_it() -> None:
    steps = (SetMirror(10), SetMirror(0), SetWeight(100))
    rollout = after(begun(steps), (0, BOTH_READY), (1, mirrored(10)))
    assert rollout.mirror_percent == 10
    assert commands_of(rollout) == (ApplyTraffic(BLUE, is_shielded=True),)
    assert asked(after(rollout, (2, TrafficApplied(BLUE)))) == {"green": 100}
