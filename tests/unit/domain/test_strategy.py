import pytest

from router.domain.errors import Invalid
from router.domain.policy import AtLeast, AtMost, CustomMetric, Policy
from router.domain.sources import CommandOutput, PrometheusQuery, WebhookAnswer, checked_url
from router.domain.strategy import (
    STRATEGIES,
    Analyze,
    ForSeconds,
    Pause,
    SetMirror,
    SetWeight,
    Step,
    Strategy,
    all_at_once,
    canary,
    linear,
    named_strategy,
    shadow,
)

CHECK = Analyze()


def test_a_canary_mirrors_first_and_is_analysed_after_every_weight() -> None:
    weights = [step for percent in (1, 5, 10, 25, 50, 100) for step in (SetWeight(percent), CHECK)]
    assert canary().steps == (SetMirror(10), CHECK, *weights)
    assert canary(mirror_percent=0).steps == tuple(weights)


@pytest.mark.parametrize(("step", "weights"), [(25, [25, 50, 75, 100]), (30, [30, 60, 90, 100]), (100, [100])])
def test_a_linear_rollout_takes_equal_steps_and_ends_at_100(step: int, weights: list[int]) -> None:
    assert [item.percent for item in linear(step).steps if isinstance(item, SetWeight)] == weights


def test_all_at_once_switches_and_watches() -> None:
    assert all_at_once().steps == (SetWeight(100), CHECK)


def test_a_shadow_moves_no_traffic() -> None:
    assert shadow(50).steps == (SetMirror(50), CHECK)
    assert not shadow().moves_traffic
    assert all(named_strategy(name).moves_traffic for name in STRATEGIES if name != "shadow")


def test_an_unknown_strategy_is_refused_with_those_that_exist() -> None:
    with pytest.raises(Invalid) as caught:
        named_strategy("canery")
    assert caught.value.key == "strategy"
    assert "canary" in caught.value.hint


@pytest.mark.parametrize(
    ("steps", "key"),
    [
        ((), "steps"),
        ((SetWeight(100),) * 101, "steps"),
        ((SetWeight(10), CHECK), "steps"),  # where is the rest?
        ((SetWeight(50), SetWeight(10), SetWeight(100)), "steps[1].set_weight"),
        ((SetWeight(10), SetMirror(10), SetWeight(100)), "steps[1].set_mirror"),
    ],
)
def test_steps_that_lead_nowhere_are_refused(steps: tuple[Step, ...], key: str) -> None:
    with pytest.raises(Invalid) as caught:
        Strategy("mine", steps)
    assert caught.value.key == key
    assert caught.value.hint


def test_explicit_steps_may_pause_and_end_a_mirror() -> None:
    steps = (SetMirror(100), Pause(ForSeconds(60)), SetMirror(0), Pause(), SetWeight(0), SetWeight(100))
    assert [str(step) for step in Strategy("mine", steps).steps] == [
        "mirror 100%",
        "pause 60 s",
        "mirror 0%",
        "pause until promoted",
        "weight 0%",
        "weight 100%",
    ]


@pytest.mark.parametrize("percent", [-1, 101, True, 0.5])
def test_a_step_takes_whole_percents_only(percent: int) -> None:
    with pytest.raises(Invalid, match="set_weight"):
        SetWeight(percent)
    with pytest.raises(Invalid, match="set_mirror"):
        SetMirror(percent)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"bake_s": -1}, "analyze.bake"),
        ({"bake_s": float("nan")}, "analyze.bake"),
        ({"min_requests": -1}, "analyze.min_requests"),
        ({"min_pairs": 1.5}, "analyze.min_pairs"),
    ],
)
def test_an_analysis_takes_a_time_and_counts(arguments: dict[str, float], key: str) -> None:
    with pytest.raises(Invalid) as caught:
        Analyze(**arguments)  # type: ignore[arg-type]
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"alpha": 0.0}, "analysis.alpha"),
        ({"alpha": float("nan")}, "analysis.alpha"),
        ({"error_margin": 0.0}, "analysis.error_margin"),
        ({"latency_margin": -0.1}, "analysis.latency_margin"),
        ({"max_wait_s": 0.0}, "analysis.max_wait"),
        ({"breaker_error_rate": 1.5}, "analysis.breaker_error_rate"),
        ({"breaker_requests": 0}, "analysis.breaker_requests"),
        ({"keep_old_s": -1.0}, "keep_old"),
    ],
)
def test_a_policy_out_of_range_is_refused_naming_the_key(arguments: dict[str, float], key: str) -> None:
    with pytest.raises(Invalid) as caught:
        Policy(**arguments)  # type: ignore[arg-type]
    assert caught.value.key == key
    assert caught.value.hint


def test_two_metrics_of_one_name_are_refused() -> None:
    metric = CustomMetric("drift", AtMost(0.1), WebhookAnswer("http://drift"))
    with pytest.raises(Invalid, match="same name"):
        Policy(metrics=(metric, metric))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "drift",
        "ftp://host/",
        "http:///path",
        "http://host:port/",
        "http://host:99999/",
        "http://[::1/",
        "http://host/a b",
        "http://höst/",
        "http://ann:secret@host/",
        "http://host/" + "x" * 5000,
    ],
)
def test_what_is_no_url_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        checked_url("notify", url)
    assert caught.value.key == "notify"
    with pytest.raises(Invalid):
        Policy(notify=(url,))


def test_a_metric_that_nobody_could_measure_is_refused() -> None:
    assert checked_url("notify", "https://[::1]:8443/hook?team=ml") == "https://[::1]:8443/hook?team=ml"
    for broken in (
        lambda: CommandOutput(()),
        lambda: CommandOutput(("", "x")),
        lambda: CommandOutput(("drift", "a\0b")),
        lambda: PrometheusQuery("http://prometheus:9090", " "),
        lambda: PrometheusQuery("prometheus:9090", "up"),
        lambda: WebhookAnswer("drift"),
    ):
        with pytest.raises(Invalid):
            broken()


def test_a_rule_includes_its_limit() -> None:
    assert AtMost(1).allows(1)
    assert not AtMost(1).allows(1.01)
    assert AtLeast(1).allows(1)
    assert not AtLeast(1).allows(0.99)
