"""The evidence of a rollout: what its candidate and its stable deployment did, gathered so that it can be judged.

Reports arrive every second or so. They are joined into blocks (`Policy.burst_s`), a block is compared on every metric,
and what the comparison says is kept in a few numbers: an `Evidence` does not grow, and survives restarts as JSON.
What the numbers mean is in `sequential`; what follows from them is decided in `analysis`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from router.domain.measurement import Latencies, Totals
from router.domain.policy import Policy
from router.domain.sequential import Record, Tally, Wealth, upper_bound

QUANTILES = (0.5, 0.95, 0.99)
METRICS = ("errors", "latency_p50", "latency_p95", "latency_p99", "agreement")

_BASELINE_ANSWERS = 500  # stable's quantiles are frozen after so many
_BLOCK_REQUESTS = 20  # a block with fewer of the candidate's says little, so it waits for more
_RESOLUTION_MS = 1.0  # Envoy measures whole milliseconds


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to the same request that were compared: how many pairs, and how many of them differ."""

    pairs: int = 0
    disagreements: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What happened since the last report. `noise`: pairs in which stable answered twice, its own floor."""

    stable: Totals = field(default_factory=Totals)
    candidate: Totals = field(default_factory=Totals)
    answers: Answers = Answers()
    noise: Answers = Answers()


@dataclass(frozen=True, slots=True)
class Measurement:
    """One sample of a metric of the user's own. `error` says why there is no value."""

    metric: str
    value: float | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class CustomRecord:
    """The latest sample, how many in a row broke the rule, and the epoch in which it was taken."""

    last: Measurement
    failures_in_a_row: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Contrast:
    """The same property, counted on both sides."""

    stable: Tally = field(default_factory=Tally)
    candidate: Tally = field(default_factory=Tally)

    def __add__(self, other: Contrast) -> Contrast:
        return Contrast(self.stable + other.stable, self.candidate + other.candidate)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric: counts over the rollout and over the present epoch, and the bets that the candidate is worse."""

    whole: Contrast = Contrast()
    epoch: Contrast = Contrast()
    at_once: Wealth = field(default_factory=Wealth)  # bets against stable in the same block
    by_past: Wealth = field(default_factory=Wealth)  # bets against stable in all earlier blocks
    stable_past: Record = field(default_factory=Record)
    candidate_past: Record = field(default_factory=Record)

    @property
    def e_value(self) -> float:
        """Of the harm: both games must have found it."""
        return min(self.at_once.value, self.by_past.value)

    @property
    def excess(self) -> float:
        """By how much the candidate's rate is above stable's: over the rollout or at present, whichever is more.

        A long healthy past does not dilute what the present weight shows.
        """
        return max((self._excess(part) for part in (self.whole, self.epoch) if part.candidate.of), default=0.0)

    def in_new_epoch(self) -> Comparison:
        return replace(self, epoch=Contrast(), at_once=self.at_once.started(), by_past=self.by_past.started())

    def after(self, block: Contrast, margin: float, alpha: float) -> Comparison:
        """`margin` is what stable is taken to do where nothing is known of it."""
        at_once, by_past = self.at_once, self.by_past
        stable, candidate = block.stable, block.candidate
        if candidate.of:
            known = self._most_of_stable(alpha) if self.stable_past.blocks else margin
            by_past = by_past.after(candidate.rate, known)
            failures = stable.hits + candidate.hits
            if not stable.of:  # then the past is all there is
                at_once = at_once.after(candidate.rate, known)
            elif failures:
                at_once = at_once.after(candidate.hits / failures, candidate.of / (candidate.of + stable.of))
        return Comparison(
            whole=self.whole + block,
            epoch=self.epoch + block,
            at_once=at_once,
            by_past=by_past,
            stable_past=self.stable_past.after(stable),
            candidate_past=self.candidate_past.after(candidate),
        )

    def _most_of_stable(self, alpha: float) -> float:
        """Stable's rate in the past is not above this."""
        effect = max(self.stable_past.design_effect, self.candidate_past.design_effect)
        return upper_bound(self.stable_past.thinned(effect), alpha)

    def _excess(self, part: Contrast) -> float:
        stable = part.stable if part.stable.of else self.whole.stable
        return part.candidate.rate - stable.rate


@dataclass(frozen=True, slots=True)
class Epoch:
    """A time in which the traffic stayed as it was."""

    number: int
    weight_percent: int
    mirror_percent: int
    since: datetime


_BEFORE = Epoch(0, 0, 0, datetime.min.replace(tzinfo=UTC))  # nothing was observed yet


