"""From what `benchmarks.compare` measured to the rows of its table, with the bars they are judged by. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.arena import OURS
from benchmarks.arrivals import Arrivals
from benchmarks.equality import Agreement
from benchmarks.peers.table import TRITON_PEER
from benchmarks.report import Row
from benchmarks.slo import Found, Overload
from benchmarks.throughput import Pair, Sample, middle, numbers
from benchmarks.versus import Duel

PYTHON_THROUGHPUT, PYTHON_CPU, TRITON_THROUGHPUT = 6.0, 0.25, 4.0
TAIL_TOLERANCE = 1.05  # two runs of the same thing differ by as much
OVERLOAD_GOODPUT, REFUSED_WITHIN_MS, RECOVERED_WITHIN_S, MEMORY_GROWTH_MIB = 0.9, 20.0, 2.0, 64.0
IDLE_SHARE = 0.01
REPLICA_KIND = "ServeReplica"


def tiny_rows(duels: Sequence[Duel]) -> list[Row]:
    """The bars for the tiny model. Against the best Python peer, whichever that is for each of them."""
    rows = []
    python = [duel for duel in duels if duel.is_python]
    if python:
        fastest = min(python, key=lambda duel: duel.throughput_ratio)
        leanest = max(python, key=lambda duel: duel.cpu_share)
        rows.append(_throughput_row("the fastest Python server", fastest, PYTHON_THROUGHPUT))
        rows.append(
            Row(
                title="tiny MLP, CPU per request, beside the leanest Python server",
                bar="≤ 1/4",
                crossfade=_microseconds(leanest.busy, 0),
                peer=f"{leanest.title}: {_microseconds(leanest.busy, 1)}",
                ratio=f"{leanest.cpu_share:.2f} of it{leanest.busy.remark}",
                is_met=leanest.cpu_share <= PYTHON_CPU,
            )
        )
    for duel in duels:
        if duel.title == TRITON_PEER.title:
            rows.append(_throughput_row("Triton", duel, TRITON_THROUGHPUT))
            if duel.calm is not None:
                rows.append(_alone_row(duel.title, duel.calm))
    return rows


def bare_row(title: str, pair: Pair, bar: float | None) -> Row:
    """Requests a second as a share of the bare loop's."""
    ours, floor = pair.middles("per_second")
    share = min(pair.ratios("per_second"))
    return Row(
        title=title,
        bar="" if bar is None else f"≥ {bar:.0%}",
        crossfade=f"{ours:,.1f}/s",
        peer=f"{floor:,.1f}/s",
        ratio=f"{share:.1%}{pair.remark}",
        is_met=None if bar is None else share >= bar,
        details={"turns": numbers({OURS: pair.ours, "bare": pair.theirs})},
    )


def tail_row(title: str, pair: Pair) -> Row:
    ours_us, theirs_us = pair.middles("p99_us")
    ratio = ours_us / theirs_us
    return Row(
        title=title,
        bar=f"≤ {TAIL_TOLERANCE:g}×",
        crossfade=f"p99 {ours_us / 1000:.1f} ms",
        peer=f"p99 {theirs_us / 1000:.1f} ms",
        ratio=f"{ratio:.2f}×{pair.remark}",
        is_met=ratio <= TAIL_TOLERANCE,
        details={"turns": numbers({OURS: pair.ours, "unbatched": pair.theirs})},
    )


def rate_row(arrivals: Arrivals, slo_s: float, ours: Found, title: str, theirs: Found, factor: float) -> Row:
    """The highest rates with 99% inside the objective."""
    ratio = ours.rate / theirs.rate if theirs.rate else math.inf if ours.rate else math.nan
    return Row(
        title=f"wide MLP, {arrivals.value}: highest rate with 99% inside {slo_s * 1000:.1f} ms, beside {title}",
        bar=f"≥ {factor:g}×",
        crossfade=_rate(ours),
        peer=_rate(theirs),
        ratio=f"{ratio:.2f}×" if math.isfinite(ratio) else "",
        is_met=ratio >= factor,
        details={"slo_ms": round(slo_s * 1000, 2), OURS: asdict(ours), title: asdict(theirs)},
    )


