"""Folders for TensorRT's engines: one for everything that an engine depends on, and not too many."""

from __future__ import annotations

import os
from pathlib import Path

from adapters.onnx.engine_cache import MAX_FOLDERS, emptied, engine_folder


def folder_for(cache: Path, *facts: object) -> Path:
    folder = engine_folder(str(cache), facts)
    assert folder is not None
    return folder


def test_the_same_facts_have_the_same_folder_and_others_another(tmp_path: Path) -> None:
    assert folder_for(tmp_path, "a", {"x": "1"}) == folder_for(tmp_path, "a", {"x": "1"})
    assert folder_for(tmp_path, "a", {"x": "1"}) != folder_for(tmp_path, "a", {"x": "2"})


def test_the_folders_that_were_not_used_for_the_longest_time_go(tmp_path: Path) -> None:
    folders = [folder_for(tmp_path, number) for number in range(MAX_FOLDERS)]
    for at, folder in enumerate(folders):
        (folder / "model.engine").write_bytes(b"engine")
        os.utime(folder, (at, at))
    folder_for(tmp_path, 0)  # used again: the second is the oldest now
    folder_for(tmp_path, "new")
    assert [folder.exists() for folder in folders] == [at != 1 for at in range(MAX_FOLDERS)]


def test_a_folder_that_cannot_be_made_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert engine_folder(str(tmp_path / "file"), ["a"]) is None


def test_emptying_says_whether_there_was_anything(tmp_path: Path) -> None:
    folder = folder_for(tmp_path, "a")
    assert not emptied(folder)
    (folder / "model.engine").write_bytes(b"engine")
    assert emptied(folder)
    assert list(folder.iterdir()) == []
