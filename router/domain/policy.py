"""What a rollout tolerates, and how sure it must be."""

from __future__ import annotations

from dataclasses import dataclass

from router.domain.errors import Invalid
from router.domain.names import checked_name
from router.domain.sources import Source, checked_url

MAX_METRICS = 20
MAX_NOTIFIED = 10


@dataclass(frozen=True, slots=True)
class AtMost:
    limit: float

    def allows(self, value: float) -> bool:
        return value <= self.limit

    def __str__(self) -> str:
        return f"at most {self.limit:g}"


@dataclass(frozen=True, slots=True)
class AtLeast:
    limit: float

    def allows(self, value: float) -> bool:
        return value >= self.limit

    def __str__(self) -> str:
        return f"at least {self.limit:g}"


@dataclass(frozen=True, slots=True)
class CustomMetric:
    """A metric of the user's own. It fails when `failures` measurements in a row break the rule.

    A value is taken from `source` every `every_s` seconds; one that takes longer than `timeout_s` is an error.
    """

    name: str
    rule: AtMost | AtLeast
    source: Source
    failures: int = 3
    every_s: float = 10.0
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        checked_name("analysis.metrics.name", self.name)
        for key, value, low, high in (
            ("failures", self.failures, 1, 1000),
            ("every", self.every_s, 1.0, 3600.0),
            ("timeout", self.timeout_s, 0.1, 60.0),
        ):
            if not low <= value <= high:
                raise Invalid(f"analysis.metrics.{key}", f"{value:g} is out of range", f"use {low:g} to {high:g}")


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one rollout; every default suits an endpoint that nobody has thought about yet.

    Rates and margins are fractions (0.005 is half a percent), durations are seconds. An error names the key as a spec
    has it: `keep_old`, `shield` and `notify` stand beside the steps, the rest under `analysis`.
    """

    alpha: float = 0.01  # how often a healthy candidate may be rolled back; split over the metrics
    error_margin: float = 0.005  # so much more of the requests may fail than with stable
    latency_margin: float = 0.25  # so much slower a request may be, as a fraction of stable's p50, p95, p99 ...
    slow_margin: float = 0.02  # ... and so much more of the requests may be slower than that
    disagreement_margin: float = 0.01  # so much more of the answers may differ than stable's differ from its own
    ratio_tolerance: float = 0.2  # the observed share may be off by this fraction of the configured one
    burst_s: float = 5.0  # errors within so many seconds may have one cause, and count as one observation
    settle_s: float = 2.0  # after a change of weight, what ends within this time may belong to the old weight
    max_wait_s: float = 3600.0  # pause as inconclusive when an analysis takes longer, give up when no replica comes
    breaker_error_rate: float = 0.5  # roll back at once when so many ...
    breaker_requests: int = 20  # ... of at least so many requests in a row fail
    shield: bool = True  # stable answers what fails on the candidate
    keep_old_s: float = 600.0  # after success the old deployment stays at full size for so long
    metrics: tuple[CustomMetric, ...] = ()
    notify: tuple[str, ...] = ()  # URLs that are told of every announcement

    def __post_init__(self) -> None:
        for key, value, low, high in (
            ("analysis.alpha", self.alpha, 1e-6, 0.5),
            ("analysis.error_margin", self.error_margin, 1e-5, 1.0),
            ("analysis.latency_margin", self.latency_margin, 0.0, 100.0),
            ("analysis.slow_margin", self.slow_margin, 1e-5, 1.0),
            ("analysis.disagreement_margin", self.disagreement_margin, 1e-5, 1.0),
            ("analysis.ratio_tolerance", self.ratio_tolerance, 0.01, 1.0),
            ("analysis.burst", self.burst_s, 0.0, 600.0),
            ("analysis.settle", self.settle_s, 0.0, 600.0),
            ("analysis.max_wait", self.max_wait_s, 1.0, 7 * 24 * 3600.0),
            ("analysis.breaker_error_rate", self.breaker_error_rate, 0.01, 1.0),
            ("analysis.breaker_requests", self.breaker_requests, 1, 1_000_000),
            ("keep_old", self.keep_old_s, 0.0, 30 * 24 * 3600.0),
        ):
            if not low <= value <= high:
                raise Invalid(key, f"{value:g} is out of range", f"use {low:g} to {high:g}")
        names = [metric.name for metric in self.metrics]
        if len(names) != len(set(names)):
            raise Invalid("analysis.metrics", "two metrics have the same name", "give each its own")
        if len(names) > MAX_METRICS:
            raise Invalid("analysis.metrics", f"{len(names)} are too many", f"use at most {MAX_METRICS}")
        if len(self.notify) > MAX_NOTIFIED:
            raise Invalid("notify", f"{len(self.notify)} are too many", f"use at most {MAX_NOTIFIED}")
        for url in self.notify:
            checked_url("notify", url)
