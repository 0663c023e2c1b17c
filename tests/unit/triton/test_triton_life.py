"""The life of a Triton that a replica runs: every phase and event, and how soon it is started again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.triton_life import PATIENCE, TRANSITIONS, Answered, Ended, Event, Failed, Life, Phase, Started, follow

LATE, GONE = Failed("no answer"), Ended("signal SIGKILL")
NEW = Life(start_timeout_s=60.0)


def lived(*events: tuple[float, Event], life: Life = NEW) -> Life:
    for at_s, event in events:
        life = follow(life, event, at_s)
    return life


def test_every_phase_says_what_may_happen_in_it_and_refuses_the_rest() -> None:
    assert set(TRANSITIONS) == set(Phase)
    for phase, steps in TRANSITIONS.items():
        for event in (Started(), Answered(), LATE, GONE):
            if type(event) not in steps:
                with pytest.raises(ValueError, match=f"cannot happen to a Triton that is {phase}"):
                    follow(Life(60.0, phase), event, 1.0)


def test_it_loads_answers_and_stays_ready_while_it_answers() -> None:
    life = lived((1, Started()), (5, Answered()), (6, Answered()))
    assert (life.phase, life.since_s, life.reason) == (Phase.READY, 5, "")


def test_one_that_is_late_a_few_times_goes_on_as_if_nothing_had_been() -> None:
    late = [(10.0 + at, LATE) for at in range(PATIENCE - 1)]
    life = lived((1, Started()), (5, Answered()), *late, (30, Answered()), *late)
    assert (life.phase, life.failures) == (Phase.READY, PATIENCE - 1)


def test_one_that_stays_silent_is_to_be_killed_and_its_reason_outlives_it() -> None:
    life = lived((1, Started()), (5, Answered()), *((6.0 + at, LATE) for at in range(PATIENCE)))
    assert life.phase is Phase.HUNG
    life = follow(life, GONE, 20)
    assert (life.phase, life.reason) == (Phase.DOWN, "Triton is started again: no answer")


def test_one_that_loads_too_long_is_to_be_killed() -> None:
    loading = lived((1, Started()), (60, LATE))
    assert loading.phase is Phase.LOADING
    life = follow(loading, LATE, 61)
    assert life.phase is Phase.HUNG
    assert "within 60 s: no answer; if it needs longer, raise triton.start_timeout_s" in life.reason


def test_after_a_long_life_the_next_one_begins_at_once() -> None:
    assert lived((1, Started()), (5, Answered()), (65, GONE)).again_at_s == 65


def test_one_that_hung_after_a_long_life_is_started_again_at_once() -> None:
    life = lived((1, Started()), (5, Answered()), *((70.0 + at, LATE) for at in range(PATIENCE)), (80, GONE))
    assert (life.short, life.again_at_s) == (0, 80)


def test_after_short_lives_it_waits_twice_as_long_each_time_and_not_for_ever() -> None:
    life, waits = NEW, []
    for round_ in range(10):
        at_s = 100.0 * round_
        life = lived((at_s, Started()), (at_s + 1, Answered()), (at_s + 2, GONE), life=life)
        waits.append(life.again_at_s - (at_s + 2))
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == 30.0


def test_a_long_life_makes_good_for_the_short_ones_before_it() -> None:
    life = lived((1, Started()), (2, GONE), (3, Started()), (4, GONE))
    assert life.short == 2
    assert lived((10, Started()), (11, Answered()), (200, GONE), life=life).short == 0


events = st.sampled_from([Started(), Answered(), LATE, GONE])


@given(st.lists(st.tuples(st.floats(0, 100), events), max_size=40))
def test_whatever_happens_it_is_never_started_again_before_it_ended_and_waits_for_30_seconds_at_most(
    steps: list[tuple[float, Event]],
) -> None:
    life, now_s = NEW, 0.0
    for passed_s, event in steps:
        now_s += passed_s
        if type(event) not in TRANSITIONS[life.phase]:
            continue
        before, life = life, follow(life, event, now_s)
        assert (life.phase is Phase.LOADING and before.phase is Phase.DOWN) or not isinstance(event, Started)
        assert 0 <= life.again_at_s - life.since_s <= 30
        if life.phase is Phase.READY:
            assert not life.reason
