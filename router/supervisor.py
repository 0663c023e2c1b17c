"""`crossfade up`: starts the children (Ray head, Envoy, control plane), restarts what dies, and ends them in order.

Knows nothing of endpoints and models: that is the control plane's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from router.domain.errors import CrossfadeError
from router.log_files import rotate_before_start

# Every process of a run carries this in its environment, also those that Ray starts: that is how they are found when
# they outlive their parent.
RUN_VARIABLE = "CROSSFADE_RUN"

_BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
_HEALTHY_AFTER_S = 30.0
_PR_SET_PDEATHSIG = 1


class GaveUp(CrossfadeError):
    """A child ended in a way that starting it again cannot mend."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child. `stop_signal` asks it to end; after `stop_grace_s` it is killed.

    `env`: its whole environment; None: this process's own.
    `hopeless_code`: the exit code with which it says that starting it again would end the same way.
    """

    name: str
    argv: tuple[str, ...]
    log_path: Path
    env: Mapping[str, str] | None = field(default=None, repr=False)
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 10.0
    hopeless_code: int | None = None


class Child:
    """Keeps one program running until told to stop."""

    def __init__(self, spec: ChildSpec, report: Callable[[str], None]) -> None:
        self.spec = spec
        self._report = report
        self._process: asyncio.subprocess.Process | None = None
        self._is_stopping = False

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def keep_running(self) -> None:
        """Start, and start again with growing pauses, until `stop`. Raises `GaveUp` when that is pointless."""
        failures = 0
        while True:
            started_s = time.monotonic()
            code = await self._run_once()
            if self._has_been_told_to_stop():
                return
            if code == self.spec.hopeless_code:
                raise GaveUp(f"{self.spec.name} cannot start: {_last_line(self.spec.log_path)}")
            failures = 0 if time.monotonic() - started_s > _HEALTHY_AFTER_S else failures + 1
            pause_s = _BACKOFF_S[min(failures - 1, len(_BACKOFF_S) - 1)] if failures else 0.0
            self._report(
                f"{self.spec.name} ended ({_exit_words(code)}); starting it again"
                + (f" in {pause_s:g} s" if pause_s else "")
                + f"; its log: {self.spec.log_path}"
            )
            await asyncio.sleep(pause_s)
            if self._has_been_told_to_stop():
                return

    async def stop(self) -> None:
        """Ask it to end, then make it."""
        self._is_stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self.spec.stop_signal)
        try:
            await asyncio.wait_for(process.wait(), self.spec.stop_grace_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _has_been_told_to_stop(self) -> bool:
        return self._is_stopping

    async def _run_once(self) -> int:
        rotate_before_start(self.spec.log_path)
        with self.spec.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.spec.env,
                start_new_session=True,  # Ctrl-C goes to the supervisor alone, which ends its children in order
                preexec_fn=_end_with_parent,
            )
        return await self._process.wait()


def _end_with_parent() -> None:
    """Linux: the kernel ends this child when the supervisor dies, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _last_line(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").splitlines()
    return lines[-1] if lines else f"see {log_path}"


def _exit_words(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def processes_of_run(run_id: str, proc: Path = Path("/proc")) -> list[int]:
    """The ids of all processes of this user that belong to a run, the caller excepted."""
    marker = f"{RUN_VARIABLE}={run_id}".encode()
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if marker in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


async def sweep(run_id: str, grace_s: float = 2.0) -> list[int]:
    """End every process that a run left behind: SIGTERM, then SIGKILL. Returns the ids it found."""
    left = await asyncio.to_thread(processes_of_run, run_id)
    found = list(left)
    for stop_signal, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 2.0)):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, stop_signal)
        give_up_s = time.monotonic() + patience_s
        while left and time.monotonic() < give_up_s:
            await asyncio.sleep(0.05)
            left = await asyncio.to_thread(processes_of_run, run_id)
        if not left:
            break
    return found
