"""A watched reference: scenarios, and what holds whatever happens."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.errors import Conflict, Invalid
from router.domain.plain import from_plain, to_plain
from router.domain.strategy import named_strategy
from router.domain.watch_transitions import (
    AUTHOR,
    MAX_BACKOFF_S,
    MAX_RETRY_AFTER_S,
    TRANSITIONS,
    advance,
    begin,
    next_command,
    resumed,
    waits_for,
    wake_at,
)
from router.domain.watching import (
    MAX_BARRED,
    MAX_SPOILT,
    Accepted,
    Barred,
    Begin,
    Begun,
    CameSpoilt,
    Consent,
    Current,
    Ended,
    Event,
    Failed,
    Hindered,
    InService,
    Known,
    Look,
    Moved,
    Named,
    Outcome,
    Prepare,
    Prepared,
    Ready,
    Recipe,
    Refused,
    Rolling,
    Stage,
    Stopped,
    Terms,
    Unmoved,
    Unseen,
    Vanished,
    Watch,
    Watched,
    WatchPolicy,
)
from router.domain.window import Window

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)  # a Tuesday
REF = "models:/fraud@champion"
AUTO = Terms(Watch(WatchPolicy.AUTO), 0.5)
MANUAL = Terms(Watch(WatchPolicy.MANUAL), 0.5)
NOTIFY = Terms(Watch(WatchPolicy.NOTIFY), 0.5)
ANN = Consent("ann")


def version(number: int) -> Known:
    return Known(f"r{number}", f"{number:064x}", f"models:/fraud/{number}", str(number))


def named(number: int) -> Named:
    """The source knows no digest."""
    return Named(replace(version(number), digest=""))


def serving(number: int, revision: str | None = None) -> InService:
    return InService(REF, replace(version(number), revision=f"r{number}" if revision is None else revision))


def after(*events: Event, terms: Terms = AUTO, start: Watched | None = None) -> Watched:
    watched = start or begin("fraud", serving(1), terms, NOON)
    for event in events:
        watched = advance(watched, event, terms, NOON).watched
    return watched


def rolled_out(number: int) -> tuple[Event, ...]:
    return named(number), Prepared(version(number)), Begun(f"ro{number}")


def due(watched: Watched, terms: Terms = AUTO, *, is_free: bool = True) -> Any:
    return next_command(watched, terms, max(NOON, watched.next_at), is_free=is_free)


# --- the way of a new model ---


def test_a_new_model_is_fetched_checked_and_rolled_out() -> None:
    watched = after(Unmoved("r1"))
    assert watched.stage == Current()
    assert due(watched) == Look("r1")
    watched = after(named(2), start=watched)
    assert next_command(watched, AUTO, NOON, is_free=True) == Prepare(may_change_signature=False)
    assert due(watched, is_free=False) == Look("r2")
    watched = after(Prepared(version(2)), start=watched)
    assert due(watched) == Begin(version(2), AUTHOR)
    watched = after(Begun("ro"), start=watched)
    assert due(watched) == Look("r2")
    watched = after(Ended("ro", Outcome.SUCCEEDED), start=watched)
    assert (watched.stage, watched.service) == (Current(), version(2))


def test_the_first_look_finds_what_is_in_service_by_its_digest_when_its_revision_is_not_known() -> None:
    watched = begin("fraud", serving(1, revision=""), AUTO, NOON)
    assert due(watched) == Look("")
    first = advance(watched, named(1), AUTO, NOON)
    assert first.news == ()
    watched = after(Prepared(version(1)), start=first.watched)
    assert (watched.stage, watched.service.revision) == (Current(), "r1")


def test_with_notify_nothing_is_fetched_and_what_the_first_look_finds_is_taken_to_be_in_service() -> None:
    watched = begin("fraud", serving(1, revision=""), NOTIFY, NOON)
    watched = after(named(1), terms=NOTIFY, start=watched)
    assert (watched.stage, watched.service) == (Current(), version(1))
    moved = advance(watched, named(2), NOTIFY, NOON)
    assert [news.kind for news in moved.news] == ["model_moved"]
    assert due(moved.watched, NOTIFY) == Look("r2")


def test_with_manual_the_model_is_proposed_and_waits_for_a_yes() -> None:
    watched = after(named(2), terms=MANUAL)
    proposed = advance(watched, Prepared(version(2)), MANUAL, NOON)
    assert [news.kind for news in proposed.news] == ["model_proposed"]
    assert due(proposed.watched, MANUAL) == Look("r2")
    assert "crossfade model accept fraud" in waits_for(proposed.watched, MANUAL, NOON, is_free=True)
    watched = after(Accepted(ANN), terms=MANUAL, start=proposed.watched)
    assert due(watched, MANUAL) == Begin(version(2), "ann")


def test_with_notify_a_yes_fetches_and_rolls_out() -> None:
    watched = after(named(2), Accepted(ANN), terms=NOTIFY)
    assert due(watched, NOTIFY) == Prepare(may_change_signature=False)
    assert due(after(Prepared(version(2)), terms=NOTIFY, start=watched), NOTIFY) == Begin(version(2), "ann")


def test_outside_its_window_a_model_waits_and_is_woken_when_it_opens_unless_somebody_says_yes() -> None:
    terms = Terms(Watch(WatchPolicy.AUTO, every_s=86_400, window=Window(frozenset({2}), 8 * 60, 9 * 60)), 0.5)
    watched = after(named(2), Prepared(version(2)), terms=terms)
    opens = datetime(2026, 11, 25, 8, tzinfo=UTC)
    assert next_command(watched, terms, NOON, is_free=True) is None
    assert wake_at(watched, terms, NOON) == opens
    assert "window, Wed 08:00-09:00 UTC" in waits_for(watched, terms, NOON, is_free=True)
    assert next_command(watched, terms, opens, is_free=True) == Begin(version(2), AUTHOR)
    watched = after(Accepted(ANN), terms=terms, start=watched)
    assert next_command(watched, terms, NOON, is_free=True) == Begin(version(2), "ann")


def test_a_rollout_under_way_makes_a_model_wait_which_may_be_replaced_by_a_newer_one_meanwhile() -> None:
    watched = after(named(2), Prepared(version(2)))
    assert next_command(watched, AUTO, NOON, is_free=False) is None
    assert "no rollout is under way" in waits_for(watched, AUTO, NOON, is_free=False)
    watched = after(named(3), start=watched)
    assert watched.stage == Moved(replace(version(3), digest=""))


def test_a_reference_that_goes_back_withdraws_the_proposal() -> None:
    watched = after(named(2), Prepared(version(2)), terms=MANUAL)
    back = advance(watched, named(1), MANUAL, NOON)
    assert back.watched.stage == Current()
    assert "names models:/fraud/1 again" in back.news[0].message


def test_what_it_names_during_a_rollout_is_looked_at_when_that_has_ended() -> None:
    watched = after(*rolled_out(2), named(3), serving(2))
    assert watched.stage == Rolling(version(2), "ro2")
    watched = after(Ended("ro2", Outcome.SUCCEEDED), start=watched)
    assert (watched.next_at, due(watched)) == (NOON, Look("r2"))


# --- what is not tried again ---


@pytest.mark.parametrize("outcome", [Outcome.ROLLED_BACK, Outcome.ABORTED])
def test_what_was_rolled_back_or_aborted_is_not_tried_again_until_somebody_says_so(outcome: Outcome) -> None:
    watched = after(*rolled_out(2), Ended("ro2", outcome, "errors"))
    assert isinstance(watched.stage, Stopped)
    assert due(watched) == Look("r2")
    for event in (named(1), named(2)):  # the reference goes back, and comes again
        watched = after(event, start=watched)
    assert isinstance(watched.stage, Stopped)
    watched = after(Accepted(ANN), start=watched)
    assert due(watched) == Prepare(may_change_signature=False)
    watched = after(Prepared(version(2)), start=watched)
    assert due(watched) == Begin(version(2), "ann")
    watched = after(Begun("ro3"), Ended("ro3", Outcome.SUCCEEDED), start=watched)
    assert watched.barred == ()


def test_the_same_bytes_under_another_version_are_the_same_bad_model() -> None:
    watched = after(*rolled_out(2), Ended("ro2", Outcome.ROLLED_BACK, "errors"))
    same = Known("r3", version(2).digest, "models:/fraud/3", "3")
    watched = after(named(3), Prepared(same), start=watched)
    assert isinstance(watched.stage, Stopped)
    assert due(watched) == Look("r3")


def test_what_the_checks_refuse_is_remembered_by_its_revision() -> None:
    watched = after(named(2))
    refused = advance(watched, Refused(version(2), "graph: a Loop that never ends"), AUTO, NOON)
    assert [news.kind for news in refused.news] == ["model_stopped"]
    assert "never ends" in refused.news[0].message
    assert isinstance(after(named(1), named(2), start=refused.watched).stage, Stopped)


def test_traffic_that_is_moved_away_by_hand_is_not_moved_back() -> None:
    served = after(*rolled_out(2), Ended("ro2", Outcome.SUCCEEDED), Unmoved("r2"))
    undone = after(serving(1, revision=""), start=served)
    assert due(undone) == Look("")
    stopped = after(named(2), start=undone)
    assert isinstance(stopped.stage, Stopped)
    assert "taken out" in stopped.barred[0].reason


def test_a_model_that_was_put_in_service_by_hand_is_what_the_reference_names() -> None:
    by_hand = after(serving(2, revision=""), start=after(Unmoved("r1")))
    settled = after(named(2), Prepared(version(2)), start=by_hand)
    assert settled.stage == Current()
    back = after(named(1), start=settled)
    assert due(back) == Prepare(may_change_signature=False), "the registry went back, and is followed"


def test_another_reference_begins_anew_and_forgets_nothing_that_was_barred() -> None:
    watched = after(*rolled_out(2), Ended("ro2", Outcome.ROLLED_BACK, "errors"))
    other = after(InService("oci://reg/fraud:prod", version(1)), start=watched)
    assert (other.ref, other.stage) == ("oci://reg/fraud:prod", Unseen())
    assert isinstance(after(named(2), start=other).stage, Stopped)


def test_a_yes_was_for_one_model_and_for_no_other() -> None:
    watched = after(named(2), Accepted(ANN), Prepared(version(3)), terms=MANUAL)
    assert watched.stage == Ready(version(3), NOON, NOON)


def test_a_yes_to_another_signature_checks_again() -> None:
    watched = after(named(2), Prepared(version(2)), Accepted(Consent("ann", True)), terms=MANUAL)
    assert due(watched, MANUAL) == Prepare(may_change_signature=True)


def test_only_so_many_barred_models_are_remembered() -> None:
    watched = after()
    for number in range(2, MAX_BARRED + 20):
        watched = after(named(number), Refused(version(number), "no"), start=watched)
    assert len(watched.barred) == MAX_BARRED
    assert watched.barred[-1].model == version(MAX_BARRED + 19)


# --- trouble ---


def test_a_source_that_does_not_answer_is_asked_less_and_less_often_and_told_once() -> None:
    watched, pauses, kinds = after(Unmoved("r1")), [], []
    for _ in range(12):
        step = advance(watched, Failed("no route to host"), AUTO, NOON)
        watched = step.watched
        pauses.append((watched.next_at - NOON).total_seconds())
        kinds += [news.kind for news in step.news]
    assert pauses[:4] == [60, 120, 240, 480]
    assert pauses[-1] == MAX_BACKOFF_S
    assert kinds == ["watch_failed"]
    back = advance(watched, Unmoved("r1"), AUTO, NOON)
    assert [news.kind for news in back.news] == ["watch_recovered"]
    assert (back.watched.failures, back.watched.next_at) == (0, NOON + timedelta(seconds=60))


def test_a_source_is_left_alone_for_as_long_as_it_asks_within_reason() -> None:
    assert after(Failed("429", 300)).next_at == NOON + timedelta(seconds=300)
    assert after(Failed("429", 1e9)).next_at == NOON + timedelta(seconds=MAX_RETRY_AFTER_S)
    assert after(Failed("429", -5)).next_at == NOON + timedelta(seconds=60)


def test_a_fetch_that_failed_is_tried_again_without_asking_first() -> None:
    watched = after(named(2), Failed("the link broke"))
    assert next_command(watched, AUTO, NOON, is_free=True) is None
    assert due(watched) == Prepare(may_change_signature=False)


def test_what_comes_spoilt_is_fetched_again_a_few_times_and_then_left() -> None:
    watched = after(named(2))
    for _ in range(MAX_SPOILT - 1):
        watched = after(CameSpoilt(version(2), "another sha256 came"), start=watched)
        assert due(watched) == Prepare(may_change_signature=False)
    watched = after(CameSpoilt(version(2), "another sha256 came"), start=watched)
    assert isinstance(watched.stage, Stopped)
    assert "another sha256 came (in 3 tries)" in watched.barred[0].reason


def test_a_rollout_that_cannot_begin_is_tried_again_later_and_told_once() -> None:
    watched = after(named(2), Prepared(version(2)))
    first = advance(watched, Hindered("no name is free"), AUTO, NOON)
    second = advance(first.watched, Hindered("no name is free"), AUTO, NOON)
    assert [[news.kind for news in step.news] for step in (first, second)] == [["model_hindered"], []]
    assert next_command(second.watched, AUTO, NOON, is_free=True) is None
    assert waits_for(second.watched, AUTO, NOON, is_free=True) == "no name is free"
    assert due(second.watched) == Begin(version(2), AUTHOR)


def test_a_source_s_trouble_keeps_no_ready_model_from_its_rollout() -> None:
    watched = after(named(2), Prepared(version(2)), Failed("down"))
    assert next_command(watched, AUTO, NOON, is_free=True) == Begin(version(2), AUTHOR)


def test_a_model_that_was_cleaned_away_meanwhile_is_fetched_again() -> None:
    assert due(after(named(2), Prepared(version(2)), Vanished("gone"))) == Prepare(may_change_signature=False)


def test_a_rollout_that_nobody_knows_any_more_ends_in_another_look() -> None:
    assert after(*rolled_out(2), Ended("ro2", Outcome.LOST)).stage == Unseen()


def test_endpoints_ask_at_different_times() -> None:
    early, late = (Terms(AUTO.watch, jitter) for jitter in (0.0, 1.0))
    pauses = [(after(Unmoved("r1"), terms=terms).next_at - NOON).total_seconds() for terms in (early, late)]
    assert pauses == [54, 66]
    firsts = [(begin("fraud", serving(1), terms, NOON).next_at - NOON).total_seconds() for terms in (early, late)]
    assert firsts == [0, 10]


def test_a_restart_asks_soon_but_not_before_a_source_that_is_in_trouble_is_due() -> None:
    later = NOON + timedelta(hours=5)
    assert resumed(replace(after(), next_at=later), AUTO, NOON).next_at == NOON + timedelta(seconds=5)
    troubled = replace(after(Failed("429", 300)), next_at=later)
    assert resumed(troubled, AUTO, NOON).next_at == later


# --- what holds whatever happens ---


def test_every_stage_has_its_row_and_what_is_absent_is_refused() -> None:
    assert set(TRANSITIONS) == {Unseen, Current, Moved, Ready, Rolling, Stopped}
    for stage in (Unseen(), Current(), Rolling(version(2), "ro")):
        watched = replace(after(), stage=stage)
        with pytest.raises(Conflict, match="endpoint 'fraud'"):
            advance(watched, Accepted(ANN), AUTO, NOON)


def test_a_strategy_that_moves_no_traffic_and_a_pause_out_of_range_are_refused() -> None:
    with pytest.raises(Invalid, match="moves no traffic"):
        Recipe(named_strategy("shadow"))
    for every_s in (0.5, 8 * 86_400.0):
        with pytest.raises(Invalid, match="out of range"):
            Watch(every_s=every_s)


numbers = st.integers(1, 4)
models = st.builds(
    lambda revision, digest: Known(f"r{revision}", f"{digest:064x}" if digest else ""), numbers, st.integers(0, 4)
)
reasons = st.sampled_from(["a", "b"])
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(serving, numbers, st.sampled_from(["", "r1", "r2"])),
    st.builds(InService, st.just("oci://reg/fraud:prod"), st.builds(version, numbers)),
    st.builds(lambda number: Unmoved(f"r{number}"), numbers),
    st.builds(Named, models),
    st.builds(Failed, reasons, st.floats(0, 1e6)),
    st.builds(Prepared, st.builds(version, numbers)),
    st.builds(Refused, st.builds(version, numbers), reasons),
    st.builds(CameSpoilt, st.builds(version, numbers), reasons),
    st.builds(Begun, st.just("ro")),
    st.builds(Hindered, reasons),
    st.builds(Vanished, reasons),
    st.builds(Ended, st.just("ro"), st.sampled_from(Outcome), reasons),
    st.builds(Accepted, st.builds(Consent, st.just("ann"), st.booleans())),
)
some_terms = st.builds(
    Terms,
    st.builds(
        Watch,
        st.sampled_from(WatchPolicy),
        st.sampled_from([1.0, 60.0, 86_400.0]),
        st.sampled_from([None, Window(frozenset({1}), 13 * 60, 14 * 60)]),
    ),
    st.floats(0, 1),
)


@settings(max_examples=300, deadline=None)
@given(some_terms, st.lists(st.tuples(st.integers(0, 7200), events), max_size=30))
def test_whatever_happens(terms: Terms, happenings: list[tuple[int, Event]]) -> None:
    watched, now = begin("fraud", serving(1), terms, NOON), NOON
    for seconds, event in happenings:
        now += timedelta(seconds=seconds)
        before = watched
        try:
            step = advance(watched, event, terms, now)
        except Conflict:
            assert type(event) not in TRANSITIONS[type(watched.stage)]
            continue
        watched = step.watched
        assert from_plain(Watched, json.loads(json.dumps(to_plain(watched)))) == watched
        assert len(step.news) <= 1
        assert watched.revision == before.revision + len(step.news)
        _holds(watched, terms, now)


def _holds(watched: Watched, terms: Terms, now: datetime) -> None:
    stage: Stage = watched.stage
    for is_free in (False, True):
        command = next_command(watched, terms, now, is_free=is_free)
        if isinstance(command, Begin):
            window = terms.watch.window
            is_asked = isinstance(stage, Ready) and stage.consent is not None
            assert is_free
            assert is_asked or terms.watch.policy is WatchPolicy.AUTO
            assert is_asked or window is None or window.is_open(now)
            assert is_asked or watched.bar_of(command.model) is None, "what is barred is not tried by itself"
            assert not command.model.is_same(watched.service)
        if isinstance(command, Prepare):
            assert isinstance(stage, Moved)
            assert stage.consent or terms.watch.policy is not WatchPolicy.NOTIFY
        if command is None:
            wake = wake_at(watched, terms, now)
            assert now < wake <= now + timedelta(seconds=max(terms.watch.every_s * 1.1, MAX_RETRY_AFTER_S))
    if isinstance(stage, Stopped):
        assert isinstance(watched.bar_of(stage.model), Barred)
    assert len({bar.model.revision for bar in watched.barred}) <= len(watched.barred) <= MAX_BARRED
