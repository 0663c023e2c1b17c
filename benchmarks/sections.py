"""A benchmark of several sections, from its command line to its exit code. One section that fails stops no other."""

from __future__ import annotations

import argparse
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx

from benchmarks import report
from benchmarks.crossfade import ChangeFailed
from benchmarks.environments import NotInstallable
from benchmarks.load import LoadFailed, missing_programs
from benchmarks.payloads import WrongAnswer
from benchmarks.processes import DidNotStart
from benchmarks.progress import say
from benchmarks.report import Row

DEFAULT_OUTPUT = Path(__file__).parent / "results"
SERVER_FAILURES = (DidNotStart, LoadFailed, WrongAnswer, ChangeFailed, NotInstallable, httpx.HTTPError)
Settings = TypeVar("Settings")


@dataclass(frozen=True, slots=True)
class Bench(Generic[Settings]):
    """What every section gets: how much to measure, and a folder of its own. `home` is all sections' together.

    `output` gets the servers' logs when a section fails.
    """

    settings: Settings
    output: Path
    home: Path
    folder: Path


Section = Callable[[Bench[Any]], list[Row]]


def run(
    name: str, doc: str | None, sections: Mapping[str, Section], settings: Settings, quick: Settings, quick_takes: str
) -> int:
    """The whole program; returns its exit code.

    0 every bar is met · 1 one is not, or a section failed · 2 a program is missing · 130 interrupted.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"fewer and shorter rounds: {quick_takes}")
    parser.add_argument("--only", action="append", choices=sections, help="measure this section alone; may be repeated")
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, help=f"folder for {name}.json and {name}.md ({DEFAULT_OUTPUT})"
    )
    arguments = parser.parse_args()
    if missing := missing_programs():
        say(f"the load generators are missing: sudo apt-get install {' '.join(missing)}")
        return 2
    signal.signal(signal.SIGTERM, _interrupt)  # so that the servers are ended in order then, too
    chosen = quick if arguments.quick else settings
    try:
        rows = measure(sections, arguments.only or list(sections), chosen, arguments.output)
    except KeyboardInterrupt:
        say("interrupted; every server has been stopped")
        return 130
    print(report.markdown(rows))
    for path in report.write(name, rows, chosen, arguments.output):
        say(f"written to {path}")
    return 0 if all(row.is_met is not False for row in rows) else 1


def measure(sections: Mapping[str, Section], chosen: list[str], settings: Settings, output: Path) -> list[Row]:
    """The rows of all sections, in order. One that fails has a single row, which says why and meets no bar."""
    # A short path, because Ray puts unix sockets below it, whose paths end at 107 bytes.
    with tempfile.TemporaryDirectory(prefix="cfb-", ignore_cleanup_errors=True) as home:
        bench = Bench(settings, output, Path(home), Path(home))
        return [row for name in chosen for row in _section(name, sections[name], bench)]


def first_line(error: Exception) -> str:
    """What a table has room for: the rest of such a message is the end of a server's log."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def _section(name: str, section: Section, bench: Bench[Settings]) -> list[Row]:
    say(f"{name}: {(section.__doc__ or '').strip()}")
    folder = bench.home / name
    folder.mkdir()
    started_s = time.monotonic()
    try:
        rows = section(replace(bench, folder=folder))
    except SERVER_FAILURES as error:
        say(f"{name} failed: {error}")
        say(f"the servers' logs are in {keep_logs(folder, bench.output / 'logs')}")
        return [Row(f"section {name}", "", f"failed: {first_line(error)}", is_met=False)]
    say(f"{name}: {time.monotonic() - started_s:.0f} s")
    return rows


def keep_logs(folder: Path, target: Path) -> Path:
    """Copies the servers' logs below `folder` to `target`, and returns that."""
    target.mkdir(parents=True, exist_ok=True)
    for log in folder.rglob("*.log"):
        if "session_" not in str(log):  # Ray's own, hundreds of files
            shutil.copy(log, target / "-".join((folder.name, *log.relative_to(folder).parts)))
    return target


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
