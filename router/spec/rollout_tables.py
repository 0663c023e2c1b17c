"""Every key of `kind: Rollout`. As in `tables`, the ranges repeat the domain's, and a test holds the two together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from router.domain.errors import Invalid
from router.domain.policy import MAX_METRICS, MAX_NOTIFIED, AtLeast, AtMost, CustomMetric, Policy
from router.domain.rollout import RolloutSpec
from router.domain.sources import CommandOutput, PrometheusQuery, Source, WebhookAnswer
from router.domain.strategy import MAX_STEPS, STRATEGIES, Step, Strategy, named_strategy
from router.spec.rollout_values import CommandWords, Duration, ListOf, Maybe, StepKind, Text, Translated, Url, Word
from router.spec.sections import Key, Section
from router.spec.values import Flag, Name, Number, Whole

DEFAULT_STRATEGY = "canary"
OWN_STEPS = "steps"  # the name of a strategy whose steps are written out

_DAY_S = 86400.0
_LIMIT = Number(-1e18, 1e18)


@dataclass(frozen=True, slots=True)
class _WrittenMetric:
    name: str
    at_most: float | None = None
    at_least: float | None = None
    prometheus: PrometheusQuery | None = None
    command: CommandOutput | None = None
    webhook: str | None = None
    failures: int = 3
    every_s: float = 10.0
    timeout_s: float = 10.0

    @classmethod
    def of(cls, metric: CustomMetric) -> _WrittenMetric:
        rule, source = metric.rule, metric.source
        return cls(
            name=metric.name,
            at_most=rule.limit if isinstance(rule, AtMost) else None,
            at_least=rule.limit if isinstance(rule, AtLeast) else None,
            prometheus=source if isinstance(source, PrometheusQuery) else None,
            command=source if isinstance(source, CommandOutput) else None,
            webhook=source.url if isinstance(source, WebhookAnswer) else None,
            failures=metric.failures,
            every_s=metric.every_s,
            timeout_s=metric.timeout_s,
        )

    def metric(self) -> CustomMetric:
        rules: list[AtMost | AtLeast] = []
        rules += [AtMost(self.at_most)] if self.at_most is not None else []
        rules += [AtLeast(self.at_least)] if self.at_least is not None else []
        if len(rules) != 1:
            raise Invalid("", f"has {len(rules)} rules", "give it either at_most or at_least")
        webhook = WebhookAnswer(self.webhook) if self.webhook is not None else None
        given = (self.prometheus, self.command, webhook)
        sources: list[Source] = [source for source in given if source is not None]
        if len(sources) != 1:
            raise Invalid("", f"has {len(sources)} sources", "give it one of prometheus, command or webhook")
        return CustomMetric(self.name, rules[0], sources[0], self.failures, self.every_s, self.timeout_s)


_PROMETHEUS = Section(
    PrometheusQuery,
    (
        Key("server", "server", Url(), "The server's base URL, such as http://prometheus:9090.", is_required=True),
        Key(
            "query",
            "query",
            Text(),
            "PromQL that gives one number. ${candidate}, ${stable} and ${endpoint} stand for the rollout's names.",
            is_required=True,
        ),
    ),
)

METRIC = Section(
    _WrittenMetric,
    (
        Key("name", "name", Name(), "The metric's name, as evidence and messages show it.", is_required=True),
        Key("at_most", "at_most", Maybe(_LIMIT), "The rule: a value above this breaks it."),
        Key("at_least", "at_least", Maybe(_LIMIT), "The rule: a value below this breaks it."),
        Key("prometheus", "prometheus", Maybe(_PROMETHEUS), "Take the value from a Prometheus server."),
        Key(
            "command",
            "command",
            Maybe(CommandWords()),
            "Take the value from a program: the last line it prints. A list of words; no shell is involved. It runs as "
            "the control plane does, with CROSSFADE_ENDPOINT, CROSSFADE_CANDIDATE, CROSSFADE_STABLE, "
            "CROSSFADE_ROLLOUT and CROSSFADE_METRIC in its environment.",
        ),
        Key("webhook", "webhook", Maybe(Url()), 'POST the rollout to this URL; its answer is {"value": NUMBER}.'),
        Key("failures", "failures", Whole(1, 1000), "So many values in a row must break the rule to fail."),
        Key("every", "every_s", Duration(1, 3600), "How often a value is taken."),
        Key("timeout", "timeout_s", Duration(0.1, 60), "A value that takes longer is an error, and no value."),
    ),
)

ANALYSIS = Section(
    Policy,
    (
        Key(
            "alpha",
            "alpha",
            Number(1e-6, 0.5),
            "How often a healthy candidate may be rolled back by chance; split over the metrics.",
        ),
        Key("error_margin", "error_margin", Number(1e-5, 1), "So much more of the requests may fail than on stable."),
        Key(
            "latency_margin",
            "latency_margin",
            Number(0, 100),
            "So much slower a request may be, as a fraction of stable's p50, p95 and p99.",
        ),
        Key("slow_margin", "slow_margin", Number(1e-5, 1), "So much more of the requests may be slower than that."),
        Key(
            "disagreement_margin",
            "disagreement_margin",
            Number(1e-5, 1),
            "So much more of the answers may differ than stable's differ from its own.",
        ),
        Key(
            "ratio_tolerance",
            "ratio_tolerance",
            Number(0.01, 1),
            "The observed share of the traffic may be off by this fraction of the configured one.",
        ),
        Key("burst", "burst_s", Duration(0, 600), "Errors within so long may have one cause, and count as one."),
        Key("settle", "settle_s", Duration(0, 600), "What ends so soon after a change of weight is not counted."),
        Key(
            "max_wait",
            "max_wait_s",
            Duration(1, 7 * _DAY_S),
            "Pause as inconclusive when an analysis takes longer; give up when no replica comes for so long.",
        ),
        Key(
            "breaker_error_rate",
            "breaker_error_rate",
            Number(0.01, 1),
            "Roll back at once when this fraction of breaker_requests in a row fails.",
        ),
        Key("breaker_requests", "breaker_requests", Whole(1, 1_000_000), "See breaker_error_rate."),
        Key(
            "metrics",
            "metrics",
            ListOf(Translated(METRIC, _WrittenMetric.metric, _WrittenMetric.of), MAX_METRICS),
            "Metrics of your own.",
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenRecipe:
    """What a rollout's spec says beside from where to where it goes."""

    strategy: str = ""
    steps: tuple[Step, ...] | None = None
    analysis: Policy = field(default_factory=Policy)
    shield: bool = True
    keep_old_s: float = 600.0
    notify: tuple[str, ...] = ()

    @staticmethod
    def parts(strategy: Strategy, policy: Policy) -> dict[str, Any]:
        is_named = strategy.name in STRATEGIES and strategy == named_strategy(strategy.name)
        return {
            "strategy": strategy.name if is_named else "",
            "steps": None if is_named else strategy.steps,
            "analysis": policy,
            "shield": policy.shield,
            "keep_old_s": policy.keep_old_s,
            "notify": policy.notify,
        }

    def asked_strategy(self) -> Strategy:
        if self.strategy and self.steps is not None:
            raise Invalid("steps", "stand beside a strategy", "keep one of the two")
        if self.steps is not None:
            return Strategy(OWN_STEPS, self.steps)
        return named_strategy(self.strategy or DEFAULT_STRATEGY)

    def asked_policy(self) -> Policy:
        return replace(self.analysis, shield=self.shield, keep_old_s=self.keep_old_s, notify=self.notify)


