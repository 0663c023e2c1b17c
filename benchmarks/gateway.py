"""`make bench`: what the gateway promises, measured beside Ray Serve and a plain grpc.aio server, in one run.

    python -m benchmarks.gateway [--quick] [--only SECTION]... [--output FOLDER]

Prints a Markdown table and writes it, with every number behind it, into the output folder.
Exit codes: 0 every bar is met · 1 one is not, or a server failed · 2 a program is missing · 130 interrupted.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import sections
from benchmarks.changes import changes_under_load
from benchmarks.crossfade import ENDPOINT, crossfade, deployment, endpoint
from benchmarks.kills import kill_everything
from benchmarks.models import tiny_mlp
from benchmarks.payloads import Payload, payload_for
from benchmarks.progress import say
from benchmarks.report import Row
from benchmarks.sections import Bench, Section
from benchmarks.speed import memory_row, speed_rows
from benchmarks.weights import add_endpoints, weight_changes, weight_row


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    rounds: int = 7
    turn_s: int = 3
    random_changes: int = 200
    timed_changes: int = 200
    endpoints: int = 1000
    seed: int = 1


QUICK = Settings(rounds=3, turn_s=2, random_changes=40, timed_changes=50, endpoints=200)


def speed(bench: Bench[Settings]) -> list[Row]:
    """Throughput, CPU, latency and memory, beside the peers."""
    model, payload = _model(bench)
    documents = [endpoint(ENDPOINT, {"blue": 100}), deployment(ENDPOINT, "blue", model, cpu=1)]
    with crossfade(bench.folder, documents, payload) as gateway:
        say(f"crossfade is ready after {gateway.server.started_in_s:.1f} s")
        memory = memory_row(gateway)
        rows = speed_rows(gateway, bench.folder, model, payload, bench.settings.rounds, bench.settings.turn_s)
    return [*rows, memory]


def changes(bench: Bench[Settings]) -> list[Row]:
    """Random changes under steady load."""
    model, payload = _model(bench)
    with crossfade(bench.folder, _blue_and_green(model), payload) as gateway:
        count, seed = bench.settings.random_changes, bench.settings.seed
        return [asyncio.run(changes_under_load(gateway, payload, model, count, seed=seed))]


def weights(bench: Bench[Settings]) -> list[Row]:
    """The time that a weight change takes, alone and among many endpoints."""
    model, payload = _model(bench)
    count, others = bench.settings.timed_changes, bench.settings.endpoints - 1
    with crossfade(bench.folder, _blue_and_green(model), payload) as gateway:
        alone = asyncio.run(weight_changes(gateway, payload, count))
        took_s = asyncio.run(add_endpoints(gateway, model, others))
        among_many = asyncio.run(weight_changes(gateway, payload, count))
        clusters = gateway.metric("envoy_cluster_manager_active_clusters")
    return [
        weight_row(alone, 1, 100, {}),
        weight_row(
            among_many, others + 1, 150, {"seconds_to_add_them": round(took_s, 1), "clusters_in_envoy": clusters}
        ),
    ]


def kills(bench: Bench[Settings]) -> list[Row]:
    """kill -9 of every part in turn."""
    model, payload = _model(bench)
    documents = _blue_and_green(model, blue_count=2)
    with crossfade(bench.folder, documents, payload) as gateway:
        return asyncio.run(kill_everything(gateway, payload))


SECTIONS: dict[str, Section] = {
    "speed": speed,
    "changes": changes,
    "weights": weights,
    "kills": kills,
}


def main() -> int:
    return sections.run("gateway", __doc__, SECTIONS, Settings(), QUICK, "about three minutes")


def _model(bench: Bench[Settings]) -> tuple[Path, Payload]:
    model = bench.folder / "mlp.onnx"
    tiny_mlp(model)
    return model, payload_for(model, ENDPOINT)


def _blue_and_green(model: Path, blue_count: int = 1) -> list[dict[str, object]]:
    return [
        endpoint(ENDPOINT, {"blue": 50, "green": 50}),
        deployment(ENDPOINT, "blue", model, instance_count=blue_count),
        deployment(ENDPOINT, "green", model),
    ]


if __name__ == "__main__":
    sys.exit(main())
