"""What the doctor finds of Triton."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.cli.checks import Verdict, triton_finding
from router.cli.triton_check import FoundTriton, examined

SAYS_ITS_VERSION = """\
echo 'I1 2 cuda_memory_manager.cc:107] "CUDA memory pool is created on device 0 with size 67108864"'
echo '| server_id        | triton  |'
echo '| server_version   | 2.51.0  |'
exec sleep 60
"""


def program(folder: Path, script: str, *backends: str) -> Path:
    """Where a real one has it: beside its backends."""
    made = folder / "bin" / "tritonserver"
    made.parent.mkdir()
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(0o755)
    for backend in backends:
        (folder / "backends" / backend).mkdir(parents=True)
    return made


def test_a_server_is_known_by_what_it_says_as_it_starts(tmp_path: Path) -> None:
    made = program(tmp_path, SAYS_ITS_VERSION, "python", "onnxruntime")
    assert examined(made) == FoundTriton(made, "2.51.0", ("onnxruntime", "python"), gpus=1)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'error while loading libcudart'; exit 127", "error while loading libcudart"),
        ("exit 1", "it says nothing"),
    ],
)
def test_one_that_does_not_run_is_quoted(tmp_path: Path, script: str, words: str) -> None:
    made = program(tmp_path, script)
    assert examined(made) == FoundTriton(made, "", (), words)


@pytest.mark.parametrize(
    ("found", "verdict", "detail"),
    [
        (None, Verdict.OK, "no tritonserver"),
        (
            FoundTriton(Path("/t"), "2.51.0", ("onnxruntime", "python"), gpus=2),
            Verdict.OK,
            "2.51.0 (/t), backends: onnxruntime, python; it sees 2 GPUs",
        ),
        (FoundTriton(Path("/t"), "2.51.0", ("python",)), Verdict.WARN, "backends: python; it sees no GPU"),
        (FoundTriton(Path("/t"), "2.51.0", ()), Verdict.WARN, "none found"),
        (FoundTriton(Path("/t"), "", (), "no libcudart"), Verdict.WARN, "does not run: no libcudart"),
    ],
)
def test_the_doctor_says_what_is_missing(found: FoundTriton | None, verdict: Verdict, detail: str) -> None:
    finding = triton_finding(found)
    assert (finding.verdict, bool(finding.advice)) == (verdict, verdict is not Verdict.OK)
    assert detail in finding.detail
