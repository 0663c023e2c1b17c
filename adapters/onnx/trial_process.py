"""Starts the trial's process, listens to it, and ends it: its time, its output and its secrets are bounded here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from adapters.onnx.trial_words import MAX_LINE_BYTES, MAX_LINES, Entered, Garbled, job_line, read_line
from router.models.ports import AdmissionRefused
from router.models.trial import Check, Finding, Ran, TrialJob

_LAST_WORDS_BYTES = 4096
# ONNX Runtime 1.31 tells its makers what it runs.
_ALWAYS = {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT")  # what a program needs to start; no secret
_DOING = {
    Check.GRAPH: "being looked through",
    Check.RUNTIME: "loading",
    Check.GOLDEN: "answering a golden request",
    Check.WARM_UP: "answering its first request",
}


class TrialProcess:
    """Implements `Trial`, with ONNX Runtime on the CPU."""

    @contextlib.asynccontextmanager
    async def begin(self, job: TrialJob) -> AsyncIterator[AsyncIterator[Finding]]:
        job = replace(job, limits=replace(job.limits, memory_bytes=_memory(job)))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",  # no PYTHON* variables, no folder of the user's
            "-B",
            "-m",
            "adapters.onnx.trial",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _ALWAYS,
            cwd="/",
            limit=MAX_LINE_BYTES,
            start_new_session=True,
        )
        complaints = asyncio.create_task(_end_of(process.stderr))
        try:
            yield _findings(job, process, complaints)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            complaints.cancel()
            await process.wait()


async def _findings(
    job: TrialJob, process: asyncio.subprocess.Process, complaints: asyncio.Task[str]
) -> AsyncIterator[Finding]:
    """Raises `AdmissionRefused`."""
    assert process.stdin is not None
    assert process.stdout is not None
    wall_s = job.limits.wall_for(job.model_bytes)
    ends = asyncio.get_running_loop().time() + wall_s
    doing = Entered(Check.GRAPH)
    process.stdin.write(job_line(job))
    process.stdin.close()  # when it has read everything
    for _ in range(MAX_LINES):
        try:
            async with asyncio.timeout_at(ends):
                line = await process.stdout.readline()
                if not line:
                    code = await process.wait()
                    raise ended(job, doing, code, await complaints)
            said = read_line(line)
        except TimeoutError:
            raise AdmissionRefused(
                Check.TIME,
                f"the model was still {_told(doing)} after {wall_s:.0f} s",
                "serve a model that answers; look for a loop that does not end",
            ) from None
        except (Garbled, ValueError) as error:
            raise AdmissionRefused(
                Check.RUNTIME, f"the trial's process said what it cannot say ({error})", "do not trust this model"
            ) from None
        match said:
            case AdmissionRefused():
                raise said
            case Entered():
                doing = said
            case _:
                yield said
                if isinstance(said, Ran):
                    return
    raise AdmissionRefused(
        Check.RUNTIME, f"the trial's process said more than {MAX_LINES} lines", "publish fewer graphs"
    )


def ended(job: TrialJob, doing: Entered, code: int, complaint: str) -> AdmissionRefused:
    """What it means that the process is gone without a verdict."""
    if code == -signal.SIGXCPU:
        seconds = job.limits.cpu_for(job.model_bytes)
        return AdmissionRefused(
            Check.TIME,
            f"the model used {seconds} s of processor time while {_told(doing)}",
            "serve a model that answers; look for a loop that does not end",
        )
    if code == -signal.SIGKILL:
        return AdmissionRefused(
            Check.MEMORY, f"the machine ran out of memory while the model was {_told(doing)}", "serve a smaller model"
        )
    if code < 0:
        name = signal.Signals(-code).name
        return AdmissionRefused(
            doing.check, f"the model crashed its process ({name}) while {_told(doing)}", "do not trust this model"
        )
    return AdmissionRefused(
        doing.check,
        f"the trial's process ended with code {code} while {_told(doing)}{f': {complaint}' if complaint else ''}",
        "see whether crossfade doctor finds something",
    )


def _told(doing: Entered) -> str:
    return _DOING[doing.check] + (f" ({doing.what})" if doing.what else "")


async def _end_of(stream: asyncio.StreamReader | None) -> str:
    """The last line of what a process complained of; all of it is read, so that it never waits for a reader."""
    assert stream is not None
    read = b""
    while chunk := await stream.read(_LAST_WORDS_BYTES):
        read = (read + chunk)[-_LAST_WORDS_BYTES:]
    lines = read.decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:300] if lines else ""


def _memory(job: TrialJob) -> int:
    """What is allowed before the model's own size counts: in all, no more than the machine has to give.

    The model's files may be mapped on top of that: such memory is the file's, and the system takes it back.
    """
    limits, available = job.limits, _available_bytes()
    if not available:
        return limits.memory_bytes
    return limits.memory_bytes - max(0, limits.memory_for(job.model_bytes) - available - job.model_bytes)


def _available_bytes() -> int:
    """0 where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
