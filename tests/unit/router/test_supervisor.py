"""Children of the supervisor: real processes, small ones."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from router.supervisor import RUN_VARIABLE, Child, ChildSpec, GaveUp, processes_of_run, sweep

DEADLINE_S = 30.0
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PATIENT = "import time; print('up', flush=True); time.sleep(60)"
# A supervisor that is killed while its child runs.
SHORT_LIVED = """
import asyncio, pathlib, sys
from router.supervisor import Child, ChildSpec
spec = ChildSpec("child", (sys.executable, "-c", sys.argv[1]), pathlib.Path(sys.argv[2]))
asyncio.run(Child(spec, print).keep_running())
"""


def spec(tmp_path: Path, code: str, **more: object) -> ChildSpec:
    return ChildSpec("worker", (sys.executable, "-c", code), tmp_path / "worker.log", **more)  # type: ignore[arg-type]  # the fields of ChildSpec, as a test names them


@asynccontextmanager
async def kept(child: Child) -> AsyncIterator[asyncio.Task[None]]:
    keeper = asyncio.create_task(child.keep_running())
    try:
        yield keeper
    finally:
        await child.stop()
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def until(is_so: Callable[[], bool]) -> None:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + DEADLINE_S
    while not is_so():
        assert loop.time() < give_up_at
        await asyncio.sleep(0.01)


def log(tmp_path: Path) -> str:
    path = tmp_path / "worker.log"
    return path.read_text() if path.exists() else ""


def is_alive(pid: int) -> bool:
    return bool(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


async def test_a_child_that_dies_is_reported_and_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    child = Child(spec(tmp_path, PATIENT), said.append)
    async with kept(child):
        await until(lambda: log(tmp_path) == "up\n")
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: log(tmp_path) == "up\nup\n")
        assert child.pid != first
    assert said == [f"worker ended (killed by SIGKILL); starting it again; its log: {tmp_path / 'worker.log'}"]


async def test_a_child_that_is_started_with_a_full_log_gets_a_new_one(tmp_path: Path) -> None:
    full = tmp_path / "worker.log"
    full.touch()
    os.truncate(full, 32 * 1024 * 1024)
    async with kept(Child(spec(tmp_path, PATIENT), print)):
        await until(lambda: log(tmp_path) == "up\n")
    assert (tmp_path / "worker.log.1").stat().st_size == 32 * 1024 * 1024


async def test_pauses_grow_while_a_child_keeps_failing(tmp_path: Path) -> None:
    said: list[str] = []
    async with kept(Child(spec(tmp_path, "raise SystemExit(3)"), said.append)):
        await until(lambda: len(said) == 3)
    assert "(exit code 3); starting it again;" in said[0]
    assert "again in 0.5 s" in said[1]
    assert "again in 1 s" in said[2]


async def test_a_child_that_says_it_is_hopeless_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    child = Child(spec(tmp_path, "print('no disk'); raise SystemExit(78)", hopeless_code=78), print)
    with pytest.raises(GaveUp, match="worker cannot start: no disk"):
        await child.keep_running()


async def test_stopping_asks_first_and_the_keeper_returns(tmp_path: Path) -> None:
    child = Child(spec(tmp_path, PATIENT), print)
    async with kept(child) as keeper:
        await until(lambda: log(tmp_path) == "up\n")
        pid = child.pid
        assert pid is not None
        await child.stop()
        assert not is_alive(pid)
        await asyncio.wait_for(keeper, DEADLINE_S)


async def test_a_child_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    child = Child(spec(tmp_path, STUBBORN, stop_grace_s=0.1), print)
    async with kept(child):
        await until(lambda: log(tmp_path) == "up\n")
        pid = child.pid
        assert pid is not None
        await child.stop()
        assert not is_alive(pid)


async def test_stopping_in_a_pause_starts_nothing_more(tmp_path: Path) -> None:
    said: list[str] = []
    child = Child(spec(tmp_path, "print('up'); raise SystemExit(1)"), said.append)
    async with kept(child) as keeper:
        await until(lambda: len(said) == 2)  # the pause of half a second has begun
        await child.stop()
        await asyncio.wait_for(keeper, DEADLINE_S)
    assert log(tmp_path) == "up\nup\n"


def test_children_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    child_log = tmp_path / "child.log"
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", SHORT_LIVED, code, str(child_log)]) as supervisor:
        asyncio.run(until(lambda: child_log.exists() and child_log.read_text().endswith("\n")))
        supervisor.kill()
    pid = int(child_log.read_text())
    asyncio.run(until(lambda: not is_alive(pid)))


@pytest.mark.parametrize(
    ("code", "grace_s", "ends_by"), [(PATIENT, DEADLINE_S, signal.SIGTERM), (STUBBORN, 0.2, signal.SIGKILL)]
)
async def test_a_sweep_ends_the_processes_of_its_run_alone(code: str, grace_s: float, ends_by: signal.Signals) -> None:
    run_id, other_id = secrets.token_hex(8), secrets.token_hex(8)

    def start(code: str, run: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, RUN_VARIABLE: run}
        return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)

    with start(code, run_id) as left, start(PATIENT, other_id) as other:
        for process in (left, other):
            assert process.stdout is not None
            process.stdout.readline()
        assert processes_of_run(run_id) == [left.pid]
        sweeping = asyncio.create_task(sweep(run_id, grace_s))
        # Its parent takes note that it ended, as init does with processes that a dead gateway left behind.
        assert await asyncio.to_thread(left.wait, DEADLINE_S) == -ends_by
        assert await sweeping == [left.pid]
        assert other.poll() is None
        other.kill()
    assert await sweep(run_id) == []
