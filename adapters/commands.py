"""Programs that print a number: run without a shell, in a process group of their own, for a bounded time and output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from router.domain.policy import CustomMetric
from router.domain.rollout import Rollout
from router.domain.sources import CommandOutput
from router.measuring import NotMeasured, number_of

MAX_OUTPUT_BYTES = 64 * 1024
_CHUNK_BYTES = 4096


class CommandSampler:
    """Implements `Sampler`. Nothing that a program started is left when its time is over."""

    async def sample(self, rollout: Rollout, metric: CustomMetric, source: CommandOutput) -> float:
        names = {
            "CROSSFADE_ENDPOINT": rollout.endpoint,
            "CROSSFADE_CANDIDATE": rollout.candidate,
            "CROSSFADE_STABLE": rollout.stable,
            "CROSSFADE_ROLLOUT": rollout.id,
            "CROSSFADE_METRIC": metric.name,
        }
        program = source.argv[0]
        try:
            process = await asyncio.create_subprocess_exec(
                *source.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **names},
                start_new_session=True,
            )
        except OSError as error:
            raise NotMeasured(f"{program}: {error.strerror or error}") from None
        try:
            output, errors = await _outputs(process)
            code = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if code:
            last = _last_line(errors)
            raise NotMeasured(f"{program} ended with {code}{f': {last}' if last else ''}")
        line = _last_line(output)
        if not line:
            raise NotMeasured(f"{program} printed nothing")
        return number_of(line)


async def _outputs(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """What it printed and what it complained of: the whole output, and the end of the complaints."""
    assert process.stdout is not None
    assert process.stderr is not None
    complaints = asyncio.create_task(_end_of(process.stderr))
    try:
        output = await _all_of(process.stdout)
        return output, await complaints
    finally:
        complaints.cancel()


async def _all_of(stream: asyncio.StreamReader) -> bytes:
    read = b""
    while chunk := await stream.read(_CHUNK_BYTES):
        read += chunk
        if len(read) > MAX_OUTPUT_BYTES:
            raise NotMeasured(f"prints more than {MAX_OUTPUT_BYTES // 1024} KiB")
    return read


async def _end_of(stream: asyncio.StreamReader) -> bytes:
    read = b""
    while chunk := await stream.read(_CHUNK_BYTES):
        read = (read + chunk)[-_CHUNK_BYTES:]
    return read


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else ""
