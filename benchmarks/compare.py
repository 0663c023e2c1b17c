"""`make compare`: Crossfade beside other model servers and beside ONNX Runtime alone, on this machine, in one run.

    python -m benchmarks.compare [--quick] [--only SECTION]... [--output FOLDER]

Prints a Markdown table and writes it, with every number behind it, into the output folder. Peers live in environments
of their own (`make bench-setup`; made on first use otherwise). One that cannot be installed or started becomes a row
that says why.
Exit codes: 0 every bar is met · 1 one is not, or a section failed · 2 a program is missing · 130 interrupted.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
from dataclasses import dataclass, replace

from benchmarks import sections, verdicts
from benchmarks.arena import Arena, another, arena, documents
from benchmarks.arrivals import Arrivals
from benchmarks.bare import BATCH_SIZES, BareLoop
from benchmarks.crossfade import ENDPOINT, Admin, deployment
from benchmarks.equality import agreement, mixed_rows
from benchmarks.offered import Target
from benchmarks.progress import say
from benchmarks.report import Row
from benchmarks.sections import SERVER_FAILURES, Bench, Section
from benchmarks.slo import Found, Probing, overload, search
from benchmarks.steady import DEPLOYMENT_HEADER
from benchmarks.throughput import Contender, Pair, in_turns, middle
from benchmarks.versus import (
    CONNECTIONS,
    PATIENCE_PER_ROUND_S,
    Turns,
    bare_pair,
    duel_row,
    duels,
    failure_row,
    opponents,
)
from benchmarks.workloads import detection, magika, minilm, pixels, tiny, wide

# Of the largest score of an answer. ONNX Runtime multiplies matrices of other heights in another order.
FP32_TOLERANCE = 1e-5
INT8_TOLERANCE = 0.0
TOKEN_BATCHING = {"padding_mask": "attention_mask"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    rounds: int = 3
    turn_s: int = 2
    short_turn_s: int = 1
    probe_s: float = 3.0
    probe_attempts: int = 2
    bisections: int = 3
    overload_s: float = 30.0
    calm_after_s: float = 6.0
    random_requests: int = 10_000
    idle_s: float = 10.0
    tiny_peers: int = 8
    wide_peers: int = 8


QUICK = Settings(
    rounds=2,
    turn_s=1,
    probe_s=1.5,
    probe_attempts=1,
    bisections=1,
    overload_s=10.0,
    idle_s=5.0,
    tiny_peers=3,
    wide_peers=1,
)


def tiny_mlp(bench: Bench[Settings]) -> list[Row]:
    """What a server itself costs: a model that costs nothing, beside every peer."""
    settings = bench.settings
    turns = Turns(settings.rounds, settings.turn_s, settings.short_turn_s)
    with arena(bench.folder, tiny(bench.home)) as where:
        idle = _idle_row(where, settings.idle_s)
        fought, failed = duels(where, opponents()[: settings.tiny_peers], turns, bench.output)
    return [*verdicts.tiny_rows(fought), *(duel_row("tiny MLP", duel) for duel in fought), *failed, idle]


def wide_mlp(bench: Bench[Settings]) -> list[Row]:
    """A model for which joining rows pays, beside every peer and the bare loop at its best batch size."""
    settings = bench.settings
    turns = Turns(settings.rounds, settings.short_turn_s, 0)
    against = opponents()[: settings.wide_peers]
    workload = wide(bench.home)
    bare = BareLoop(workload.model, workload.requests)
    with arena(bench.folder, workload) as where:
        best = bare.choose_best_batch()
        # In JSON a row is 25 KB in and 25 KB out, which costs more than the model: the bar is for binary tensors.
        # 32 connections of one row each fill no batch of more than 32 rows; so many more do fill the best, twice over.
        plenty = 2 * max(BATCH_SIZES)
        pairs = {
            (f"{CONNECTIONS} connections, binary tensors", 0.85): bare_pair(bare, where.binary(CONNECTIONS), turns),
            (f"{plenty} connections, binary tensors", None): bare_pair(bare, where.binary(plenty), turns),
            (f"{CONNECTIONS} connections, JSON", None): bare_pair(bare, where.ours(CONNECTIONS), turns),
        }
        fought, failed = duels(where, against, turns, bench.output)
    floors = [
        verdicts.bare_row(f"wide MLP, {load}, beside the bare ORT loop at its best batch of {best}", pair, bar)
        for (load, bar), pair in pairs.items()
    ]
    return [*floors, *(duel_row("wide MLP", duel) for duel in fought), *failed]


def open_loop(bench: Bench[Settings]) -> list[Row]:
    """The wide MLP in binary tensors, Poisson and bursts: the highest rate inside the objective, and overload."""
    settings = bench.settings
    workload = wide(bench.home)
    bare = BareLoop(workload.model, workload.requests)
    slo_s = 4 * bare.single_latency_s()
    bare.choose_best_batch()
    capacity = bare.run(settings.short_turn_s).per_second
    say(f"the objective is {slo_s * 1000:.1f} ms; the bare loop does {capacity:.0f} rows a second")
    probing = Probing(settings.probe_s, settings.probe_attempts, settings.bisections)

    def searched(target: Target) -> dict[Arrivals, Found]:
        return {arrivals: search(target, arrivals, slo_s, capacity / 2, probing) for arrivals in Arrivals}

    with arena(bench.folder, workload, {"latency_slo_ms": max(1, math.floor(slo_s * 1000))}) as where:
        target = Target(where.url, where.payload.binary, bench.folder)
        ours = searched(target)
        target.settle(slo_s)
        rows = _overload_rows(where, target, slo_s, ours[Arrivals.POISSON], settings)
    for number, (opponent, factor) in enumerate(zip(opponents()[:2], (1.5, 2.0), strict=True)):
        folder = bench.folder / f"p{number}"
        folder.mkdir()
        say(opponent.title)
        try:
            with opponent.start(folder, workload.model, where.payload) as server:
                url = next(iter(server.urls.values()))  # Ray Serve's first variant: the one with the shortest latency
                theirs = searched(Target(url, where.payload.binary, folder))
        except SERVER_FAILURES as error:
            rows.append(failure_row("wide MLP, open loop", opponent, error, folder, bench.output))
            continue
        rows += [verdicts.rate_row(it, slo_s, ours[it], opponent.title, theirs[it], factor) for it in Arrivals]
    return rows


def real_models(bench: Bench[Settings]) -> list[Row]:
    """magika, MiniLM and PP-OCRv4 beside the bare loop, magika also beside itself without batching."""
    rows = _magika_rows(bench)
    folder = bench.folder / "others"
    folder.mkdir()
    tokens, images = minilm(), detection()
    turns = Turns(bench.settings.rounds, 2 * bench.settings.turn_s, 0)
    with arena(folder, tokens, TOKEN_BATCHING, beside=documents("images", images, cpu=1)) as where:
        for it, connections in ((where, 8), (another(where, "images", images), 4)):
            bare = BareLoop(it.workload.model, it.workload.requests)
            pair = bare_pair(bare, it.binary(connections), turns)  # binary: these answers are as large as the requests
            title = f"{it.workload.name}, {connections} connections, beside the bare ORT loop"
            rows.append(verdicts.bare_row(title, pair, None))
    return rows


def large_tensors(bench: Bench[Settings]) -> list[Row]:
    """600 KB a request and next to no model: what the bytes cost, in every protocol."""
    settings = bench.settings
    workload = pixels(bench.home)
    bare = BareLoop(workload.model, workload.requests)
    with arena(bench.folder, workload) as where:
        contenders = [
            where.http("binary HTTP", where.gateway.server, where.url, where.payload.binary, 4),
            where.grpc("gRPC", 4, 1),
            where.http("JSON", where.gateway.server, where.url, where.payload.json, 4),
            Contender("model", bare, frozenset(), bare.run),
        ]
        samples = in_turns(contenders, settings.rounds, settings.turn_s, PATIENCE_PER_ROUND_S)
    model_us = middle(samples["model"], "path_cpu_us")
    bars = {"binary HTTP": 1500, "gRPC": 1500, "JSON": 6000}
    return [verdicts.tensor_row(name, samples[name], model_us, bar_us) for name, bar_us in bars.items()]


def equality(bench: Bench[Settings]) -> list[Row]:
    """Every batched answer equals the single answer."""
    count = bench.settings.random_requests
    small, large, tokens = tiny(bench.home), wide(bench.home), minilm()
    asked = {
        ENDPOINT: (small, mixed_rows(64, count, seed=1), FP32_TOLERANCE),
        "wide": (large, mixed_rows(2048, count // 10, seed=2), FP32_TOLERANCE),
        "minilm": (tokens, random.Random(1).choices(tokens.requests, k=count // 20), INT8_TOLERANCE),
    }
    beside = [*documents("wide", large, cpu=0.5), *documents("minilm", tokens, cpu=0.5, batching=TOKEN_BATCHING)]
    rows = []
    with arena(bench.folder, small, cpu=0.5, beside=beside) as where:
        for name, (workload, requests, tolerance) in asked.items():
            found = agreement(another(where, name, workload), BareLoop(workload.model, workload.requests), requests)
            rows.append(verdicts.agreement_row(workload.name, found, tolerance))
    return rows


SECTIONS: dict[str, Section] = {
    "tiny": tiny_mlp,
    "wide": wide_mlp,
    "open": open_loop,
    "real": real_models,
    "tensors": large_tensors,
    "equality": equality,
}


def main() -> int:
    return sections.run("compare", __doc__, SECTIONS, Settings(), QUICK, "about five minutes")


def _overload_rows(where: Arena, target: Target, slo_s: float, found: Found, settings: Settings) -> list[Row]:
    if not found.goodput:
        return [Row("overload", "", "not measured: nothing was answered inside the objective", is_met=False)]
    run = overload(
        target,
        where.gateway.server.child,
        slo_s,
        overload_rate=3 * found.goodput,
        calm_rate=0.5 * found.goodput,
        duration_s=settings.overload_s,
        calm_s=settings.calm_after_s,
    )
    return verdicts.overload_rows(run, found)


def _magika_rows(bench: Bench[Settings]) -> list[Row]:
    settings = bench.settings
    folder = bench.folder / "magika"
    folder.mkdir()
    workload = magika()
    unbatched = deployment(ENDPOINT, "unbatched", workload.model, cpu=1, batching={"max_batch_size": 1})
    bare = BareLoop(workload.model, workload.requests)
    with arena(folder, workload, beside=[unbatched]) as where:
        asyncio.run(_wait_until_all_are_ready(where))
        exchange = where.payload.json
        pinned = replace(exchange, headers={**exchange.headers, DEPLOYMENT_HEADER: "unbatched"})
        contenders = [
            where.ours(8),
            where.http("unbatched", where.gateway.server, where.url, pinned, 8),
            Contender("bare ORT loop", bare, frozenset(), bare.run),
        ]
        samples = in_turns(contenders, settings.rounds, 2 * settings.turn_s, PATIENCE_PER_ROUND_S)
    ours, single, floor = samples.values()
    return [
        verdicts.bare_row("magika, 8 connections, beside the bare ORT loop", Pair.of(ours, floor), 0.95),
        verdicts.tail_row("magika, p99 beside the same without batching", Pair.of(ours, single)),
    ]


async def _wait_until_all_are_ready(where: Arena) -> None:
    async with Admin(where.gateway) as admin:
        await admin.wait_until_replicas_are_ready()


def _idle_row(where: Arena, idle_s: float) -> Row:
    child = where.gateway.server.child
    time.sleep(idle_s / 2)  # let what the start has left to do end
    before, started_s = child.cpu_s(), time.monotonic()
    time.sleep(idle_s)
    after, took_s = child.cpu_s(), time.monotonic() - started_s
    return verdicts.idle_row({kind: (used_s - before.get(kind, 0.0)) / took_s for kind, used_s in after.items()})


if __name__ == "__main__":
    sys.exit(main())
