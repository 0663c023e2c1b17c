"""The GPU benchmark: what it prints, and that it starts without the gateway's packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import Line, row_counts, table

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu.py"

# A module that is None cannot be imported.
ALONE = """
import runpy, sys
for name in "ray uvloop uvicorn httptools orjson pydantic fastapi tritonclient grpc psutil".split():
    sys.modules[name] = None
script = sys.argv.pop(1)
runpy.run_path(script, run_name="__main__")
"""


def test_batches_double_up_to_the_largest() -> None:
    assert row_counts(1) == [1]
    assert row_counts(24) == [1, 2, 4, 8, 16, 24]


def test_the_table_shows_what_copies_and_graphs_cost() -> None:
    lines = [Line(1, 90.0, 60.0, 30.0, 25.0, 4.0, 5.0), Line(3, 100.0, 80.0, None, 50.0, 6.0, 6.0)]
    assert table(lines).splitlines()[2:] == [
        "| 1 | 90 | 60 | 30 | 25 | 4 | 5 | 30% | 3.60 |",
        "| 3 | 100 | 80 | – | 50 | 6 | 6 | 15% | 2.00 |",
    ]


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has a GPU, and would measure for minutes")
def test_without_a_gpu_it_says_so_and_needs_no_package_of_the_gateway(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(SCRIPT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "error: the deployment asks for a GPU" in done.stderr
