"""How well watched references are followed, as Prometheus text."""

from __future__ import annotations

from collections.abc import Iterable

from router.models.watch_ports import Standing


def watch_metrics(standings: Iterable[Standing]) -> str:
    """Empty when nothing is watched. A source that has never answered has no staleness yet."""
    shown = list(standings)
    if not shown:
        return ""
    lines = [
        "# HELP crossfade_watch_staleness_seconds Since the source of a watched reference last answered.",
        "# TYPE crossfade_watch_staleness_seconds gauge",
    ]
    for standing in shown:
        if (staleness_s := standing.staleness_s) is not None:
            endpoint = standing.watched.endpoint
            lines.append(f'crossfade_watch_staleness_seconds{{endpoint="{endpoint}"}} {staleness_s:.1f}')
    lines += [
        "# HELP crossfade_watch_failures Failures in a row of asking a source, or of fetching from it.",
        "# TYPE crossfade_watch_failures gauge",
        *(f'crossfade_watch_failures{{endpoint="{it.watched.endpoint}"}} {it.watched.failures}' for it in shown),
    ]
    return "\n".join(lines) + "\n"
