"""Throughput, CPU per request, latency at one connection, and memory: Crossfade beside Ray Serve and grpc.aio."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.crossfade import Gateway
from benchmarks.load import grpc_load, http_load
from benchmarks.payloads import Payload, WrongAnswer
from benchmarks.peers.variants import GRPC_LOOPS, PLAIN_LOOP, UVLOOP
from benchmarks.progress import say
from benchmarks.report import Row
from benchmarks.servers import Server, grpc_aio, grpc_reply, ray_serve
from benchmarks.throughput import Contender, Pair, Samples, in_turns, middle, numbers

HTTP_CONNECTIONS = 32
GRPC_CONNECTIONS, GRPC_STREAMS = 4, 8
OURS_HTTP, OURS_GRPC = "Crossfade, JSON", "Crossfade, gRPC"
CPU_BAR_US = 150
IDLE_S = 10.0
MIB = 1024 * 1024


def speed_rows(gateway: Gateway, folder: Path, model: Path, payload: Payload, rounds: int, turn_s: int) -> list[Row]:
    """All servers run all the time; only one at a time has load. Raises `LoadFailed`, `WrongAnswer`, `DidNotStart`."""
    body, frame = folder / "body.json", folder / "frame.bin"
    body.write_bytes(payload.body)
    frame.write_bytes(payload.frame)
    with ExitStack() as running:
        ray = running.enter_context(ray_serve(folder, model, payload))
        grpcs = {loop: running.enter_context(grpc_aio(folder, model, payload, loop)) for loop in GRPC_LOOPS}
        say("Ray Serve (through HAProxy) and grpc.aio (on both event loops) are ready")

        def http(name: str, server: Server, url: str, connections: int) -> Contender:
            return Contender.on(server, name, partial(http_load, url, [body], payload.json.headers, connections))

        def grpc(name: str, server: Server, address: str, connections: int, streams: int) -> Contender:
            reply = grpc_reply(address, payload)
            if reply is None:
                raise WrongAnswer(f"{name} does not answer")
            reply_bytes = payload.check_grpc(reply)
            return Contender.on(server, name, partial(grpc_load, address, frame, reply_bytes, connections, streams))

        def all_with(http_connections: int, grpc_connections: int, grpc_streams: int) -> list[Contender]:
            return [
                http(OURS_HTTP, gateway.server, gateway.url, http_connections),
                *(http(_ray(variant), ray, url, http_connections) for variant, url in ray.urls.items()),
                grpc(OURS_GRPC, gateway.server, gateway.grpc_address, grpc_connections, grpc_streams),
                *(
                    grpc(_grpc(loop), server, server.grpc_address, grpc_connections, grpc_streams)
                    for loop, server in grpcs.items()
                ),
            ]

        busy = in_turns(all_with(HTTP_CONNECTIONS, GRPC_CONNECTIONS, GRPC_STREAMS), rounds, turn_s)
        say("one connection")
        calm = in_turns(all_with(1, 1, 1), rounds, max(1, turn_s // 2))
    variants = [_ray(variant) for variant in ray.urls]
    fastest = max(variants, key=lambda name: middle(busy[name], "per_second"))
    leanest = min(variants, key=lambda name: middle(busy[name], "path_cpu_us"))
    quickest = min(variants, key=lambda name: middle(calm[name], "p50_us"))
    return [
        _throughput_row("JSON, 32 connections", busy, OURS_HTTP, fastest, 5),
        *(_throughput_row("JSON, 32 connections", busy, OURS_HTTP, name, None) for name in variants if name != fastest),
        # The bar is a plain server's; with uvloop below it, it is not plain any more, and stands beside it.
        _throughput_row("gRPC, 4 × 8 streams", busy, OURS_GRPC, _grpc(PLAIN_LOOP), 4),
        _throughput_row("gRPC, 4 × 8 streams", busy, OURS_GRPC, _grpc(UVLOOP), None),
        _cpu_row("JSON", busy, OURS_HTTP, leanest),
        *(_cpu_row("gRPC", busy, OURS_GRPC, _grpc(loop)) for loop in GRPC_LOOPS),
        _latency_row("JSON", calm, OURS_HTTP, quickest, 0.6),
        *(_latency_row("gRPC", calm, OURS_GRPC, _grpc(loop), None) for loop in GRPC_LOOPS),
    ]


def memory_row(gateway: Gateway) -> Row:
    """Everything that `crossfade up` started, idle."""
    say(f"memory: {IDLE_S:.0f} s of rest first")
    time.sleep(IDLE_S)
    held = gateway.server.child.pss_bytes()
    total = sum(held.values())
    return Row(
        title="memory, idle, one tiny model (proportional set size, all processes)",
        bar="≤ 1.2 GB",
        crossfade=f"{total / 1e9:.2f} GB",
        is_met=total <= 1.2e9,
        details={"mib_by_process": {kind: round(value / MIB) for kind, value in sorted(held.items())}},
    )


def _ray(variant: str) -> str:
    return f"Ray Serve, {variant}"


def _grpc(loop: str) -> str:
    return f"grpc.aio, {loop}"


def _throughput_row(what: str, samples: Samples, ours: str, theirs: str, bar: float | None) -> Row:
    pair = Pair.of(samples[ours], samples[theirs])
    own, other = pair.middles("per_second")
    return Row(
        title=f"throughput, {what}",
        bar="" if bar is None else f"≥ {bar:g}×",
        crossfade=f"{own:,.0f}/s",
        peer=f"{theirs}: {other:,.0f}/s",
        ratio=_in_words(pair, pair.ratios("per_second")),
        is_met=None if bar is None else min(pair.ratios("per_second")) >= bar,
        details={"turns": numbers({name: samples[name] for name in (ours, theirs)})},
    )


def _cpu_row(protocol: str, samples: Samples, ours: str, theirs: str) -> Row:
    """Judged on the processes that a request passes through; with everything else of the server in brackets."""
    pair = Pair.of(samples[ours], samples[theirs])
    own, other = pair.middles("path_cpu_us")
    own_all, other_all = pair.middles("all_cpu_us")
    return Row(
        title=f"CPU per request, {protocol} (with the server's other processes)",
        bar=f"≤ {CPU_BAR_US} µs",
        crossfade=f"{own:.0f} µs ({own_all:.0f})",
        peer=f"{theirs}: {other:.0f} µs ({other_all:.0f})",
        ratio=_in_words(pair, _inverse(pair.ratios("path_cpu_us"))),
        is_met=own <= CPU_BAR_US,
    )


def _latency_row(protocol: str, samples: Samples, ours: str, theirs: str, bar_ms: float | None) -> Row:
    pair = Pair.of(samples[ours], samples[theirs])
    own_us, other_us = pair.middles("p50_us")
    return Row(
        title=f"p50 at one connection, {protocol}",
        bar="" if bar_ms is None else f"≤ {bar_ms:g} ms",
        crossfade=f"{own_us / 1000:.2f} ms",
        peer=f"{theirs}: {other_us / 1000:.2f} ms",
        ratio=_in_words(pair, _inverse(pair.ratios("p50_us"))),
        is_met=None if bar_ms is None else own_us / 1000 <= bar_ms,
        details={"turns": numbers({name: samples[name] for name in (ours, theirs)})},
    )


def _inverse(ratios: tuple[float, float]) -> tuple[float, float]:
    """For values of which less is better: how many times better ours is."""
    return 1 / ratios[0], 1 / ratios[1]


def _in_words(pair: Pair, ratios: tuple[float, float]) -> str:
    return f"{ratios[0]:.2f}× ({ratios[1]:.2f}× round by round{pair.remark})"
