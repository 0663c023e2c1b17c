"""The records of models: what was promised is there after a crash."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapters.model_records import ModelRecords
from router.domain.errors import StoreFailed
from router.domain.provenance import Approved, History, Pulled, Record, Served, latest_digests

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
