"""Horizontal bars as SVG, drawn with string formatting alone: two panels side by side, one row for each server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_ROW, _BAR, _LABELS, _PANEL, _GAP, _TOP = 24, 14, 200, 300, 90, 56
_MOST_BEYOND = 2  # times the second
_OURS, _THEIRS = "#0b7285", "#adb5bd"
_FONT = "font-family='system-ui, sans-serif' font-size='12'"


@dataclass(frozen=True, slots=True)
class Bar:
    """One server. `is_ours` colours it."""

    name: str
    per_second: float
    cpu_us: float
    is_ours: bool


def bars(title: str, servers: Sequence[Bar]) -> str:
    """An SVG document: requests a second and CPU per request, the fastest server first.

    One bar far beyond the others is cut short and says so, or nothing would be seen of them.
    """
    ordered = sorted(servers, key=lambda bar: -bar.per_second)
    width, height = _LABELS + 2 * (_PANEL + _GAP), _TOP + _ROW * len(ordered) + 12
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' {_FONT}>",
        f"<rect width='{width}' height='{height}' fill='white'/>",
        _text(8, 20, title, "font-weight='bold'"),
        _text(_LABELS, 42, "requests a second (more is better)"),
        _text(_LABELS + _PANEL + _GAP, 42, "CPU per request, µs (less is better)"),
    ]
    most_per_second = _scale([bar.per_second for bar in ordered])
    most_cpu_us = _scale([bar.cpu_us for bar in ordered])
    for number, bar in enumerate(ordered):
        y = _TOP + number * _ROW
        parts.append(_text(_LABELS - 8, y + _BAR - 2, bar.name, "text-anchor='end'"))
        parts += _bar(_LABELS, y, bar.per_second, most_per_second, bar.is_ours)
        parts += _bar(_LABELS + _PANEL + _GAP, y, bar.cpu_us, most_cpu_us, bar.is_ours)
    return "\n".join([*parts, "</svg>", ""])


def _scale(values: Sequence[float]) -> float:
    """What the longest bar stands for."""
    highest = sorted(values, reverse=True)[:2]
    return min(highest[0], _MOST_BEYOND * highest[-1])


def _bar(x: int, y: int, value: float, most: float, is_ours: bool) -> list[str]:
    width = max(1.0, min(1.0, value / most) * _PANEL)
    colour = _OURS if is_ours else _THEIRS
    return [
        f"<rect x='{x}' y='{y}' width='{width:.1f}' height='{_BAR}' fill='{colour}'/>",
        _text(x + width + 6, y + _BAR - 2, f"{value:,.0f}{' (cut)' if value > most else ''}"),
    ]


def _text(x: float, y: float, content: str, attributes: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y}' {attributes}>{escape(content)}</text>"
