"""`kind: Rollout`: what is accepted, what every mistake is told like, the way back, the schema beside the parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.errors import Invalid
from router.domain.policy import AtLeast, AtMost, CustomMetric, Policy
from router.domain.rollout import RolloutSpec
from router.domain.sources import CommandOutput, PrometheusQuery, WebhookAnswer
from router.domain.strategy import (
    STRATEGIES,
    Analyze,
    ForSeconds,
    Pause,
    SetMirror,
    SetWeight,
    Strategy,
    UntilPromoted,
    canary,
    named_strategy,
)
from router.spec import SpecProblems, SpecSource, json_schema, read_documents, read_specs, to_plain, to_yaml
from router.spec.rollout_tables import ANALYSIS, METRIC, ROLLOUT
from router.spec.rollout_values import ANALYZE, Duration
from router.spec.values import Number, Whole

FULL = """\
kind: Rollout
endpoint: fraud
to: green
steps:
  - set_mirror: 10
  - analyze: {bake: 90s, min_requests: 200, min_pairs: 100}
  - set_weight: 5
  - pause: {duration: 500ms}
  - pause: until_promoted
  - set_weight: 100
  - analyze: {}
analysis:
  alpha: 0.05
  error_margin: 0.01
  latency_margin: 0.5
  slow_margin: 0.05
  disagreement_margin: 0.02
  ratio_tolerance: 0.3
  burst: 10s
  settle: 0s
  max_wait: 2h
  breaker_error_rate: 0.9
  breaker_requests: 50
  metrics:
    - name: drift
      command: [/usr/local/bin/drift, --hours, "1"]
      at_most: 0.2
      failures: 2
      every: 1m
      timeout: 30s
    - name: hits
      prometheus: {server: "http://prometheus:9090", query: 'hits{d="${candidate}"}'}
      at_least: 3
    - {name: review, webhook: "https://review/verdict", at_least: 1}
