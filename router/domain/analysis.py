"""The verdict on a candidate: what the evidence says about every metric, as numbers and as plain sentences.

Fail needs proof of harm that matters, pass needs proof that there is none, and everything else is inconclusive: lack of
traffic is neither. A candidate fails a metric when the bets against it came to 2/α (the other half of α pays for the
bound on stable's rate, see `sequential`) and its rate exceeds the margin; it passes when the upper bound of its rate
less the lower bound of stable's is within the margin. α is the policy's, split over the metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from router.domain.evidence import METRICS, Comparison, CustomRecord, Epoch, Evidence, expected_share, margin_of
from router.domain.policy import CustomMetric, Policy
from router.domain.sequential import Tally, lower_bound, upper_bound
from router.domain.strategy import Analyze

_WATCH_ONLY = Analyze(bake_s=0, min_requests=0)


class Result(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"  # of a user's own metric alone: it could not be measured


@dataclass(frozen=True, slots=True)
class Row:
    """One metric. `stable` and `candidate`: hits of requests. `bound`: the excess is at most this, proven."""

    metric: str
    result: Result
    sentence: str
    stable: Tally = field(default_factory=Tally)
    candidate: Tally = field(default_factory=Tally)
    excess: float = 0.0
    bound: float = 1.0
    margin: float = 0.0
    e_value: float = 0.0
    e_needed: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` says in a sentence why. `exposure_s`: seconds of all the traffic failing that this rollout has cost."""

    result: Result
    reason: str
    rows: tuple[Row, ...]
    exposure_s: float = 0.0


def judge(evidence: Evidence, policy: Policy, now: datetime, analyze: Analyze = _WATCH_ONLY) -> Verdict:
    """`analyze` says what the present step asks for; without it the verdict serves to see a failure, and no pass."""
    rows = (
        *(_row(metric, evidence, policy, analyze, now) for metric in METRICS),
        *(_custom_row(metric, evidence) for metric in policy.metrics),
    )
    result, reason = _overall(rows, evidence, policy, analyze, now)
    return Verdict(result, reason, rows, max(0.0, evidence.exposure_s))


def _overall(
    rows: tuple[Row, ...], evidence: Evidence, policy: Policy, analyze: Analyze, now: datetime
) -> tuple[Result, str]:
    if evidence.tripped:
        return Result.FAIL, evidence.tripped
    if mismatch := _share_mismatch(evidence, policy):
        return Result.INCONCLUSIVE, mismatch
    if failed := [row for row in rows if row.result is Result.FAIL]:
        return Result.FAIL, "; ".join(row.sentence for row in failed)
    arrived = evidence.comparison("errors").epoch.candidate.of
    if arrived < analyze.min_requests:
        missing = analyze.min_requests - arrived
        return Result.INCONCLUSIVE, f"this step needs {_more(missing, 'candidate requests', arrived, evidence, now)}"
    if open_rows := [row for row in rows if row.result is not Result.PASS]:
        return Result.INCONCLUSIVE, "; ".join(row.sentence for row in open_rows)
    return Result.PASS, "the candidate is as good as stable, within the margins"


def _row(metric: str, evidence: Evidence, policy: Policy, analyze: Analyze, now: datetime) -> Row:
    comparison = evidence.comparison(metric)
    alpha, margin = policy.alpha / len(METRICS), margin_of(metric, policy)
    stable, candidate = comparison.whole.stable, comparison.whole.candidate
    bound = upper_bound(candidate, alpha / 2) - lower_bound(stable, alpha / 2)
    excess, e_value = comparison.excess, comparison.e_value
    if e_value >= 2 / alpha and excess > margin:
        result, sentence = Result.FAIL, f"{_told(metric, comparison)}, and that is no chance"
    elif metric == "agreement" and not analyze.min_pairs:
        result, sentence = Result.PASS, f"{_told(metric, comparison)}; no agreement is asked for at this step"
    elif metric == "agreement" and candidate.of < analyze.min_pairs:
        missing = _more(analyze.min_pairs - candidate.of, "compared answers", candidate.of, evidence, now)
        result, sentence = Result.INCONCLUSIVE, f"{metric}: needs {missing}"
    elif metric.startswith("latency") and not evidence.thresholds:
        result, sentence = Result.INCONCLUSIVE, f"{metric}: waits for enough answers of stable to know how fast it is"
    elif bound <= margin and excess <= margin:
        result, sentence = Result.PASS, f"{_told(metric, comparison)}; {_surely(bound)}"
    else:
        wanted = _wanted(metric, comparison, margin, alpha, evidence, now)
        result, sentence = Result.INCONCLUSIVE, f"{_told(metric, comparison)}; {wanted}"
    return Row(metric, result, sentence, stable, candidate, excess, bound, margin, e_value, 2 / alpha)


