"""Servers as child processes: everything that comes from them is found and ended."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.processes import Child, DidNotStart

# A child that starts a grandchild, which ignores SIGTERM and outlives it.
PARENT = """
import subprocess, sys, signal
grandchild = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
process = subprocess.Popen([sys.executable, "-c", grandchild], start_new_session=True)
signal.pause()
"""


def test_a_grandchild_that_ignores_the_polite_signal_is_ended_and_told(tmp_path: Path):
    child = Child("server", [sys.executable, "-c", PARENT], tmp_path / "log")
    try:
        child.wait_until(lambda: "deaf" in child.log_tail(), timeout_s=10)
        family = child.tree()
        assert len(family) == 2
    finally:
        left = child.stop()
    assert left == [Path(sys.executable).name]
    assert not any(psutil.pid_exists(process.pid) for process in family)


def test_a_server_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path):
    child = Child("server", [sys.executable, "-c", "raise SystemExit('no such model')"], tmp_path / "log")
    with pytest.raises(DidNotStart, match="no such model"):
        child.wait_until(lambda: False, timeout_s=10)
    child.stop()


def test_an_interrupt_while_a_server_is_ended_waits_until_it_has_ended(tmp_path: Path):
    interrupting = (
        f"import os, signal; signal.signal(signal.SIGTERM, lambda *_: os.kill({os.getpid()}, signal.SIGINT) or exit())"
    )
    child = Child(
        "server", [sys.executable, "-c", f"{interrupting}; print('up', flush=True); signal.pause()"], tmp_path / "log"
    )
    child.wait_until(lambda: "up" in child.log_tail(), timeout_s=10)
    (process,) = child.tree()
    with pytest.raises(KeyboardInterrupt):
        child.stop()
    assert not process.is_running()