shield: false
keep_old: 1d
notify: ["https://chat/hook"]
"""


def read_one(text: str) -> RolloutSpec:
    (document,) = read_specs([SpecSource("s.yaml", text.encode(), "/specs")])
    assert isinstance(document.content, RolloutSpec)
    return document.content


def problems_of(text: str) -> list[str]:
    with pytest.raises(SpecProblems) as refused:
        read_specs([SpecSource("s.yaml", text.encode(), "/specs")])
    return [str(problem) for problem in refused.value.problems]


def test_every_key_arrives_in_the_domain() -> None:
    assert read_one(FULL) == RolloutSpec(
        "fraud",
        "green",
        Strategy(
            "steps",
            (
                SetMirror(10),
                Analyze(90, 200, 100),
                SetWeight(5),
                Pause(ForSeconds(0.5)),
                Pause(UntilPromoted()),
                SetWeight(100),
                Analyze(),
            ),
        ),
        Policy(
            alpha=0.05,
            error_margin=0.01,
            latency_margin=0.5,
            slow_margin=0.05,
            disagreement_margin=0.02,
            ratio_tolerance=0.3,
            burst_s=10,
            settle_s=0,
            max_wait_s=7200,
            breaker_error_rate=0.9,
            breaker_requests=50,
            shield=False,
            keep_old_s=86400,
            metrics=(
                CustomMetric(
                    "drift", AtMost(0.2), CommandOutput(("/usr/local/bin/drift", "--hours", "1")), 2, 60.0, 30.0
                ),
                CustomMetric("hits", AtLeast(3), PrometheusQuery("http://prometheus:9090", 'hits{d="${candidate}"}')),
                CustomMetric("review", AtLeast(1), WebhookAnswer("https://review/verdict")),
            ),
            notify=("https://chat/hook",),
        ),
    )


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_named_by_a_word(name: str) -> None:
    spec = read_one(f"kind: Rollout\nendpoint: e\nto: green\nstrategy: {name}\n")
    assert spec == RolloutSpec("e", "green", named_strategy(name))
    assert to_plain(spec)["strategy"] == name
    assert "steps" not in to_plain(spec)


def test_nothing_but_names_means_a_canary_with_every_default() -> None:
    assert read_one("kind: Rollout\nendpoint: e\nto: green\n") == RolloutSpec("e", "green", canary())


ROLLOUT_HEAD = "kind: Rollout\nendpoint: e\nto: green\n"

MISTAKES = [
    (
        "kind: Rollout\nendpoint: e\n",
        ["s.yaml:1:1: the key 'to' is missing (The deployment that the traffic is moved to.)"],
    ),
    (ROLLOUT_HEAD + "stratgy: canary\n", ["s.yaml:4:1: stratgy: is not a key here (did you mean 'strategy'?)"]),
    (
        ROLLOUT_HEAD + "strategy: canry\n",
        [
            "s.yaml:4:11: strategy: must be one of canary, linear, all_at_once, shadow, not the text 'canry'"
            " (did you mean 'canary'?)"
        ],
    ),
    (
        ROLLOUT_HEAD + "strategy: canary\nsteps: [{set_weight: 100}]\n",
        ["s.yaml:5:1: steps: stand beside a strategy (keep one of the two)"],
    ),
    (ROLLOUT_HEAD + "steps: []\n", ["s.yaml:4:1: steps: 0 steps (use 1 to 100)"]),
    (
        ROLLOUT_HEAD + "steps: {a: 1}\n",
        ["s.yaml:4:8: steps: must be a list, not a mapping (begin every entry with '- ')"],
    ),
    (
        ROLLOUT_HEAD + "steps:\n- set_wieght: 10\n",
        ["s.yaml:5:3: steps[0].set_wieght: is not a step (did you mean 'set_weight'?)"],
    ),
    (
        ROLLOUT_HEAD + "steps:\n- set_weight: 110\n- pause:\n- wait\n- {set_weight: 1, pause: until_promoted}\n",
        [
            "s.yaml:5:15: steps[0].set_weight: 110 is out of range (use a whole number from 0 to 100)",
            "s.yaml:6:3: steps[1].pause: has no value (give it one, or remove the step)",
            "s.yaml:7:3: steps[2]: must be a mapping with one key, not the text 'wait'"
            " (one of set_weight, set_mirror, pause, analyze)",
            "s.yaml:8:3: steps[3]: has 2 keys (give every step one of set_weight, set_mirror, pause, analyze)",
        ],
    ),
    (
        ROLLOUT_HEAD + "steps:\n- set_weight: 50\n- set_weight: 20\n",
        ["s.yaml:6:3: steps[1].set_weight: goes back from 50% to 20% (let the weights grow)"],
    ),
    (
        ROLLOUT_HEAD + "steps:\n- set_weight: 50\n",
        ["s.yaml:4:1: steps: end with 50% on the candidate (end with set_weight: 100, or use no weights (a shadow))"],
    ),
    (
        ROLLOUT_HEAD + "steps: [{pause: forever}]\n",
        [
            "s.yaml:4:17: steps[0].pause: must be until_promoted or a duration, not the text 'forever'"
            " (write until_promoted or {duration: 10m})"
        ],
    ),
    (
        ROLLOUT_HEAD + "steps: [{analyze: {bake: 60, min_request: 5}}]\n",
        [
            "s.yaml:4:26: steps[0].analyze.bake: 60 has no unit (did you mean '60s'?)",
            "s.yaml:4:30: steps[0].analyze.min_request: is not a key here (did you mean 'min_requests'?)",
        ],
    ),
    (
        ROLLOUT_HEAD + "keep_old: 1.5h\n",
        ["s.yaml:4:11: keep_old: must be a duration, not the text '1.5h' (use 0s to 30d, such as 500ms, 60s, 10m, 2h)"],
    ),
    (ROLLOUT_HEAD + "keep_old: 40d\n", ["s.yaml:4:11: keep_old: 40d is out of range (use 0s to 30d)"]),
    (
        ROLLOUT_HEAD + "analysis: {alpha: 0.9, errormargin: 1}\n",
        [
            "s.yaml:4:19: analysis.alpha: 0.9 is out of range (use a number from 1e-06 to 0.5)",
            "s.yaml:4:24: analysis.errormargin: is not a key here (did you mean 'error_margin'?)",
        ],
    ),
    (
        ROLLOUT_HEAD + "analysis:\n  metrics:\n  - {name: a, at_most: 1}\n  - {name: b, webhook: 'http://h'}\n",
        [
            "s.yaml:6:5: analysis.metrics[0]: has 0 sources (give it one of prometheus, command or webhook)",
            "s.yaml:7:5: analysis.metrics[1]: has 0 rules (give it either at_most or at_least)",
        ],
    ),
    (
        ROLLOUT_HEAD + "analysis:\n  metrics:\n  - {name: a, at_most: 1, command: []}\n",
        [
            "s.yaml:6:36: analysis.metrics[0].command: does not name a program (write it as a list of 1 to 64 words, "
            "such as [/usr/local/bin/drift, --hours, '1'])"
        ],
    ),
    (
        ROLLOUT_HEAD + "analysis:\n  metrics:\n  - {name: a, at_most: 1, command: drift}\n",
        [
            "s.yaml:6:36: analysis.metrics[0].command: must be a list, not the text 'drift'"
            " (begin every entry with '- ')"
        ],
    ),
    (
        ROLLOUT_HEAD + "analysis:\n  metrics:\n"
        "  - {name: a, at_most: 1, webhook: 'http://h'}\n  - {name: a, at_most: 2, webhook: 'http://h'}\n",
        ["s.yaml:5:3: analysis.metrics: two metrics have the same name (give each its own)"],
    ),
    (
        ROLLOUT_HEAD + "notify: ['https://ann:secret@chat/']\n",
        [
            "s.yaml:4:10: notify[0]: the URL holds a user or a password"
            " (specs are shown to everybody: leave secrets out)"
        ],
    ),
    (
        f"{ROLLOUT_HEAD}---\n{ROLLOUT_HEAD}",
        [
            "s.yaml:6:1: endpoint: endpoint 'e' has a rollout already, and one at a time is all it can have"
            " (first at s.yaml:1:1)"
        ],
    ),
]


@pytest.mark.parametrize(("text", "problems"), MISTAKES, ids=[text[-30:] for text, _ in MISTAKES])
def test_a_mistake_is_told_with_its_place_its_key_and_what_to_write(text: str, problems: list[str]) -> None:
    assert problems_of(text) == problems


names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,8}[A-Za-z0-9])?", fullmatch=True)
urls = st.from_regex(r"https?://[a-z]{1,9}(:[1-9][0-9]{0,3})?(/[a-z0-9?=&]{0,9})?", fullmatch=True)
limits = st.floats(-1e9, 1e9)
sources = st.one_of(
    st.builds(PrometheusQuery, urls, st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1)),
    st.builds(CommandOutput, st.lists(st.from_regex(r"[a-z0-9 -]{1,9}", fullmatch=True), min_size=1).map(tuple)),
    st.builds(WebhookAnswer, urls),
)


def milliseconds(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda count: count / 1000)


metrics = st.builds(
    CustomMetric,
    names,
    st.builds(AtMost, limits) | st.builds(AtLeast, limits),
    sources,
    st.integers(1, 1000),
    milliseconds(1000, 3_600_000),
    milliseconds(100, 60_000),
)
policies = st.builds(
    Policy,
    alpha=st.floats(1e-6, 0.5),
    latency_margin=st.floats(0, 100),
    burst_s=milliseconds(0, 600_000),
    max_wait_s=milliseconds(1000, 604_800_000),
    breaker_requests=st.integers(1, 1_000_000),
    shield=st.booleans(),
    keep_old_s=milliseconds(0, 2_592_000_000),
    metrics=st.lists(metrics, max_size=3, unique_by=lambda metric: metric.name).map(tuple),
    notify=st.lists(urls, max_size=2).map(tuple),
)
holds = st.one_of(
    st.builds(Analyze, milliseconds(0, 604_800_000), st.integers(0, 10**9), st.integers(0, 10**9)),
    st.builds(Pause, st.builds(ForSeconds, milliseconds(0, 604_800_000)) | st.just(UntilPromoted())),
)


@st.composite
def own_steps(draw: st.DrawFn) -> Strategy:
    mirrors = [SetMirror(percent) for percent in draw(st.lists(st.integers(0, 100), max_size=2))]
    weights = [SetWeight(percent) for percent in sorted(draw(st.lists(st.integers(1, 100), max_size=3)))]
    steps = [step for change in (*mirrors, *weights) for step in (change, draw(holds))]
    if weights:
        steps.append(SetWeight(100))
    return Strategy("steps", tuple(steps or [draw(holds)]))


rollouts = st.builds(
    RolloutSpec, names, names, st.sampled_from(sorted(STRATEGIES)).map(named_strategy) | own_steps(), policies
)


@settings(max_examples=60, deadline=None)
@given(rollouts)
def test_what_is_written_reads_as_the_same_and_fits_the_schema(spec: RolloutSpec) -> None:
    assert read_one(to_yaml([spec])) == spec
    (document,) = read_documents([to_plain(spec)])
    assert document.content == spec
    jsonschema.Draft202012Validator(json_schema()).validate(to_plain(spec))


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200) | st.sampled_from(["10s", "until_promoted", "http://h", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([key.name for section in (ROLLOUT, ANALYSIS, METRIC, ANALYZE) for key in section.keys])
            | st.sampled_from(["set_weight", "set_mirror", "pause", "analyze", "duration", "server", "query"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(rollouts.map(to_plain), st.sampled_from([key.name for key in ROLLOUT.keys]), anything)
def test_any_value_of_any_key_is_refused_or_fits_the_schema(plain: dict[str, Any], key: str, value: Any) -> None:
    changed = plain | {key: value}
    if key == "steps":
        changed.pop("strategy", None)
    try:
        (document,) = read_documents([changed])
    except SpecProblems:
        return
    jsonschema.Draft202012Validator(json_schema()).validate(changed)
    assert read_documents([to_plain(document.content)])[0].content == document.content


BOUNDED = [
    (section, key.name)
    for section in (ANALYSIS, ANALYZE, METRIC)
    for key in section.keys
    if isinstance(key.kind, Whole | Number | Duration)
]


@pytest.mark.parametrize(("section", "name"), BOUNDED, ids=[name for _, name in BOUNDED])
def test_the_ranges_of_the_tables_are_those_of_the_domain(section: Any, name: str) -> None:
    key = next(key for key in section.keys if key.name == name)
    kind = key.kind
    low, high = (kind.minimum_s, kind.maximum_s) if isinstance(kind, Duration) else (kind.minimum, kind.maximum)
    step = 1 if isinstance(kind, Whole) else 1e-7

    def build(value: float) -> object:
        if section is METRIC:
            return CustomMetric("m", AtMost(1), WebhookAnswer("http://h"), **{key.attribute: value})  # type: ignore[arg-type]
        return section.builds(**{key.attribute: value})

    build(low)
    build(high)
    for outside in (low - step, high + step):
        with pytest.raises(Invalid):
            build(outside)


def test_the_range_of_keep_old_is_that_of_the_domain() -> None:
    (kind,) = [key.kind for key in ROLLOUT.keys if key.name == "keep_old"]
    assert isinstance(kind, Duration)
    Policy(keep_old_s=kind.maximum_s)
    with pytest.raises(Invalid):
        Policy(keep_old_s=kind.maximum_s + 1)


def test_the_example_is_a_rollout_of_the_example_s_endpoint() -> None:
    folder = Path(__file__).parents[3] / "deploy" / "examples"
    files = [
        SpecSource(name, (folder / name).read_bytes(), str(folder))
        for name in ("filetype.yaml", "filetype-rollout.yaml")
    ]
    *served, rollout = [document.content for document in read_specs(files)]
    assert isinstance(rollout, RolloutSpec)
    assert {item.name for item in served if not isinstance(item, RolloutSpec)} >= {rollout.endpoint, rollout.candidate}
    assert rollout.strategy.moves_traffic
