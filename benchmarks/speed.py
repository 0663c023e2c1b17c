"""Throughput, CPU per request, latency at one connection, and memory: Crossfade beside Ray Serve and grpc.aio."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from benchmarks.crossfade import Gateway
from benchmarks.load import grpc_load, http_load
from benchmarks.payloads import Payload, WrongAnswer
from benchmarks.progress import say
from benchmarks.report import Row
from benchmarks.servers import Server, grpc_aio, grpc_reply, ray_serve
from benchmarks.throughput import Contender, Samples, in_turns, middle, numbers, ratios

HTTP_CONNECTIONS = 32
GRPC_CONNECTIONS, GRPC_STREAMS = 4, 8
OURS_HTTP, OURS_GRPC, GRPC_AIO = "Crossfade, JSON", "Crossfade, gRPC", "grpc.aio"
IDLE_S = 10.0
MIB = 1024 * 1024


def speed_rows(gateway: Gateway, folder: Path, model: Path, payload: Payload, rounds: int, turn_s: int) -> list[Row]:
    """All servers run all the time; only one at a time has load. Raises `LoadFailed`, `WrongAnswer`, `DidNotStart`."""
    body, frame = folder / "body.json", folder / "frame.bin"
    body.write_bytes(payload.body)
    frame.write_bytes(payload.frame)
    with ray_serve(folder, model, payload) as ray, grpc_aio(folder, model, payload) as plain_grpc:
        say("Ray Serve (through HAProxy) and grpc.aio are ready")

        def http(name: str, server: Server, url: str, connections: int) -> Contender:
            return Contender(name, server, partial(http_load, url, body, connections))

        def grpc(name: str, server: Server, address: str, connections: int, streams: int) -> Contender:
            reply = grpc_reply(address, payload)
            if reply is None:
                raise WrongAnswer(f"{name} does not answer")
            reply_bytes = payload.check_grpc(reply)
            return Contender(name, server, partial(grpc_load, address, frame, reply_bytes, connections, streams))

        def all_with(http_connections: int, grpc_connections: int, grpc_streams: int) -> list[Contender]:
            return [
                http(OURS_HTTP, gateway.server, gateway.url, http_connections),
                *(http(_ray(variant), ray, url, http_connections) for variant, url in ray.urls.items()),
                grpc(OURS_GRPC, gateway.server, gateway.grpc_address, grpc_connections, grpc_streams),
                grpc(GRPC_AIO, plain_grpc, plain_grpc.grpc_address, grpc_connections, grpc_streams),
            ]

        busy = in_turns(all_with(HTTP_CONNECTIONS, GRPC_CONNECTIONS, GRPC_STREAMS), rounds, turn_s)
        say("one connection")
        calm = in_turns(all_with(1, 1, 1), rounds, max(1, turn_s // 2))
    variants = [_ray(variant) for variant in ray.urls]
    fastest = max(variants, key=lambda name: middle(busy, name, "per_second"))
    leanest = min(variants, key=lambda name: middle(busy, name, "path_cpu_us"))
    quickest = min(variants, key=lambda name: middle(calm, name, "p50_us"))
    return [
        _throughput_row("JSON, 32 connections", busy, OURS_HTTP, fastest, 5),
        *(_throughput_row("JSON, 32 connections", busy, OURS_HTTP, name, None) for name in variants if name != fastest),
        _throughput_row("gRPC, 4 × 8 streams", busy, OURS_GRPC, GRPC_AIO, 4),
        _cpu_row("JSON", busy, OURS_HTTP, leanest),
        _cpu_row("gRPC", busy, OURS_GRPC, GRPC_AIO),
        _latency_row("JSON", calm, OURS_HTTP, quickest, 0.6),
        _latency_row("gRPC", calm, OURS_GRPC, GRPC_AIO, None),
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


def _throughput_row(what: str, samples: Samples, ours: str, theirs: str, bar: float | None) -> Row:
    of_medians, median_of = ratios(samples, ours, theirs, "per_second")
    return Row(
        title=f"throughput, {what}",
        bar="" if bar is None else f"≥ {bar:g}×",
        crossfade=f"{middle(samples, ours, 'per_second'):,.0f}/s",
        peer=f"{theirs}: {middle(samples, theirs, 'per_second'):,.0f}/s",
        ratio=f"{of_medians:.2f}× ({median_of:.2f}× round by round)",
        is_met=None if bar is None else min(of_medians, median_of) >= bar,
        details={"turns": numbers({name: samples[name] for name in (ours, theirs)})},
    )


def _cpu_row(protocol: str, samples: Samples, ours: str, theirs: str) -> Row:
    """Judged on the processes that a request passes through; the rest of the server is in brackets."""
    own = middle(samples, ours, "path_cpu_us")
    of_medians, median_of = ratios(samples, theirs, ours, "path_cpu_us")
    return Row(
        title=f"CPU per request, {protocol} (with the server's other processes)",
        bar="≤ 150 µs",
        crossfade=f"{own:.0f} µs ({middle(samples, ours, 'all_cpu_us'):.0f})",
        peer=f"{theirs}: {middle(samples, theirs, 'path_cpu_us'):.0f} µs ({middle(samples, theirs, 'all_cpu_us'):.0f})",
        ratio=f"{of_medians:.2f}× ({median_of:.2f}× round by round)",
        is_met=own <= 150,
    )


def _latency_row(protocol: str, samples: Samples, ours: str, theirs: str, bar_ms: float | None) -> Row:
    own_ms = middle(samples, ours, "p50_us") / 1000
    of_medians, median_of = ratios(samples, theirs, ours, "p50_us")
    return Row(
        title=f"p50 at one connection, {protocol}",
        bar="" if bar_ms is None else f"≤ {bar_ms:g} ms",
        crossfade=f"{own_ms:.2f} ms",
        peer=f"{theirs}: {middle(samples, theirs, 'p50_us') / 1000:.2f} ms",
        ratio=f"{of_medians:.2f}× ({median_of:.2f}× round by round)",
        is_met=None if bar_ms is None else own_ms <= bar_ms,
        details={"turns": numbers({name: samples[name] for name in (ours, theirs)})},
    )
