"""Staleness on the metrics page."""

from __future__ import annotations

from datetime import UTC, datetime

from router.models.freshness import Freshness
from router.models.metrics import freshness_metrics

AT = datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_a_source_that_fails_is_seen_with_the_time_of_its_last_answer() -> None:
    freshness = Freshness()
    freshness.answered("models:/m@a", AT)
    freshness.failed("models:/m@a", "no route", AT)
    page = freshness_metrics([freshness.of("models:/m@a"), freshness.of('file:/odd"name')])
    assert 'crossfade_model_source_failing{reference="models:/m@a"} 1\n' in page
    assert 'crossfade_model_source_failing{reference="file:/odd\\"name"} 0\n' in page
    assert (
        f'crossfade_model_source_answered_timestamp_seconds{{reference="models:/m@a"}} {AT.timestamp():.3f}\n' in page
    )
    assert page.count("answered_timestamp_seconds{") == 1


def test_without_models_there_is_nothing() -> None:
    assert freshness_metrics([]) == ""
