"""Crossfade against its peers: what fails becomes a row, and the others go on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.arena import Arena
from benchmarks.environments import NotInstallable
from benchmarks.payloads import Payload
from benchmarks.processes import DidNotStart
from benchmarks.servers import Server
from benchmarks.versus import Opponent, Turns, duels
from benchmarks.workloads import Workload

PAYLOAD = Payload(b"{}", b"", np.zeros(1), {"x": np.zeros((1, 1), np.float32)})


def opponent(title: str, error: Exception) -> Opponent:
    @contextmanager
    def start(folder: Path, model: Path, payload: Payload) -> Iterator[Server]:
        (folder / "peer.log").write_text("its last words")
        raise error
        yield

    return Opponent(title, start, lambda payload: payload.json, is_python=True)


def test_a_peer_that_cannot_be_installed_or_started_is_a_row_with_the_reason(tmp_path: Path):
    where = Arena(cast(Any, None), Workload("tiny MLP", tmp_path / "m.onnx", []), PAYLOAD, tmp_path)
    against = [
        opponent("First", NotInstallable("no wheel for this Python")),
        opponent("Second", DidNotStart("Second ended with code 1:\nTraceback")),
    ]
    fought, failed = duels(where, against, Turns(1, 1, 0), tmp_path / "results")
    assert fought == []
    assert [row.title for row in failed] == ["tiny MLP, beside First", "tiny MLP, beside Second"]
    assert [row.peer for row in failed] == [
        "not installable: no wheel for this Python",
        "failed: Second ended with code 1:",
    ]
    assert [row.is_met for row in failed] == [None, None]
    assert (tmp_path / "results" / "logs" / "Second" / "p1-peer.log").read_text() == "its last words"


def test_what_is_not_a_servers_failure_is_not_hidden(tmp_path: Path):
    where = Arena(cast(Any, None), Workload("tiny MLP", tmp_path / "m.onnx", []), PAYLOAD, tmp_path)
    with pytest.raises(ZeroDivisionError):
        duels(where, [opponent("First", ZeroDivisionError())], Turns(1, 1, 0), tmp_path)
