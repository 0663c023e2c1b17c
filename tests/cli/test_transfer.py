"""`crossfade model export|import` against a real admin API."""

from __future__ import annotations

import hashlib

import pytest

from router.cli.pulling import Transferring
from tests.cli.conftest import Terminal

DIGEST = hashlib.sha256(b"graph").hexdigest()
CHAMPION = "models:/fraud@champion"


def test_a_model_is_exported_to_a_file_and_imported_from_it(terminal: Terminal) -> None:
    terminal.bench.source.pinned = "models:/fraud/3"
    assert terminal.run("model", "pull", CHAMPION).code == 0
    file = terminal.data_dir / "fraud.tar"
    ran = terminal.run("model", "export", CHAMPION, "--file", str(file), "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.json == {"file": str(file), "size": file.stat().st_size}
    again = terminal.data_dir / "again.tar"
    assert terminal.run("model", "export", DIGEST[:8], "-F", str(again)).code == 0
    assert again.read_bytes() == file.read_bytes()
    ran = terminal.run("model", "import", str(file))
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[1].split() == [DIGEST[:12], "5", CHAMPION, "models:/fraud/3"]
    assert terminal.run("model", "import", str(file), "--as", "models:/other/1", "-o", "json").json["models"] == [
        {"digest": DIGEST, "ref": "models:/other/1", "pinned": "models:/other/1", "size": 5}
    ]


def test_what_cannot_be_exported_leaves_no_file(terminal: Terminal) -> None:
    file = terminal.data_dir / "fraud.tar"
    ran = terminal.run("model", "export", CHAMPION, "--file", str(file))
    assert ran.code == 1
    assert "does not exist" in ran.err
    assert terminal.run("model", "pull", CHAMPION).code == 0
    ran = terminal.run("model", "export", CHAMPION, "--file", str(terminal.data_dir / "nowhere" / "fraud.tar"))
    assert ran.code == 1
    assert "No such file or directory" in ran.err
    terminal.bench.disk.files = {"m.onnx": b"Graph"}
    ran = terminal.run("model", "export", CHAMPION, "--file", str(file))
    assert ran.code == 1
    assert "ended early" in ran.err
    assert not list(terminal.data_dir.glob("*fraud*"))


def test_a_file_that_is_no_archive_of_models_is_refused(terminal: Terminal) -> None:
    file = terminal.data_dir / "fraud.tar"
    file.write_bytes(b"PK" * 5_000_000)
    ran = terminal.run("model", "import", str(file))
    assert ran.code == 1
    assert "not a tar archive" in ran.err
    ran = terminal.run("model", "import", str(terminal.data_dir / "none.tar"))
    assert ran.code == 1
    assert "cannot be read" in ran.err


def test_what_takes_longer_than_two_seconds_is_told_with_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 1.0, 4.0, 4.1])
    with Transferring("fraud.tar", 100_000_000, clock_s=lambda: next(times)) as told:
        for _ in range(3):
            told(20_000_000)
    assert capsys.readouterr().err == "fraud.tar: 40.0 MB of 100 MB, 10.0 MB/s, 6 s left\n"


def test_what_is_quick_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    with Transferring("fraud.tar", -1, clock_s=lambda: 0.0) as told:
        told(10)
    assert capsys.readouterr().err == ""
