"""Starts a Triton as a replica does, prints the ids of the processes, and waits to be killed:

python -m tests.triton.orphan PROGRAM FOLDER MODEL
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psutil

from tests.triton.managed import deployed_model, managed_triton


async def main() -> None:
    program, folder, model = map(Path, sys.argv[1:])
    async with managed_triton(program, folder, deployed_model(model)):
        print(*(child.pid for child in psutil.Process(os.getpid()).children(recursive=True)), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
