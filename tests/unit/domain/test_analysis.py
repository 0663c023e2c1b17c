from datetime import UTC, datetime, timedelta

import pytest

from router.domain.analysis import Result, Row, Verdict, judge
from router.domain.evidence import Answers, Evidence, Measurement, Report
from router.domain.measurement import Latencies, Totals
from router.domain.policy import AtMost, CustomMetric, Policy
from router.domain.sources import WebhookAnswer
from router.domain.strategy import Analyze

T0 = datetime(2026, 1, 1, tzinfo=UTC)
BOUNDS_MS = (1.0, 2.0, 5.0, 10.0, 12.0, 15.0, 20.0, 50.0)
POLICY = Policy()


def totals(requests: int, errors: int = 0, bucket: int = 3) -> Totals:
    """All answers took as long as the bucket says: 3 is up to 10 ms."""
    counts = [0] * (len(BOUNDS_MS) + 1)
    counts[bucket] = requests - errors
    return Totals(requests, errors, Latencies(BOUNDS_MS, tuple(counts)))


def watched(
    report: Report,
    seconds: int,
    weight: int = 10,
    mirror: int = 0,
    policy: Policy = POLICY,
    begin: Evidence | None = None,
) -> Evidence:
    """The same report every second."""
    evidence = begin or Evidence.of_baseline(totals(2000, 2), policy)
    since = evidence.block.since if evidence.epoch.number else T0
    for second in range(1, seconds + 1):
        evidence = evidence.observed(report, weight, mirror, policy, since + timedelta(seconds=second))
    return evidence


def verdict_on(evidence: Evidence, policy: Policy = POLICY, analyze: Analyze | None = None) -> Verdict:
    now = evidence.block.since + timedelta(seconds=1)
    return judge(evidence, policy, now, analyze or Analyze(0, 0))


def row(verdict: Verdict, metric: str) -> Row:
    return next(row for row in verdict.rows if row.metric == metric)


HEALTHY = Report(totals(270), totals(30))


def test_a_candidate_like_stable_passes_when_that_is_proven_and_not_before() -> None:
    early = verdict_on(watched(HEALTHY, 10))
    assert early.result is Result.INCONCLUSIVE
    late = verdict_on(watched(HEALTHY, 101))
    assert late.result is Result.PASS
    errors = row(late, "errors")
    assert errors.bound <= errors.margin == POLICY.error_margin
    assert (errors.candidate.hits, errors.candidate.of) == (0, 3030)


def test_what_is_missing_is_told_and_is_enough() -> None:
    evidence = watched(HEALTHY, 21)
    told = row(verdict_on(evidence), "errors").sentence
    assert told == (
        "errors: 0% of 630 candidate requests failed, against stable's 0.026%; "
        "needs about 1,300 more candidate requests, about 44 s at this rate"
    )
    assert row(verdict_on(watched(HEALTHY, 49 + 5, begin=evidence)), "errors").result is Result.PASS


def test_a_step_needs_its_own_requests() -> None:
    ten = watched(HEALTHY, 200)
    quarter = ten.observed(Report(totals(225), totals(15)), 25, 0, POLICY, T0 + timedelta(seconds=201))
    quarter = watched(Report(totals(225), totals(15)), 7, 25, begin=quarter)
    verdict = verdict_on(quarter, analyze=Analyze(0, min_requests=400))
    assert verdict.result is Result.INCONCLUSIVE
    assert verdict.reason.startswith("this step needs about ")
    assert verdict_on(quarter, analyze=Analyze(0, min_requests=50)).result is Result.PASS


def test_failures_that_are_no_chance_fail_the_candidate_with_numbers_and_words() -> None:
    verdict = verdict_on(watched(Report(totals(270), totals(30, 3)), 41))
    assert verdict.result is Result.FAIL
    errors = row(verdict, "errors")
    assert errors.e_value >= errors.e_needed
    assert verdict.reason == (
        "errors: 10% of 1230 candidate requests failed, against stable's 0.015%, and that is no chance"
    )


