"""Servers under test as child processes: started with a log, metered with everything they start, ended for certain.

Linux only: memory is read from /proc.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

STOP_GRACE_S = 30.0  # for the process that we started
STRAGGLER_GRACE_S = 3.0  # for the rest, once that one has ended
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class DidNotStart(Exception):
    """A server ended or stayed silent; the message carries the end of its log."""


class Child:
    """One server: the process we started and every process that came from it, also when its parent is gone by now."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the benchmark alone, which then ends its servers in order
            )
        self._seen = {psutil.Process(self._popen.pid)}

    def tree(self) -> list[psutil.Process]:
        """The living processes of this server. A process counts as ours when any ancestor was ever seen as ours."""
        ours = {process.pid: process for process in self._seen if process.is_running()}
        others = {process.pid: process for process in psutil.process_iter(["ppid"]) if process.pid not in ours}
        grown = True
        while grown:
            children = {pid: process for pid, process in others.items() if process.info["ppid"] in ours}
            ours |= children
            others = {pid: process for pid, process in others.items() if pid not in children}
            grown = bool(children)
        self._seen = set(ours.values())
        return [process for process in ours.values() if _is_alive(process)]

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float, what: str = "ready") -> float:
        """Poll until `is_so`; returns the seconds it took. Raises `DidNotStart`."""
        started = time.monotonic()
        while not is_so():
            waited_s = time.monotonic() - started
            if self._popen.poll() is not None:
                raise DidNotStart(f"{self.name} ended with code {self._popen.returncode}:\n{self.log_tail()}")
            if waited_s > timeout_s:
                raise DidNotStart(f"{self.name} was not {what} after {timeout_s:.0f} s:\n{self.log_tail()}")
            time.sleep(0.1)
        return time.monotonic() - started

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far (user + system), by kind of process as `kind_of` names it."""
        used: dict[str, float] = {}
        for process in self.tree():
            try:
                kind, times = kind_of(process), process.cpu_times()
            except psutil.Error:
                continue  # ended while we looked
            used[kind] = used.get(kind, 0.0) + times.user + times.system
        return used

    def pss_bytes(self) -> dict[str, int]:
        """Proportional set size by kind of process: shared pages are divided among those who share them."""
        held: dict[str, int] = {}
        for process in self.tree():
            try:
                kind, pss = kind_of(process), process.memory_full_info().pss
            except psutil.Error:
                continue
            held[kind] = held.get(kind, 0) + pss
        return held

    def find(self, kind: str) -> list[psutil.Process]:
        return [process for process in self.tree() if _kind_or_gone(process) == kind]

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> list[str]:
        """Ask politely, then insist. Returns the kinds of the processes that had to be killed.

        An interrupt meanwhile takes effect afterwards: it must not leave half of them running.
        """
        with _interrupts_later():
            return self._stop()

    def _stop(self) -> list[str]:
        self.tree()
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        _, stubborn = psutil.wait_procs(self.tree(), timeout=STRAGGLER_GRACE_S)
        kinds = [_kind_or_gone(process) for process in stubborn]
        for process in stubborn:
            _kill(process)
        psutil.wait_procs(stubborn, timeout=STRAGGLER_GRACE_S)
        self._popen.wait()
        return kinds


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """SIGINT and SIGTERM that arrive inside are handled at the end. Handlers belong to the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers = {number: signal.signal(number, lambda it, _: arrived.append(it)) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in arrived[:1]:
            signal.raise_signal(number)


def kind_of(process: psutil.Process) -> str:
    """A short name for what a process does: Ray's actors carry their class in the title, the rest their program."""
    command = process.cmdline()
    title: str = command[0] if command else process.name()
    if title.startswith("ray::"):
        return title.removeprefix("ray::").split(":")[0].split(".")[0]
    module: str = command[command.index("-m") + 1] if "-m" in command[:-1] else ""
    return module or os.path.basename(title)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _kind_or_gone(process: psutil.Process) -> str:
    try:
        return kind_of(process)
    except psutil.Error:
        return "gone"


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