def _wanted(metric: str, comparison: Comparison, margin: float, alpha: float, evidence: Evidence, now: datetime) -> str:
    """What is missing for a pass, if everything goes on as it is."""
    stable, candidate = comparison.whole.stable, comparison.whole.candidate
    floor = lower_bound(stable, alpha / 2)
    noun = "compared answers" if metric == "agreement" else "candidate requests"
    known = candidate if candidate.of else Tally(1, 0)
    low, high = 1.0, 2.0**40
    if upper_bound(Tally(known.of * high, known.hits * high), alpha / 2) - floor > margin:
        return f"stays above the margin of {_percent(margin)} as things are"
    while high / low > 1.02:
        middle = (low * high) ** 0.5
        is_enough = upper_bound(Tally(known.of * middle, known.hits * middle), alpha / 2) - floor <= margin
        low, high = (low, middle) if is_enough else (middle, high)
    missing = high * known.of - candidate.of
    if missing < 1:
        return f"waits until this step's own rate is within the margin of {_percent(margin)}"
    return f"needs {_more(missing, noun, comparison.epoch.candidate.of, evidence, now)}"


def _share_mismatch(evidence: Evidence, policy: Policy) -> str:
    """Why the analysis is void: the split that was observed is not the one that was configured. Empty when it is."""
    needed = 2 / policy.alpha
    if max(evidence.share_high.value, evidence.share_low.value) < needed:
        return ""
    errors = evidence.comparison("errors").epoch
    total = errors.candidate.of + errors.stable.of
    seen = errors.candidate.of / total if total else 0.0
    return (
        f"the candidate got {_percent(seen)} of the requests where {_percent(expected_share(evidence.epoch))} were "
        "configured, so nothing can be concluded: look at the routing, not at the model"
    )


def _custom_row(metric: CustomMetric, evidence: Evidence) -> Row:
    record = next((record for record in evidence.custom if record.last.metric == metric.name), None)
    result, sentence = _custom_result(metric, record, evidence.epoch)
    return Row(metric.name, result, sentence)


def _custom_result(metric: CustomMetric, record: CustomRecord | None, epoch: Epoch) -> tuple[Result, str]:
    if record is None or record.epoch != epoch.number:
        return Result.INCONCLUSIVE, f"{metric.name}: not measured at this step yet"
    if record.last.value is None:
        return Result.ERROR, f"{metric.name}: could not be measured: {record.last.error}"
    told = f"{metric.name}: {record.last.value:g}, {metric.rule} is asked for"
    if not record.failures_in_a_row:
        return Result.PASS, told
    if record.failures_in_a_row >= metric.failures:
        return Result.FAIL, f"{told}; {record.failures_in_a_row} times in a row"
    return Result.INCONCLUSIVE, f"{told}; broken {record.failures_in_a_row} of {metric.failures} times"


_VERBS = {
    "errors": "failed",
    "latency_p50": "were slower than stable's p50 allows",
    "latency_p95": "were slower than stable's p95 allows",
    "latency_p99": "were slower than stable's p99 allows",
    "agreement": "differ",
}


def _told(metric: str, comparison: Comparison) -> str:
    stable, candidate = comparison.whole.stable, comparison.whole.candidate
    noun = "answers" if metric == "agreement" else "requests"
    if not candidate.of:
        return f"{metric}: no candidate {noun} yet"
    against = f"stable's {_percent(stable.rate)}" if stable.of else "nothing known of stable"
    return (
        f"{metric}: {_percent(candidate.rate)} of {candidate.of:.0f} candidate {noun} {_VERBS[metric]}, "
        f"against {against}"
    )


def _more(missing: float, noun: str, arrived: float, evidence: Evidence, now: datetime) -> str:
    """ "about 420 more candidate requests, about 3 min at this rate"; `arrived`: those of the present epoch."""
    count = f"about {_rounded(missing)} more {noun}"
    elapsed_s = (now - evidence.epoch.since).total_seconds()
    if not arrived or elapsed_s <= 0:
        return f"{count}, and none arrive at present"
    return f"{count}, about {_duration(missing * elapsed_s / arrived)} at this rate"


def _rounded(count: float) -> str:
    """Two significant digits: more would promise too much."""
    whole = max(1, round(count))
    return f"{round(whole, 2 - len(str(whole))):,}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _surely(bound: float) -> str:
    return f"at most {_percent(bound)} more, proven" if bound > 0 else "not more than stable's, proven"


def _percent(rate: float) -> str:
    return f"{rate * 100:.2g}%" if rate < 0.995 else f"{rate * 100:.0f}%"
