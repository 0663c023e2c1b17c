"""Sections of a benchmark: each has its own folder, and one that fails stops no other."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.processes import DidNotStart
from benchmarks.report import Row
from benchmarks.sections import Bench, measure


@dataclass(frozen=True)
class Settings:
    rounds: int


def good(bench: Bench[Settings]) -> list[Row]:
    """Answers with what it was told."""
    return [Row(f"{bench.folder.name}, {bench.settings.rounds} rounds", "", "")]


def bad(bench: Bench[Settings]) -> list[Row]:
    """Has a server that does not start."""
    (bench.folder / "server.log").write_text("why")
    raise DidNotStart("it ended\nits log")


def test_a_section_that_fails_is_a_row_its_logs_are_kept_and_the_others_run(tmp_path: Path):
    rows = measure({"a": good, "b": bad, "c": good}, ["a", "b", "c"], Settings(3), tmp_path)
    assert [row.title for row in rows] == ["a, 3 rounds", "section b", "c, 3 rounds"]
    assert [row.is_met for row in rows] == [None, False, None]
    assert rows[1].crossfade == "failed: it ended"
    assert (tmp_path / "logs" / "b-server.log").read_text() == "why"


def test_only_the_chosen_sections_run(tmp_path: Path):
    assert [row.title for row in measure({"a": good, "b": bad}, ["a"], Settings(1), tmp_path)] == ["a, 1 rounds"]


def test_a_mistake_in_a_section_is_not_taken_for_a_servers_failure(tmp_path: Path):
    def mistaken(bench: Bench[Settings]) -> list[Row]:
        """Is wrong."""
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure({"a": mistaken}, ["a"], Settings(1), tmp_path)
