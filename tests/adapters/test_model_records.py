"""The records of models: what was promised is there after a crash."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapters.model_records import ModelRecords
from router.domain.errors import StoreFailed
from router.domain.provenance import KEPT, Approved, History, Pulled, Record, Served, essential, latest_digests

AT = datetime(2026, 1, 2, 12, tzinfo=UTC)
RECORDS: tuple[Record, ...] = (
    Pulled(AT, "ann", "models:/m@a", "models:/m/3", "r1", "a" * 64, "3", (("run_id", "7"),)),
    Approved(AT, "e", "blue", "a" * 64, (("formats", "onnx"),), "ci@example", "{}"),
    Served(AT, "e", "blue", "a" * 64, "/models/m.onnx"),
)


def pulled(ref: str, digest: str) -> Pulled:
    return Pulled(AT, "ann", ref, f"{ref}#{digest}", digest, digest * 64)


async def written(path: Path) -> None:
    records = ModelRecords(path)
    for record in RECORDS:
        await records.append(record)
    assert records.history.records == RECORDS


async def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    await written(tmp_path / "models" / "records.jsonl")
    assert ModelRecords(tmp_path / "models" / "records.jsonl").history.records == RECORDS


async def test_a_line_that_was_cut_short_is_left_out_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    await written(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        again = ModelRecords(path)
        assert len(again.history.records) in (whole, whole + 1)  # the line is whole but for its end
        assert again.history.records == RECORDS[: len(again.history.records)]
    await again.append(RECORDS[0])
    assert ModelRecords(path).history.records[-1] == RECORDS[0]


async def test_trouble_with_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").mkdir()
    with pytest.raises(StoreFailed, match="cannot be read"):
        ModelRecords(tmp_path / "records.jsonl")
    (tmp_path / "newer").write_text('{"is": "Dreamt", "at": "2026-01-02"}\n')
    with pytest.raises(StoreFailed, match="holds a record that this version cannot read"):
        ModelRecords(tmp_path / "newer")
    (tmp_path / "file").write_text("")
    fresh = ModelRecords(tmp_path / "folder" / "records.jsonl")
    (tmp_path / "folder").symlink_to(tmp_path / "file")
    with pytest.raises(StoreFailed, match="cannot be written"):
        await fresh.append(RECORDS[0])


def test_the_last_models_of_every_reference_are_known() -> None:
    pulls = [pulled("a", "1"), pulled("a", "2"), pulled("b", "1"), pulled("a", "3"), pulled("a", "3"), pulled("a", "2")]
    assert latest_digests(pulls, 2) == {"2" * 64, "3" * 64, "1" * 64}
    assert latest_digests(pulls, 1) == {"2" * 64, "1" * 64}
    assert latest_digests(pulls, 0) == frozenset()


def test_history_tells_the_latest() -> None:
    history = History((pulled("a", "1"), pulled("b", "1"), pulled("a", "2")))
    origin = history.origin("1" * 64, "a")
    assert origin is not None
    assert origin.ref == "a"
    assert [item.digest[0] for item in history.pulls_by("a")] == ["2", "1"]
    assert history.origin("9" * 64) is None
    assert history.named_for_good("a") is None
    assert history.named_for_good(f"a#{1}") is None


def a_year_of_training(count: int) -> list[Record]:
    """One model an hour under one alias, each approved for and served by one of two deployments in turn; a third one
    has served the first model since."""
    made: list[Record] = []
    for number in range(count):
        digest = f"{number:064x}"
        name = "steady" if number == 0 else ("blue", "green")[number % 2]
        at = AT + timedelta(hours=number)
        made += [
            Pulled(at, "crossfade", "models:/m@a", f"models:/m/{number}", f"r{number}", digest),
            Approved(at, "e", name, digest),
            Served(at, "e", name, digest, "/m.onnx"),
        ]
    return made


def test_what_tells_nothing_any_more_is_left_out_and_what_serves_is_still_known() -> None:
    records = a_year_of_training(1000)
    left = essential(records)
    assert essential(left) == left
    assert [record for record in records if record in left] == list(left)
    assert len(left) < 8 * KEPT
    history, thinned = History(tuple(records)), History(left)
    for name in ("blue", "green", "steady"):
        latest = history.served("e", name)[0]
        assert thinned.served("e", name)[0] == latest
        assert thinned.approval("e", name, latest.digest) == history.approval("e", name, latest.digest)
        assert thinned.origin(latest.digest, "models:/m@a") == history.origin(latest.digest, "models:/m@a")
    assert thinned.pulls_by("models:/m@a")[:KEPT] == history.pulls_by("models:/m@a")[:KEPT]


def test_the_same_model_again_and_again_is_told_once_and_its_name_for_good_stays() -> None:
    records = [replace(pulled("models:/m/1", "a"), at=AT + timedelta(hours=hour)) for hour in range(3)]
    named = replace(records[-1], pinned="models:/m/1", ref="models:/m/1")
    assert essential([*records, named]) == (named,)
    assert History(essential([*records, named])).named_for_good("models:/m/1") == named


async def test_a_file_that_has_grown_is_written_anew_and_says_the_same(tmp_path: Path) -> None:
    records = ModelRecords(tmp_path / "records.jsonl")
    made = a_year_of_training(400)
    for record in made:
        await records.append(record)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert len(lines) == len(records.history.records) < len(made)
    again = ModelRecords(tmp_path / "records.jsonl").history
    assert again == records.history
    assert again.records[-1] == made[-1]
    assert again.origin("0" * 64) is not None  # `steady` serves it
