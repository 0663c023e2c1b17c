"""`crossfade model export|import` against a real admin API."""

from __future__ import annotations

import hashlib

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