def overload_rows(run: Overload, found: Found) -> list[Row]:
    share = run.goodput / found.goodput if found.goodput else 0.0
    during, duration = run.during, f"{run.duration_s:.0f} s at {len(run.during.status) / run.duration_s:,.0f}/s"
    refused = len(during.refusal_latencies_s())
    details: dict[str, Any] = {"memory_mib": run.memory_mib, "requests": len(during.status), "refused": refused}
    return [
        Row(
            title=f"overload, {duration}: answers inside the objective, beside the most at any rate",
            bar=f"≥ {OVERLOAD_GOODPUT:.0%}",
            crossfade=f"{run.goodput:,.0f}/s",
            peer=f"{found.goodput:,.0f}/s",
            ratio=f"{share:.0%}",
            is_met=share >= OVERLOAD_GOODPUT,
            details=details,
        ),
        Row(
            title="overload: how soon a refused request is told (p99)",
            bar=f"≤ {REFUSED_WITHIN_MS:g} ms",
            crossfade=f"{f'{run.refused_p99_ms:.1f} ms; ' if refused else ''}{refused:,} refused, {run.lost:,} lost",
            is_met=run.refused_p99_ms <= REFUSED_WITHIN_MS and run.lost == 0,
        ),
        Row(
            title="overload: memory of all processes, growth after the first third",
            bar=f"≤ {MEMORY_GROWTH_MIB:g} MiB",
            crossfade=f"{run.memory_growth_mib:+.0f} MiB, at most {max(run.memory_mib, default=0.0):,.0f} MiB",
            is_met=run.memory_growth_mib <= MEMORY_GROWTH_MIB,
        ),
        Row(
            title="overload: back to 99% inside the objective after it",
            bar=f"≤ {RECOVERED_WITHIN_S:g} s",
            crossfade=f"{run.recovery_s:.2f} s" if math.isfinite(run.recovery_s) else "not within the run",
            is_met=run.recovery_s <= RECOVERED_WITHIN_S,
        ),
    ]


def tensor_row(protocol: str, taken: Sequence[Sample], model_us: float, bar_us: float) -> Row:
    beyond_us = middle(taken, "path_cpu_us") - model_us
    return Row(
        title=f"600 KB tensor, {protocol}: CPU beyond the model, per request",
        bar=f"≤ {bar_us / 1000:g} ms",
        crossfade=f"{beyond_us / 1000:.2f} ms, {middle(taken, 'per_second'):,.0f}/s",
        peer=f"the model itself: {model_us / 1000:.2f} ms",
        is_met=beyond_us <= bar_us,
        details={"turns": numbers({protocol: list(taken)})},
    )


def agreement_row(name: str, found: Agreement, tolerance: float) -> Row:
    return Row(
        title=f"{name}: batched answers beside single ones, {found.requests:,} requests of mixed sizes",
        bar="bitwise equal" if tolerance == 0 else f"within {tolerance:g} of the largest score",
        crossfade=f"{found.bitwise_equal:,} bitwise equal, largest difference {found.largest_difference:.1e}",
        peer=f"{found.rows_per_run:.1f} rows a run",
        is_met=found.largest_difference <= tolerance,
        details=asdict(found),
    )


def idle_row(shares: Mapping[str, float]) -> Row:
    """`shares`: of one core, by kind of process; one replica."""
    replica = shares.get(REPLICA_KIND, math.nan)
    return Row(
        title="idle replica, share of one core",
        bar=f"≤ {IDLE_SHARE:.0%}",
        crossfade=f"{replica:.2%}; everything that `crossfade up` started {sum(shares.values()):.1%}",
        is_met=replica <= IDLE_SHARE,
        details={"shares": {kind: round(share, 4) for kind, share in sorted(shares.items())}},
    )


def _throughput_row(whom: str, duel: Duel, bar: float) -> Row:
    ours, theirs = duel.busy.middles("per_second")
    return Row(
        title=f"tiny MLP, requests/s, beside {whom}",
        bar=f"≥ {bar:g}×",
        crossfade=f"{ours:,.0f}/s",
        peer=f"{duel.title}: {theirs:,.0f}/s",
        ratio=f"{duel.throughput_ratio:.2f}×{duel.busy.remark}",
        is_met=duel.throughput_ratio >= bar,
    )


def _alone_row(title: str, calm: Pair) -> Row:
    ours_us, theirs_us = calm.middles("p50_us")
    return Row(
        title="tiny MLP, p50 at one connection, beside Triton",
        bar="lower",
        crossfade=f"{ours_us / 1000:.2f} ms",
        peer=f"{title}: {theirs_us / 1000:.2f} ms",
        ratio=f"{ours_us / theirs_us:.2f}×{calm.remark}",
        is_met=ours_us < theirs_us,
    )


def _rate(found: Found) -> str:
    held = f"{found.rate:,.0f}/s" if found.rate else "none of the rates tried"
    return f"{held}; goodput at most {found.goodput:,.0f}/s"


def _microseconds(pair: Pair, side: int) -> str:
    return f"{pair.middles('path_cpu_us')[side]:,.0f} µs"
