"""The folder on disk: what must not be there, and what must be as it was listed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.candidate_files import CandidateFiles
from router.domain.model_tree import ModelTree
from router.models.formats import HEAD_BYTES
from router.models.ports import AdmissionRefused, Candidate
from tests.admission.folders import admitted, tree_of, written
from tests.admission.graphs import relu


def replaced_by_link(folder: Path) -> None:
    (folder.parent / "outside.onnx").write_bytes((folder / "model.onnx").read_bytes())
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(folder.parent / "outside.onnx")


def hard_link(folder: Path) -> None:
    os.link(folder / "a" / "labels.txt", folder.parent / "outside.txt")


def linked_folder(folder: Path) -> None:
    (folder / "a").rename(folder.parent / "elsewhere")
    (folder / "a").symlink_to(folder.parent / "elsewhere")


def pipe(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")


def stowaway(folder: Path) -> None:
    (folder / "a" / "more.bin").write_bytes(b"")


def shortened(folder: Path) -> None:
    (folder / "a" / "labels.txt").write_bytes(b"ca")


def one_bit(folder: Path) -> None:
    path = folder / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (replaced_by_link, "'model.onnx' is a symbolic link"),
        (linked_folder, "'a' is a symbolic link"),
        (hard_link, "'a/labels.txt' is a hard link: the same file has 2 names"),
        (pipe, "'model.onnx' is not a file but a device, pipe or socket"),
        (stowaway, "'a/more.bin' is in the folder, and is no file of the model"),
        (lambda folder: (folder / "model.onnx").unlink(), "'model.onnx' is missing"),
        (shortened, "'a/labels.txt' has 2 bytes and should have 7"),
        (one_bit, "'model.onnx' has another content: sha256 "),
    ],
)
async def test_a_folder_that_is_not_as_it_was_pulled_is_refused(
    harm: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    candidate = written(tmp_path / "model", {"model.onnx": relu(), "a/labels.txt": b"cat\ndog"})
    harm(tmp_path / "model")
    with pytest.raises(AdmissionRefused) as refused:
        await admitted(candidate)
    assert str(refused.value).startswith(f"files: {words}")
    assert str(refused.value).endswith("; pull the model again")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(AdmissionRefused, match="cannot be read: No such file"):
        CandidateFiles().heads(str(tmp_path / "none"), tree_of(tmp_path))


def test_the_beginning_of_every_file_is_told(tmp_path: Path) -> None:
    candidate = written(tmp_path, {"a/long.txt": b"x" * 2000, "short": b"y"})
    assert CandidateFiles().heads(candidate.folder, candidate.tree) == {"a/long.txt": b"x" * HEAD_BYTES, "short": b"y"}


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "model.sig").write_bytes(b"x" * 10)
    assert CandidateFiles().read(str(tmp_path), "model.sig", 10) == b"x" * 10
    with pytest.raises(AdmissionRefused, match=r"'model.sig' has more than 9 bytes"):
        CandidateFiles().read(str(tmp_path), "model.sig", 9)


async def test_a_candidate_whose_tree_lists_other_files_is_refused(tmp_path: Path) -> None:
    candidate: Candidate = written(tmp_path, {"model.onnx": relu(), "labels.txt": b"cat"})
    less = replace(candidate, tree=ModelTree(candidate.tree.files[1:]))
    with pytest.raises(AdmissionRefused, match=r"'labels.txt' is in the folder, and is no file of the model"):
        await admitted(less)
