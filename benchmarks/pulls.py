"""How fast a model is pulled over loopback into the cache, hashing and writing included, and in how much memory.

    python -m benchmarks.pulls [--megabytes 2000] [--breaks-every-mb 0] [--folder DIR]

The server is a process of its own that sends zeros from memory, with Range; the client here is a plain socket, so what
is measured is the cache and not an HTTP library. `--breaks-every-mb 0.5`: the server closes after so much.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from adapters.model_cache import ModelCache
from router.domain.model_ref import ModelRef
from router.models.ports import Download, RemoteFile, Resolution, SourceUnavailable
from router.models.progress import PullProgress

_CHUNK_BYTES = 256 * 1024


def serve(listener: socket.socket, size: int, breaks_after: int) -> None:
    """Answers a line with an offset by the bytes from there on."""
    zeros = memoryview(bytes(_CHUNK_BYTES))
    while True:
        connection, _ = listener.accept()
        with connection:
            offset = int(connection.makefile().readline())
            end = min(size, offset + breaks_after) if breaks_after else size
            for at in range(offset, end, _CHUNK_BYTES):
                connection.sendall(zeros[: min(_CHUNK_BYTES, end - at)])


async def pull(address: tuple[str, int], size: int, folder: Path) -> tuple[float, int]:
    """Seconds, and how many connections it took."""
    connections = 0

    @asynccontextmanager
    async def read(file: RemoteFile, offset: int) -> AsyncIterator[Download]:
        nonlocal connections
        connections += 1
        reader, writer = await asyncio.open_connection(*address, limit=_CHUNK_BYTES)
        writer.write(b"%d\n" % offset)

        async def chunks() -> AsyncIterator[bytes]:
            received = offset
            while chunk := await reader.read(_CHUNK_BYTES):
                received += len(chunk)
                yield chunk
            if received < size:
                raise SourceUnavailable("closed")

        try:
            yield Download(offset, chunks())
        finally:
            writer.close()

    ref = ModelRef("https", "loopback/model.onnx")
    resolution = Resolution(ref, str(ref), "1", (RemoteFile("model.onnx", size, "", "m"),))
    started_s = time.perf_counter()
    await ModelCache(folder / "models").fetch(resolution, read, PullProgress(time.monotonic))
    return time.perf_counter() - started_s, connections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=2000)
    parser.add_argument("--breaks-every-mb", type=float, default=0)
    parser.add_argument("--folder", type=Path, help="where to write: a disk or a memory file system")
    asked = parser.parse_args()
    size = int(asked.megabytes * 1e6)
    listener = socket.create_server(("127.0.0.1", 0))
    server = multiprocessing.get_context("fork").Process(
        target=serve, args=(listener, size, int(asked.breaks_every_mb * 1e6)), daemon=True
    )
    server.start()
    folder = Path(tempfile.mkdtemp(prefix="crossfade-pulls-", dir=asked.folder))
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    try:
        took_s, connections = asyncio.run(pull(listener.getsockname(), size, folder))
    finally:
        server.terminate()
        server.join()
        for path in (folder / "models" / "trees").rglob("*"):
            os.chmod(path, 0o700)
        shutil.rmtree(folder)
    grown_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb
    rate = f"{asked.megabytes / took_s:.0f} MB/s ({asked.megabytes:.0f} MB in {took_s:.2f} s)"
    print(f"{rate}, {connections} connections, peak memory {grown_mb:.0f} MB above the {before_mb:.0f} MB at rest")


if __name__ == "__main__":
    main()
