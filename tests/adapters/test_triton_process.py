"""What is made of a Triton's answers, and of its end: with a process that is none, and a server that answers for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from adapters.triton.leftovers import memory_name, new_folder, sweep
from adapters.triton.repository import Repository
from adapters.triton.server import TritonPorts, TritonProcess, TritonSettings
from tests.adapters.http_server import HttpServer, plain


@dataclass
class Readiness(HttpServer):
    """Each model is ready, but for those that are `unready`."""

    unready: set[str] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ")[1]
        is_unready = path.split("/")[3] in self.unready
        content = plain({"error": "it is being unloaded"}) if is_unready else b""
        status = 400 if is_unready else 200
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n".encode())
        writer.write(content)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def process_over(folder: Path, url: str = "http://127.0.0.1:1") -> AsyncIterator[TritonProcess]:
    """It only sleeps, as the first of a group of its own."""
    sleeping = await asyncio.create_subprocess_exec(
        "sleep", "600", stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    repository = Repository(folder, "fraud", "onnxruntime", ("scale", "score"))
    settings = TritonSettings(folder, repository, "127.0.0.1", 1, has_gpu=False)
    ports = TritonPorts(urlsplit(url).port or 0, 1, 1)
    process = TritonProcess(settings, ports, memory_name(folder) + "1", sleeping)
    try:
        yield process
    finally:
        await process.end()


async def test_an_ensemble_is_ready_only_when_all_that_it_leads_to_is(tmp_path: Path) -> None:
    answering = Readiness([])
    async with await asyncio.start_server(answering.serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with process_over(tmp_path, url) as process:
            assert await process.why_not_ready() == ""
            answering.unready = {"score"}
            assert await process.why_not_ready() == "Triton says of its part 'score': it is being unloaded"
            answering.unready = {"fraud"}
            assert await process.why_not_ready() == "Triton says of the model: it is being unloaded"


async def test_an_end_that_was_cancelled_is_finished_by_the_next_one(tmp_path: Path) -> None:
    folder = new_folder(str(tmp_path))
    shared = Path("/dev/shm", f"{memory_name(folder)}1-region")
    async with process_over(folder) as process:
        await asyncio.to_thread(shared.write_bytes, b"left")
        ending = asyncio.create_task(process.end())
        await asyncio.sleep(0)  # it has begun, and waits
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
        await process.end()
        assert "SIGKILL" in (await process.ended()).words
        assert not await asyncio.to_thread(shared.exists)


async def test_the_memory_that_a_killed_replicas_triton_shared_goes_with_its_folder(tmp_path: Path) -> None:
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    used = new_folder(str(tmp_path))
    left = used.rename(used.with_name(used.name.replace(str(os.getpid()), str(gone.pid))))
    used = new_folder(str(tmp_path))
    memory = {folder: Path("/dev/shm", f"{memory_name(folder)}0123-region") for folder in (left, used)}
    try:
        for region in memory.values():
            region.write_bytes(b"shared")
        sweep(tmp_path)
        assert (left.exists(), memory[left].exists()) == (False, False)
        assert (used.exists(), memory[used].exists()) == (True, True)
    finally:
        for region in memory.values():
            region.unlink(missing_ok=True)
