"""A process that pulls an image is killed at random moments. The next one goes on where it was."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from adapters.model_cache import ModelCache
from tests.registries.http_server import Asked, http_server_in_thread
from tests.registries.oci.archives import IMAGE_TAR, IMAGE_TAR_GZIP, tar_of, zipped
from tests.registries.oci.docker_registry import IMAGE_CONFIG, manifest
from tests.registries.oci.image_puller import pull
from tests.registries.oci.lying_registry import LyingRegistry

ROOT = Path(__file__).parents[3]
PIECE_BYTES = 16 * 1024
KILLS = 8
FILES = {
    "models/model.onnx": random.Random(1).randbytes(4_000_000),
    "usr/lib/libc.so": random.Random(2).randbytes(2_000_000),
    "models/deep/weights": random.Random(3).randbytes(3_000_001),
}


class SlowRegistry(LyingRegistry):
    """Sends blobs piece by piece, and remembers how many bytes of which."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0

    async def behave(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        digest = asked.target.rpartition("/")[2]
        if asked.method != "GET" or digest not in self.blobs:
            await super().behave(asked, writer)
            return
        content = self.blobs[digest]
        span = f"content-range: bytes {asked.offset}-{len(content) - 1}/{len(content)}\r\n" if asked.offset else ""
        status = "206 Partial Content" if asked.offset else "200 OK"
        length = len(content) - asked.offset
        writer.write(f"HTTP/1.1 {status}\r\n{span}content-length: {length}\r\nconnection: close\r\n\r\n".encode())
        for at in range(asked.offset, len(content), PIECE_BYTES):
            writer.write(content[at : at + PIECE_BYTES])
            await writer.drain()
            self.sent += min(PIECE_BYTES, len(content) - at)
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("is_gzip", [False, True])
async def test_who_pulls_an_image_is_killed_again_and_again_and_it_comes_whole_in_the_end(
    tmp_path: Path, is_gzip: bool
) -> None:
    registry, chance = SlowRegistry(), random.Random(7)
    layer = tar_of(FILES)
    content, kind = (zipped(layer), IMAGE_TAR_GZIP) if is_gzip else (layer, IMAGE_TAR)
    config = registry.blob(b"{}", IMAGE_CONFIG)
    described = registry.blob(content, kind)
    registry.tag(manifest(config, [described]))
    with http_server_in_thread(registry.behave) as server:
        await asyncio.to_thread(_killed_until_done, server.host, tmp_path, chance)
        asked = [it.offset for it in server.asked if it.method == "GET" and described["digest"] in it.target]
        sent = registry.sent
        kept = await pull(server.host, tmp_path)
        assert registry.sent == sent  # it was here already
    assert asked == sorted(asked)
    assert len(set(asked)) > 1
    expected = {path.removeprefix("models/"): content for path, content in FILES.items() if path.startswith("models/")}
    assert {file.path: file.sha256 for file in kept.tree.files} == {
        path: hashlib.sha256(content).hexdigest() for path, content in expected.items()
    }
    assert await ModelCache(tmp_path / "models").verify(kept.tree.digest) is not None


def _killed_until_done(host: str, folder: Path, chance: random.Random) -> None:
    """Each is killed when it has written some more, or when it has all and moves it; the last one is left alone."""
    command = [sys.executable, "-m", "tests.registries.oci.image_puller", host, str(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ}
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for kill in range(KILLS + 1):
            enough = _written(folder) + chance.randrange(1_500_000)
            nursery.stdin.write("another\n")
            nursery.stdin.flush()
            pid = int(nursery.stdout.readline())
            if kill < KILLS - 1:
                _await_end_or(pid, partial(_has_written, folder, enough))
            elif kill < KILLS:
                _await_end_or(pid, partial(_is_listed, folder))
            if kill < KILLS:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            code = int(nursery.stdout.readline())
        nursery.stdin.close()
    assert code == 0


def _await_end_or(pid: int, is_so: Callable[[], bool]) -> None:
    while Path(f"/proc/{pid}").exists() and not is_so():
        time.sleep(0.001)


def _has_written(folder: Path, enough: int) -> bool:
    return _written(folder) > enough


def _written(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _is_listed(folder: Path) -> bool:
    return any(folder.rglob("listing.json"))
