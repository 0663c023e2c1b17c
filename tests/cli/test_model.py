"""`crossfade model …` against a real admin API."""

from __future__ import annotations

import hashlib
from pathlib import Path

from router.models.ports import SourceUnavailable
from tests.cli.conftest import Terminal
from tests.cli.test_commands import SPEC

DIGEST = hashlib.sha256(b"graph").hexdigest()
CHAMPION = "models:/fraud@champion"


def test_a_model_is_pulled_once_and_shown(terminal: Terminal) -> None:
    terminal.bench.source.pinned = "models:/fraud/3"
    first = terminal.run("model", "pull", CHAMPION)
    assert first.code == 0
    assert first.out.splitlines() == [
        f"digest:       {DIGEST}",
        f"path:         /models/trees/{DIGEST}/m.onnx",
        "transferred:  5 B",
    ]
    assert "nothing: it was here" in terminal.run("model", "pull", CHAMPION).out
    listed = terminal.run("model", "list").out.splitlines()
    assert listed[0].split() == ["DIGEST", "SIZE", "FILES", "REFERENCE", "ADDED", "USED", "BY"]
    assert listed[1].split()[:6] == [DIGEST[:12], "5", "B", "1", CHAMPION, listed[1].split()[5]]
    shown = terminal.run("model", "show", DIGEST[:6])
    assert "pinned:     models:/fraud/3" in shown.out
    assert "run_id:     7" in shown.out
    assert f"m.onnx  5 B   {DIGEST}" in shown.out
    assert terminal.run("model", "show", DIGEST, "-o", "json").json["files"] == [
        {"path": "m.onnx", "size": 5, "sha256": DIGEST}
    ]


def test_resolving_asks_and_fetches_nothing(terminal: Terminal) -> None:
    found = terminal.run("model", "resolve", CHAMPION, "-o", "json")
    assert (found.json["pinned"], found.json["digest"]) == (f"{CHAMPION}@r1", "")
    assert terminal.bench.source.reads == []
    terminal.run("model", "pull", CHAMPION)
    assert f"in the cache:  {DIGEST}" in terminal.run("model", "resolve", CHAMPION).out


def test_resolving_an_image_is_followed_like_a_pull_and_keeps_no_model(terminal: Terminal) -> None:
    image = "oci://registry.example/models/fraud:3"
    assert terminal.run("model", "resolve", image, "-o", "json").json["reference"] == image
    (look_up,) = terminal.bench.pulled.catalogue.pulls.all()
    assert (str(look_up.ref), look_up.state, look_up.model) == (image, "done", None)
    assert terminal.run("model", "list", "-o", "json").json == {"models": []}
    terminal.bench.source.trouble = SourceUnavailable("registry.example: no route")
    failed = terminal.run("model", "resolve", image)
    assert (failed.code, failed.err) == (1, "error: registry.example: no route\n")


def test_a_relative_path_is_meant_from_here(terminal: Terminal) -> None:
    found = terminal.run("model", "resolve", "file:models/m.onnx", "-o", "json")
    assert found.json["reference"] == f"file:{Path('models/m.onnx').absolute()}"


def test_what_cannot_be_had_is_told_and_nothing_is_broken(terminal: Terminal) -> None:
    terminal.bench.source.trouble = SourceUnavailable(f"{CHAMPION}: registry.example: no route")
    for verb in ("pull", "resolve"):
        failed = terminal.run("model", verb, CHAMPION)
        assert f"error: {CHAMPION}: registry.example: no route" in failed.err
    assert terminal.run("model", "pull", CHAMPION).code == 1
    assert terminal.run("model", "pull", "ftp://host/m.onnx").code == 2
    assert terminal.run("model", "show", "abcdef").code == 1
    assert terminal.run("model", "show", "../etc").code == 1


def test_applying_what_cannot_be_had_now_exits_1_with_file_and_line(terminal: Terminal) -> None:
    terminal.bench.models.out_of_reach = {"file:/green.onnx"}
    path = terminal.spec(SPEC)
    ran = terminal.run("apply", "-f", path)
    assert (ran.code, ran.err) == (1, f"error: {path}:13:1: model: file:/green.onnx: registry.example: no route\n")
    assert terminal.run("apply", "-f", path, "-o", "json").json["error"]["code"] == "source_unavailable"
    assert terminal.bench.desired.states == {}


def test_a_damaged_model_is_found_and_the_exit_code_says_so(terminal: Terminal) -> None:
    terminal.run("model", "pull", CHAMPION)
    assert terminal.run("model", "verify").code == 0
    terminal.bench.pulled.cache.damaged.add(DIGEST)
    verified = terminal.run("model", "verify", DIGEST[:12])
    assert verified.code == 1
    assert "damaged and was put aside" in verified.err
    assert terminal.run("model", "list", "-o", "json").json == {"models": []}


def test_what_nobody_needs_is_removed(terminal: Terminal) -> None:
    terminal.run("model", "pull", CHAMPION)
    assert terminal.run("model", "gc").out == "0 models removed, 0 B freed\n"
    assert terminal.run("model", "gc", "--keep-last", "0", "--unused-for", "0").out == "1 model removed, 5 B freed\n"


def test_a_deployment_tells_where_its_model_came_from(terminal: Terminal) -> None:
    bench = terminal.bench
    terminal.run("model", "pull", "file:/blue.onnx")
    bench.models.known["file:/blue.onnx"] = next(
        pull.model.resolved for pull in bench.pulled.catalogue.pulls.all() if pull.model
    )
    assert terminal.run("apply", "-f", terminal.spec(SPEC)).code == 0
    shown = terminal.run("deployment", "show", "e", "blue")
    assert ["pinned:", "file:/blue.onnx@r1"] in [line.split() for line in shown.out.splitlines()]
    assert terminal.run("deployment", "show", "e", "blue", "-o", "json").json["lineage"]["origin"]["lineage"] == {
        "run_id": "7"
    }


def test_trouble_with_a_source_is_a_line_of_the_status(terminal: Terminal) -> None:
    assert terminal.run("apply", "-f", terminal.spec(SPEC)).code == 0
    assert "stale" not in terminal.run("status").out
    terminal.bench.source.trouble = SourceUnavailable("registry.example: no route")
    terminal.run("model", "resolve", "file:/blue.onnx")
    assert "stale:      file:/blue.onnx: registry.example: no route (since 2026-01-02" in terminal.run("status").out


def test_a_digest_that_is_not_there_is_told_with_those_that_are(terminal: Terminal) -> None:
    pulled = terminal.run("model", "pull", "models:/fraud@champion", "-o", "json").json
    missing = terminal.run("model", "show", "abc")
    assert (missing.code, f"known: {pulled['digest'][:12]}" in missing.err) == (1, True)
