"""What a process may have on this machine. In a process of its own, whose limits may change."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from router.machine import memory_bytes, open_files, raise_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(open_files(), raise_open_files(), open_files(), memory_bytes() > 2**28)
"""


@pytest.mark.parametrize(("soft", "hard", "raised"), [(256, 512, 512), (512, 512, 512)])
def test_as_many_files_may_be_open_as_the_hard_limit_allows(soft: int, hard: int, raised: int) -> None:
    command = [sys.executable, "-c", PROGRAM.format(soft=soft, hard=hard)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(soft), str(raised), str(raised), "True"]