def test_what_grows_on_both_sides_is_not_the_candidates() -> None:
    """Both begin to fail, up to 10% in five minutes. Against stable's past alone that would be proven harm."""
    evidence = watched(HEALTHY, 60)
    at_once, by_past = [], []
    for second in range(300):
        report = Report(totals(2700, 270 * second // 300), totals(300, 30 * second // 300))
        evidence = evidence.observed(report, 10, 0, POLICY, T0 + timedelta(seconds=60 + second))
        at_once.append(evidence.comparison("errors").at_once.value)
        by_past.append(evidence.comparison("errors").by_past.value)
    needed = row(verdict_on(evidence), "errors").e_needed
    assert max(by_past) > needed
    assert max(at_once) < 1
    assert evidence.comparison("errors").e_value < 1


def test_harm_that_is_proven_but_within_the_margin_does_not_fail() -> None:
    tolerant = Policy(error_margin=0.2)
    verdict = verdict_on(watched(Report(totals(270), totals(30, 3)), 60, policy=tolerant), tolerant)
    assert row(verdict, "errors").e_value >= row(verdict, "errors").e_needed
    assert verdict.result is Result.PASS


def test_a_healthy_past_does_not_hide_a_failing_present() -> None:
    healthy = watched(HEALTHY, 600)
    assert verdict_on(watched(Report(totals(150), totals(150, 9)), 100, 50, begin=healthy)).result is Result.FAIL


def test_half_of_twenty_failing_trips_the_breaker_at_once() -> None:
    evidence = watched(Report(totals(180), totals(20, 10)), 1)
    assert evidence.tripped == "10 of the candidate's last 20 requests failed"
    assert verdict_on(evidence).result is Result.FAIL


def test_nineteen_requests_trip_nothing_and_one_more_does() -> None:
    one = watched(Report(totals(180), totals(19, 19)), 1)
    assert verdict_on(one).result is not Result.FAIL
    assert verdict_on(watched(Report(totals(10), totals(1, 1)), 1, begin=one)).result is Result.FAIL


def test_the_breaker_holds_still_when_stable_fails_as_well() -> None:
    assert not watched(Report(totals(180, 100), totals(20, 12)), 3).tripped


@pytest.mark.parametrize(("bucket", "result"), [(4, Result.PASS), (6, Result.FAIL)])
def test_slower_within_the_margin_passes_and_beyond_it_fails(bucket: int, result: Result) -> None:
    """Stable's quantiles are 10 ms; a quarter more and the meter's millisecond is 13.5, so 15 ms is the bound."""
    evidence = watched(Report(totals(270), totals(30, bucket=bucket)), 150)
    assert {limit.candidate_ms for limit in evidence.thresholds} == {15.0}
    assert row(verdict_on(evidence), "latency_p95").result is result


def test_latencies_wait_until_stable_is_known() -> None:
    evidence = watched(Report(totals(20), totals(5)), 20, begin=Evidence())
    verdict = verdict_on(evidence)
    assert not evidence.thresholds
    assert row(verdict, "latency_p95").sentence.endswith("waits for enough answers of stable to know how fast it is")
    assert watched(Report(totals(20), totals(5)), 20, begin=evidence).thresholds


def test_answers_that_differ_more_than_stables_own_fail_the_candidate() -> None:
    answers = Report(totals(300), totals(30), Answers(30, 2), Answers(30, 0))
    verdict = verdict_on(watched(answers, 100, weight=0, mirror=10))
    assert row(verdict, "agreement").result is Result.FAIL
    assert verdict.result is Result.FAIL


def test_answers_that_differ_as_stables_own_do_are_noise() -> None:
    answers = Report(totals(300), totals(30), Answers(30, 2), Answers(30, 2))
    assert verdict_on(watched(answers, 120, weight=0, mirror=10)).result is Result.PASS


def test_agreement_is_waited_for_where_a_step_asks_for_it() -> None:
    asks = Analyze(0, 0, min_pairs=500)
    none = verdict_on(watched(Report(totals(300), totals(30)), 120, weight=0, mirror=10), analyze=asks)
    assert none.result is Result.INCONCLUSIVE
    assert none.reason == "agreement: needs about 500 more compared answers, and none arrive at present"
    pairs = Report(totals(300), totals(30), Answers(30, 0), Answers(30, 0))
    assert verdict_on(watched(pairs, 120, weight=0, mirror=10), analyze=asks).result is Result.PASS


METRIC = CustomMetric("drift", AtMost(0.2), WebhookAnswer("http://drift"), failures=2)
OWN = Policy(metrics=(METRIC,))


@pytest.mark.parametrize(
    ("values", "row_result", "result"),
    [
        ((), Result.INCONCLUSIVE, Result.INCONCLUSIVE),
        ((0.1,), Result.PASS, Result.PASS),
        ((0.3,), Result.INCONCLUSIVE, Result.INCONCLUSIVE),
        ((0.3, 0.1, 0.3), Result.INCONCLUSIVE, Result.INCONCLUSIVE),
        ((0.3, 0.3), Result.FAIL, Result.FAIL),
        ((0.3, None, 0.3), Result.FAIL, Result.FAIL),
        ((0.1, None), Result.ERROR, Result.INCONCLUSIVE),
    ],
)
def test_a_metric_of_ones_own_follows_its_rule(
    values: tuple[float | None, ...], row_result: Result, result: Result
) -> None:
    evidence = watched(HEALTHY, 100, policy=OWN)
    for value in values:
        evidence = evidence.measured(Measurement("drift", value, "" if value is not None else "timed out"), OWN)
    verdict = verdict_on(evidence, OWN)
    assert (row(verdict, "drift").result, verdict.result) == (row_result, result)


def test_a_sample_of_an_earlier_weight_says_nothing_about_this_one() -> None:
    evidence = watched(HEALTHY, 100, policy=OWN).measured(Measurement("drift", 0.1), OWN)
    evidence = watched(Report(totals(150), totals(150)), 100, 50, policy=OWN, begin=evidence)
    assert row(verdict_on(evidence, OWN), "drift").sentence == "drift: not measured at this step yet"


def test_a_sample_that_nobody_asked_for_changes_nothing() -> None:
    evidence = watched(HEALTHY, 3)
    assert evidence.measured(Measurement("other", 1.0), POLICY) == evidence


def test_exposure_is_share_times_time_times_excess() -> None:
    evidence = watched(Report(totals(270), totals(30, 3)), 60)
    # 10% of the traffic, 10% of it failing, for the 60 s that whole blocks cover
    assert verdict_on(evidence).exposure_s == pytest.approx(0.1 * 0.1 * 60, rel=0.15)


def test_a_mirror_exposes_nobody() -> None:
    assert watched(Report(totals(300), totals(30, 3)), 60, weight=0, mirror=10).exposure_s == 0


def test_what_ends_just_after_a_change_of_weight_belongs_to_nobody() -> None:
    ten = watched(HEALTHY, 100)
    late = watched(Report(totals(270), totals(30, 9)), 2, 50, begin=ten)
    assert late.comparison("errors").epoch.candidate.of == 0
    assert late.comparison("errors").whole.candidate.hits == 0


def test_evidence_does_not_grow() -> None:
    evidence = watched(HEALTHY, 100)
    assert len(repr(watched(HEALTHY, 1000, begin=evidence))) < 1.2 * len(repr(evidence))
