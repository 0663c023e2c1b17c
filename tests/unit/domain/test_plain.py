import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from router.domain.analysis import Verdict, judge
from router.domain.errors import Invalid
from router.domain.evidence import Answers, Evidence, Measurement, Report
from router.domain.measurement import Latencies, Totals
from router.domain.plain import from_plain, to_plain
from router.domain.policy import AtLeast, AtMost, CustomMetric, Policy
from router.domain.rollout import Rollout, RolloutSpec, Split, Standing, start
from router.domain.sources import CommandOutput, PrometheusQuery
from router.domain.strategy import Analyze, ForSeconds, Pause, SetMirror, SetWeight, Strategy
from router.domain.traffic import Mirror, Traffic

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DRIFT = CustomMetric("drift", AtMost(1), CommandOutput(("drift", "--hours", "1")))
HITS = CustomMetric("hits", AtLeast(0.5), PrometheusQuery("http://prometheus:9090", "hits"), failures=2)
POLICY = Policy(alpha=0.02, metrics=(DRIFT, HITS), notify=("http://pager/hook",))
STEPS = (SetMirror(10), Analyze(30, 20, 5), Pause(ForSeconds(3.5)), Pause(), SetWeight(100))


def a_rollout() -> Rollout:
    standing = Standing(Split(Traffic.of({"blue": 100}), Mirror("green", 5)), {"blue": 2, "green": 1})
    return start("r1", RolloutSpec("fraud", "green", Strategy("mine", STEPS), POLICY), standing, "ann", T0)


def some_evidence() -> Evidence:
    busy = Totals(1000, 3, Latencies((10.0, 20.0), (500, 400, 97)))
    evidence = Evidence.of_baseline(busy, POLICY).measured(Measurement("drift", None, "timed out"), POLICY)
    report = Report(busy, Totals(90, 1, Latencies((10.0, 20.0), (50, 39, 0))), Answers(50, 2), Answers(20, 1))
    for second in range(1, 13):
        evidence = evidence.observed(report, 10, 0, POLICY, T0 + timedelta(seconds=second))
    return evidence


def there_and_back(value: Any) -> Any:
    return from_plain(type(value), json.loads(json.dumps(to_plain(value), allow_nan=False)))


def test_a_rollout_comes_back_as_it_was() -> None:
    rollout = a_rollout()
    assert there_and_back(rollout) == rollout


def test_evidence_comes_back_as_it_was_infinite_thresholds_included() -> None:
    evidence = some_evidence()
    assert any(math.isinf(limit.candidate_ms) for limit in evidence.thresholds)
    assert there_and_back(evidence) == evidence


def test_a_verdict_comes_back_as_it_was() -> None:
    verdict = judge(some_evidence(), POLICY, T0 + timedelta(seconds=12))
    assert len(verdict.rows) == 7
    assert there_and_back(verdict) == verdict
    assert isinstance(there_and_back(verdict), Verdict)


def test_one_of_several_kinds_says_which_it_is() -> None:
    plain = to_plain(a_rollout())
    assert plain["strategy"]["steps"][:2] == [
        {"is": "SetMirror", "percent": 10},
        {"is": "Analyze", "bake_s": 30, "min_requests": 20, "min_pairs": 5},
    ]


def test_a_field_that_came_later_takes_its_default() -> None:
    plain = to_plain(a_rollout())
    del plain["undoes"]
    assert from_plain(Rollout, plain) == a_rollout()


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (("phase",), "sleeping", "Rollout.phase"),
        (("revision",), "1", "Rollout.revision"),
        (("revision",), True, "Rollout.revision"),
        (("started_at",), "yesterday", "Rollout.started_at"),
        (("strategy", "steps"), [{"is": "Jump"}], "Rollout.strategy.steps[0]"),
        (("strategy", "steps"), [7], "Rollout.strategy.steps[0]"),
        (("strategy", "steps"), [{"is": "SetWeight", "percent": 300}], "set_weight"),
        (("policy", "later"), 1, "Rollout.policy.later"),
        (("in_force", "traffic", "shares"), [["blue"]], "Rollout.in_force.traffic.shares[0]"),
        (("asked",), {}, "Rollout.asked"),
    ],
)
def test_what_cannot_be_is_refused_naming_the_place(path: tuple[str, ...], value: object, key: str) -> None:
    plain = to_plain(a_rollout())
    *parents, last = path
    inner = plain
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    with pytest.raises(Invalid) as caught:
        from_plain(Rollout, plain)
    assert caught.value.key == key
