"""Runs the open-loop generator, in a process of its own, against one URL."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from benchmarks.goodput import Answers
from benchmarks.load import LoadFailed
from benchmarks.open_loop import PATIENCE_S
from benchmarks.payloads import Exchange
from benchmarks.progress import say

ATTEMPTS = 3
_SETTLE_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where an open loop is sent, and what. `folder`: for the generator's files."""

    url: str
    exchange: Exchange
    folder: Path

    def offer(self, schedule_s: np.ndarray) -> Answers:
        """One run. One in which the generator fell behind is thrown away and taken again. Raises `LoadFailed`."""
        for _ in range(ATTEMPTS):
            answers = self._run(schedule_s)
            if answers.kept_schedule:
                return answers
            say(f"  thrown away: the generator was {answers.lateness_p99_s * 1000:.1f} ms late (p99)")
        raise LoadFailed(
            f"{self.url}: the generator could not keep its schedule in {ATTEMPTS} runs: is the machine busy?"
        )

    def settle(self, within_s: float) -> None:
        """Wait until a request alone is answered within `within_s`, because what waits there has been worked off."""
        give_up_s = time.monotonic() + _SETTLE_TIMEOUT_S
        with httpx.Client(timeout=_SETTLE_TIMEOUT_S) as client:
            while time.monotonic() < give_up_s:
                sent_s = time.monotonic()
                with contextlib.suppress(httpx.TransportError):
                    reply = client.post(self.url, content=self.exchange.body, headers=self.exchange.headers)
                    if reply.status_code == 200 and time.monotonic() - sent_s < within_s:
                        return
                time.sleep(0.05)
        raise LoadFailed(f"{self.url}: not back to normal {_SETTLE_TIMEOUT_S:.0f} s after the last load")

    def _run(self, schedule_s: np.ndarray) -> Answers:
        request, schedule = self.folder / "request.bin", self.folder / "schedule.npy"
        output = self.folder / "answers.npz"
        request.write_bytes(_whole_request(httpx.URL(self.url), self.exchange))
        np.save(schedule, schedule_s)
        command = [sys.executable, "-m", "benchmarks.open_loop", f"--port={httpx.URL(self.url).port}"]
        command += [f"--request={request}", f"--schedule={schedule}", f"--output={output}"]
        limit_s = float(schedule_s[-1]) + PATIENCE_S + 30.0
        try:
            subprocess.run(command, check=True, timeout=limit_s, stdin=subprocess.DEVNULL)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise LoadFailed(f"the open-loop generator failed: {error}") from error
        with np.load(output) as saved:
            return Answers(schedule_s, saved["late_s"], saved["latency_s"], saved["status"])


def _whole_request(url: httpx.URL, exchange: Exchange) -> bytes:
    headers = {"Host": f"{url.host}:{url.port}", **exchange.headers, "Content-Length": str(len(exchange.body))}
    lines = [f"POST {url.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + exchange.body
