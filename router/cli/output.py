"""How results are shown: tables for people, JSON for programs. Results go to stdout, words about them to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Left-aligned columns, two spaces apart."""
    cells = [[name.upper() for name in columns], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def listing(pairs: Iterable[tuple[str, Any]]) -> str:
    """One `key: value` a line, the values aligned."""
    shown = [(f"{key}:", _cell(value)) for key, value in pairs]
    width = max((len(key) for key, _ in shown), default=0)
    return "\n".join(f"{key.ljust(width)}  {value}".rstrip() for key, value in shown)


def percents(shares: Mapping[str, int]) -> str:
    """`blue=90 green=10`, as `endpoint update --traffic` takes it."""
    return " ".join(f"{name}={percent}" for name, percent in shares.items()) or "-"


def duration(seconds: float) -> str:
    """The largest unit that fits: "42 s", "4 min", "3 h", "2 d"."""
    whole = int(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if whole >= length:
            return f"{whole // length} {unit}"
    return f"{whole} s"


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """A message for a person: on stderr, so that stdout stays the result."""
    print(text, file=sys.stderr, flush=True)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={item}" for key, item in value.items()) or "-"
    return str(value) if value not in ("", None) else "-"