@dataclass(frozen=True, slots=True)
class Block:
    """Reports that are compared together."""

    since: datetime
    contrasts: tuple[Contrast, ...] = (Contrast(),) * len(METRICS)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Slow means above `stable_ms` for stable, and above `candidate_ms`, the margin later, for the candidate.

    If the candidate is slower by the margin at most, its share above its threshold is not larger than stable's above
    stable's, at every quantile: so the margin costs the test nothing.
    """

    stable_ms: float
    candidate_ms: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is known so far. `baseline` grows until the thresholds are frozen."""

    comparisons: tuple[Comparison, ...] = (Comparison(),) * len(METRICS)
    baseline: Latencies = field(default_factory=Latencies)
    thresholds: tuple[Threshold, ...] = ()
    epoch: Epoch = _BEFORE
    block: Block = Block(_BEFORE.since)
    share_high: Wealth = field(default_factory=Wealth)  # bets that too much of the epoch's traffic is the candidate's
    share_low: Wealth = field(default_factory=Wealth)  # ... and that too little is
    run: Contrast = Contrast()  # the last few requests, for the breaker
    tripped: str = ""  # what made the breaker trip, in words
    exposure_s: float = 0.0  # share of live traffic x time x excess error rate, summed with its sign
    custom: tuple[CustomRecord, ...] = ()

    @classmethod
    def of_baseline(cls, stable: Totals, policy: Policy) -> Evidence:
        """Begin with what stable did before the rollout: without it, a switch at once has nothing to compare with."""
        errors = _remembering(Comparison(), Tally(stable.requests, stable.errors))
        return cls(comparisons=(errors, *cls().comparisons[1:]))._learning(stable.latencies, policy)

    def comparison(self, metric: str) -> Comparison:
        return self.comparisons[METRICS.index(metric)]

    def observed(
        self, report: Report, weight_percent: int, mirror_percent: int, policy: Policy, now: datetime
    ) -> Evidence:
        """Add a report of what happened while this weight and this mirror were in force. Then judge, not before."""
        after = self._in_epoch(weight_percent, mirror_percent, policy, now)
        after = after._watched(report, policy)
        if (now - after.epoch.since).total_seconds() <= policy.settle_s and after.epoch.number > 1:
            return replace(after, block=Block(now))
        after = after._counted(report, weight_percent)
        if not after.thresholds:  # what freezes them is not tested against them
            after = after._learning(report.stable.latencies, policy)
        arrived = after.block.contrasts[0].candidate.of
        is_full = (now - after.block.since).total_seconds() >= policy.burst_s and not 0 < arrived < _BLOCK_REQUESTS
        return after._closed(policy, now) if is_full else after

    def measured(self, measurement: Measurement, policy: Policy) -> Evidence:
        """Add a sample of a metric of the user's own; one that the policy does not name changes nothing."""
        metric = next((metric for metric in policy.metrics if metric.name == measurement.metric), None)
        if metric is None:
            return self
        old = next((record for record in self.custom if record.last.metric == metric.name), None)
        failures = old.failures_in_a_row if old else 0
        if measurement.value is not None:
            failures = 0 if metric.rule.allows(measurement.value) else failures + 1
        others = tuple(record for record in self.custom if record is not old)
        return replace(self, custom=(*others, CustomRecord(measurement, failures, self.epoch.number)))

    def _in_epoch(self, weight_percent: int, mirror_percent: int, policy: Policy, now: datetime) -> Evidence:
        epoch = self.epoch
        if epoch.number and (epoch.weight_percent, epoch.mirror_percent) == (weight_percent, mirror_percent):
            return self
        closed = self._closed(policy, now) if epoch.number else self
        return replace(
            closed,
            comparisons=tuple(comparison.in_new_epoch() for comparison in closed.comparisons),
            epoch=Epoch(epoch.number + 1, weight_percent, mirror_percent, now),
            block=Block(now),
            share_high=Wealth().started(),
            share_low=Wealth().started(),
            run=Contrast(),
        )

    def _counted(self, report: Report, weight_percent: int) -> Evidence:
        # At full weight the only requests that reach stable are those that the shield saves: no sample of its traffic.
        stable = Totals() if weight_percent == 100 else report.stable
        contrasts = (
            Contrast(Tally(stable.requests, stable.errors), Tally(report.candidate.requests, report.candidate.errors)),
            *(
                Contrast(
                    _slow(stable.latencies, limit.stable_ms), _slow(report.candidate.latencies, limit.candidate_ms)
                )
                for limit in self.thresholds
            ),
            *(Contrast(),) * (len(QUANTILES) if not self.thresholds else 0),
            Contrast(
                Tally(report.noise.pairs, report.noise.disagreements),
                Tally(report.answers.pairs, report.answers.disagreements),
            ),
        )
        both = zip(self.block.contrasts, contrasts, strict=True)
        return replace(self, block=replace(self.block, contrasts=tuple(old + new for old, new in both)))

    def _closed(self, policy: Policy, now: datetime) -> Evidence:
        """Compare the open block and begin the next."""
        block, epoch = self.block, self.epoch
        comparisons = tuple(
            comparison.after(contrast, margin_of(metric, policy), policy.alpha / (2 * len(METRICS)))
            for metric, comparison, contrast in zip(METRICS, self.comparisons, block.contrasts, strict=True)
        )
        errors = block.contrasts[0]
        reference = errors.stable if errors.stable.of else self.comparisons[0].whole.stable
        share, duration_s = epoch.weight_percent / 100, (now - block.since).total_seconds()
        excess = errors.candidate.rate - reference.rate if errors.candidate.of else 0.0
        after = replace(
            self,
            comparisons=comparisons,
            block=Block(now),
            exposure_s=self.exposure_s + share * duration_s * excess,
        )
        return after._split_seen(errors, policy)

    def _split_seen(self, errors: Contrast, policy: Policy) -> Evidence:
        """Bet on the sample ratio. (What the shield sends on to stable does not count as stable's.)

        Too little is measured as what is missing to twice the share, so that a small share makes as good a game.
        """
        share = expected_share(self.epoch)
        total = errors.candidate.of + errors.stable.of
        if not total or not share:
            return self
        seen = errors.candidate.of / total
        return replace(
            self,
            share_high=self.share_high.after(seen, share * (1 + policy.ratio_tolerance)),
            share_low=self.share_low.after(1 - min(1.0, seen / (2 * share)), (1 + policy.ratio_tolerance) / 2),
        )

    def _watched(self, report: Report, policy: Policy) -> Evidence:
        """The fast breaker. When stable fails as well, the cause is not the candidate, and it holds still."""
        run = self.run + Contrast(
            Tally(report.stable.requests, report.stable.errors),
            Tally(report.candidate.requests, report.candidate.errors),
        )
        if run.candidate.of < policy.breaker_requests:
            return replace(self, run=run)
        is_failing = run.candidate.rate >= policy.breaker_error_rate
        if is_failing and run.stable.rate < policy.breaker_error_rate / 2:
            words = f"{run.candidate.hits:.0f} of the candidate's last {run.candidate.of:.0f} requests failed"
            return replace(self, run=Contrast(), tripped=words)
        return replace(self, run=Contrast())

    def _learning(self, latencies: Latencies, policy: Policy) -> Evidence:
        baseline = self.baseline + latencies
        if baseline.total < _BASELINE_ANSWERS:
            return replace(self, baseline=baseline)
        thresholds = tuple(_threshold(baseline, fraction, policy.latency_margin) for fraction in QUANTILES)
        # The answers that froze them are stable's first record, for when it has no traffic to compare with.
        errors, *quantiles, agreement = self.comparisons
        known = (
            _remembering(comparison, _slow(baseline, limit.stable_ms))
            for comparison, limit in zip(quantiles, thresholds, strict=True)
        )
        return replace(self, baseline=baseline, thresholds=thresholds, comparisons=(errors, *known, agreement))


def expected_share(epoch: Epoch) -> float:
    """The candidate's share of all requests that reach either side; a mirrored request reaches both."""
    if epoch.mirror_percent:
        return epoch.mirror_percent / (100 + epoch.mirror_percent)
    return epoch.weight_percent / 100


def margin_of(metric: str, policy: Policy) -> float:
    """By how much the candidate's rate may be above stable's."""
    if metric == "errors":
        return policy.error_margin
    return policy.disagreement_margin if metric == "agreement" else policy.slow_margin


def _remembering(comparison: Comparison, stable: Tally) -> Comparison:
    """The comparison, before anything was compared, with what stable did before."""
    return replace(comparison, whole=Contrast(stable=stable), stable_past=Record().after(stable))


def _slow(latencies: Latencies, bound_ms: float) -> Tally:
    return Tally(latencies.total, latencies.count_above(bound_ms))


def _threshold(baseline: Latencies, fraction: float, margin: float) -> Threshold:
    stable_ms = baseline.quantile_ms(fraction)
    later = bisect_left(baseline.bounds_ms, stable_ms * (1 + margin) + _RESOLUTION_MS)
    return Threshold(stable_ms, baseline.bounds_ms[later] if later < len(baseline.bounds_ms) else math.inf)