@dataclass(frozen=True, slots=True, kw_only=True)
class _WrittenRollout(WrittenRecipe):
    endpoint: str
    candidate: str

    @classmethod
    def of(cls, spec: RolloutSpec) -> _WrittenRollout:
        parts = WrittenRecipe.parts(spec.strategy, spec.policy)
        return cls(endpoint=spec.endpoint, candidate=spec.candidate, **parts)

    def spec(self) -> RolloutSpec:
        return RolloutSpec(self.endpoint, self.candidate, self.asked_strategy(), self.asked_policy())


RECIPE_KEYS = (
    Key(
        "strategy",
        "strategy",
        Word(tuple(STRATEGIES)),
        "canary: a mirror, then 1, 5, 10, 25, 50 and 100%. linear: steps of 10%. all_at_once: switch, then "
        "watch. shadow: a mirror only. Left out, and without steps: canary.",
    ),
    Key("steps", "steps", Maybe(ListOf(StepKind(), MAX_STEPS)), "Your own steps, instead of a strategy."),
    Key("analysis", "analysis", ANALYSIS, "What is tolerated, and how sure the analysis must be."),
    Key("shield", "shield", Flag(), "Stable answers the requests that fail on the candidate."),
    Key(
        "keep_old",
        "keep_old_s",
        Duration(0, 30 * _DAY_S),
        "So long the old deployment keeps its replicas after the rollout succeeded.",
    ),
    Key("notify", "notify", ListOf(Url(), MAX_NOTIFIED), "URLs that are told of everything that happens."),
)

ROLLOUT = Translated(
    Section(
        _WrittenRollout,
        (
            Key("endpoint", "endpoint", Name(), "The endpoint whose traffic is moved.", is_required=True),
            Key("to", "candidate", Name(), "The deployment that the traffic is moved to.", is_required=True),
            *RECIPE_KEYS,
        ),
    ),
    _WrittenRollout.spec,
    _WrittenRollout.of,
)
