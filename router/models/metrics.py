"""How stale the models may be, as Prometheus text (exposition format 0.0.4)."""

from __future__ import annotations

from collections.abc import Collection

from router.models.freshness import Asked


def freshness_metrics(asked: Collection[Asked]) -> str:
    """Gauges by reference; empty without any. A source that was not asked yet is not failing, and has no time."""
    if not asked:
        return ""
    failing = [
        "# HELP crossfade_model_source_failing Whether a source did not answer when it was last asked for a reference.",
        "# TYPE crossfade_model_source_failing gauge",
        *(f'crossfade_model_source_failing{{reference="{_label(it.ref)}"}} {int(bool(it.trouble))}' for it in asked),
    ]
    name = "crossfade_model_source_answered_timestamp_seconds"
    answered = [
        f"# HELP {name} When a source last said what a reference means.",
        f"# TYPE {name} gauge",
        *(
            f'{name}{{reference="{_label(it.ref)}"}} {it.answered_at.timestamp():.3f}'
            for it in asked
            if it.answered_at is not None
        ),
    ]
    return "".join(f"{line}\n" for line in (*failing, *answered))


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
