"""`make bench`: what the gateway promises, measured beside Ray Serve and a plain grpc.aio server, in one run.

    python -m benchmarks.gateway [--quick] [--only SECTION]... [--output FOLDER]

Prints a Markdown table and writes it, with every number behind it, into the output folder.
Exit codes: 0 every bar is met · 1 one is not, or a server failed · 2 a program is missing · 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import report
from benchmarks.changes import changes_under_load
from benchmarks.crossfade import ENDPOINT, ChangeFailed, crossfade, deployment, endpoint
from benchmarks.kills import kill_everything
from benchmarks.load import LoadFailed, missing_programs
from benchmarks.models import tiny_mlp
from benchmarks.payloads import Payload, WrongAnswer, payload_for
from benchmarks.processes import DidNotStart
from benchmarks.progress import say
from benchmarks.report import Row
from benchmarks.speed import memory_row, speed_rows
from benchmarks.weights import add_endpoints, weight_changes, weight_row

DEFAULT_OUTPUT = Path(__file__).parent / "results"


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


@dataclass(frozen=True, slots=True)
class Bench:
    """What every section gets: how much to measure, a folder of its own, the model and the request for it.

    `output` gets the servers' logs when a section fails.
    """

    settings: Settings
    output: Path
    folder: Path
    model: Path
    payload: Payload


def speed(bench: Bench) -> list[Row]:
    """Throughput, CPU, latency and memory, beside the peers."""
    documents = [endpoint(ENDPOINT, {"blue": 100}), deployment(ENDPOINT, "blue", bench.model, cpu=1)]
    with crossfade(bench.folder, documents, bench.payload) as gateway:
        say(f"crossfade is ready after {gateway.server.started_in_s:.1f} s")
        memory = memory_row(gateway)
        rows = speed_rows(
            gateway, bench.folder, bench.model, bench.payload, bench.settings.rounds, bench.settings.turn_s
        )
    return [*rows, memory]


def changes(bench: Bench) -> list[Row]:
    """Random changes under steady load."""
    with crossfade(bench.folder, _blue_and_green(bench.model), bench.payload) as gateway:
        run = changes_under_load(
            gateway, bench.payload, bench.model, bench.settings.random_changes, seed=bench.settings.seed
        )
        return [asyncio.run(run)]


def weights(bench: Bench) -> list[Row]:
    """The time that a weight change takes, alone and among many endpoints."""
    count, others = bench.settings.timed_changes, bench.settings.endpoints - 1
    with crossfade(bench.folder, _blue_and_green(bench.model), bench.payload) as gateway:
        alone = asyncio.run(weight_changes(gateway, bench.payload, count))
        took_s = asyncio.run(add_endpoints(gateway, bench.model, others))
        among_many = asyncio.run(weight_changes(gateway, bench.payload, count))
        clusters = gateway.metric("envoy_cluster_manager_active_clusters")
    return [
        weight_row(alone, 1, 100, {}),
        weight_row(
            among_many, others + 1, 150, {"seconds_to_add_them": round(took_s, 1), "clusters_in_envoy": clusters}
        ),
    ]


def kills(bench: Bench) -> list[Row]:
    """kill -9 of every part in turn."""
    documents = _blue_and_green(bench.model, blue_count=2)
    with crossfade(bench.folder, documents, bench.payload) as gateway:
        return asyncio.run(kill_everything(gateway, bench.payload))


SECTIONS: dict[str, Callable[[Bench], list[Row]]] = {
    "speed": speed,
    "changes": changes,
    "weights": weights,
    "kills": kills,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and changes: about three minutes")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="measure this section alone; may be repeated")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="folder for gateway.json and gateway.md")
    arguments = parser.parse_args()
    if missing := missing_programs():
        say(f"the load generators are missing: sudo apt-get install {' '.join(missing)}")
        return 2
    signal.signal(signal.SIGTERM, _interrupt)  # so that the servers are ended in order then, too
    settings = QUICK if arguments.quick else Settings()
    try:
        rows, is_complete = _measure(settings, arguments.output, arguments.only or list(SECTIONS))
    except KeyboardInterrupt:
        say("interrupted; every server has been stopped")
        return 130
    print(report.markdown(rows))
    for path in report.write(rows, asdict(settings), arguments.output):
        say(f"written to {path}")
    return 0 if is_complete and all(row.is_met is not False for row in rows) else 1


def _measure(settings: Settings, output: Path, sections: list[str]) -> tuple[list[Row], bool]:
    """The rows, and whether every section gave its own. One that fails is told, and the others still run."""
    # A short path, because Ray puts unix sockets below it, whose paths end at 107 bytes.
    with tempfile.TemporaryDirectory(prefix="cfb-", ignore_cleanup_errors=True) as home:
        model = Path(home, "mlp.onnx")
        tiny_mlp(model)
        bench = Bench(settings, output, Path(home), model, payload_for(model, ENDPOINT))
        found = {name: _section(name, bench) for name in sections}
    rows = [row for rows in found.values() if rows is not None for row in rows]
    return rows, None not in found.values()


def _section(name: str, bench: Bench) -> list[Row] | None:
    """The section's rows, or None when it failed."""
    say(f"{name}: {(SECTIONS[name].__doc__ or '').strip()}")
    folder = bench.folder / name
    folder.mkdir()
    started_s = time.monotonic()
    try:
        rows = SECTIONS[name](replace(bench, folder=folder))
    except (DidNotStart, LoadFailed, WrongAnswer, ChangeFailed) as error:
        say(f"{name} failed: {error}")
        say(f"the servers' logs are in {_keep_logs(folder, bench.output / 'logs')}")
        return None
    say(f"{name}: {time.monotonic() - started_s:.0f} s")
    return rows


def _keep_logs(folder: Path, target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for log in folder.rglob("*.log"):
        if "session_" not in str(log):  # Ray's own, hundreds of files
            shutil.copy(log, target / f"{folder.name}-{log.name}")
    return target


def _blue_and_green(model: Path, blue_count: int = 1) -> list[dict[str, object]]:
    return [
        endpoint(ENDPOINT, {"blue": 50, "green": 50}),
        deployment(ENDPOINT, "blue", model, instance_count=blue_count),
        deployment(ENDPOINT, "green", model),
    ]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
