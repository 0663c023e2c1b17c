"""Programs that inspect servers from outside, in an environment of their own: none of them is part of Crossfade's."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.environments import Environment, ensure

_INSPECTORS = Environment("inspectors", ("sslyze==6.3.1", "schemathesis==4.32.5"))


async def inspect(program: str, *arguments: str, folder: Path) -> tuple[int, str]:
    """Runs `sslyze` or `st` (schemathesis) in `folder`. Returns its exit code, and what it said."""
    environment = await asyncio.to_thread(ensure, _INSPECTORS)
    process = await asyncio.create_subprocess_exec(
        environment.folder / "bin" / program,
        *arguments,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode()
