"""A layer that comes in pieces, and what was left of an earlier attempt: whole, intact, or spoiled by a power cut."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from adapters.registries.oci_layers import LayerSpool
from adapters.registries.oci_manifest import Blob, Packed
from adapters.registries.oci_overlay import Put, Remove
from adapters.registries.tar_members import Compression
from router.models.ports import Download, SourceLimits
from tests.registries.oci.archives import compressed, tar_of

CHANCE = random.Random(11)
FILES = {
    "models/weights.bin": CHANCE.randbytes(70_000),
    "usr/lib/libc.so": CHANCE.randbytes(30_000),
    "models/.wh.old": b"",
    "models/empty": b"",
    "models/deep/er/model.onnx": CHANCE.randbytes(20_001),
    "models/same": CHANCE.randbytes(512),
}
EXPECTED = [
    Remove(path.removeprefix("models/.wh.")) if ".wh." in path else path.removeprefix("models/")
    for path in FILES
    if path.startswith("models/")
]


@dataclass
class Line:
    """A connection that brings the bytes of `content` up to `ends_at`, in bits, and then nothing more.

    `silent` is set when it has come to that.
    """

    content: bytes
    ends_at: int = 10**9
    offsets: list[int] = field(default_factory=list)
    silent: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def fetch(self, offset: int) -> AsyncIterator[Download]:
        self.offsets.append(offset)
        yield Download(offset, self._chunks(offset))

    async def _chunks(self, offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, min(self.ends_at, len(self.content)), 5000):
            yield self.content[at : min(at + 5000, self.ends_at)]
        if self.ends_at < len(self.content):
            self.silent.set()
            await asyncio.Event().wait()


@pytest.fixture(params=Compression)
def layer(request: pytest.FixtureRequest) -> tuple[Packed, bytes]:
    content = compressed(request.param, tar_of(FILES))
    digest = hashlib.sha256(content).hexdigest()
    return Packed(Blob(digest, len(content)), request.param, root="models", is_overlay=True), content


def spool_in(folder: Path) -> LayerSpool:
    return LayerSpool(folder / "spool", SourceLimits())


async def stopped_at(folder: Path, packed: Packed, content: bytes, ends_at: int) -> Line:
    """An attempt that gets so far."""
    line = Line(content, ends_at)
    trying = asyncio.create_task(spool_in(folder).changes(packed, line.fetch, "m"))
    await asyncio.wait_for(line.silent.wait(), 30)
    trying.cancel()
    await asyncio.wait({trying})
    return line


async def check_whole(folder: Path, packed: Packed, line: Line) -> None:
    changes = await spool_in(folder).changes(packed, line.fetch, "m")
    assert [change.path if isinstance(change, Put) else change for change in changes] == EXPECTED
    puts = [change for change in changes if isinstance(change, Put)]
    for number, put in enumerate(puts):
        content = FILES[f"models/{put.path}"]
        path = await spool_in(folder).file(packed, number, put.size, line.fetch, "m")
        assert path.read_bytes() == content
        assert (put.size, put.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def kept_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]


async def test_wherever_it_was_stopped_it_goes_on_there(tmp_path: Path, layer: tuple[Packed, bytes]) -> None:
    packed, content = layer
    # In the first header, after it, within a file, at a file's end, in what is no file of the model, in the padding.
    stops = sorted({1, 511, 512, 513, 70_512, 70_600, 80_000, *CHANCE.sample(range(len(content)), 20)})
    for number, stop in enumerate(stops):
        line = await stopped_at(tmp_path, packed, content, stop)
        assert line.offsets == [stops[number - 1] if number else 0]
    line = Line(content)
    await check_whole(tmp_path, packed, line)
    assert line.offsets == [stops[-1]]


async def test_every_byte_of_a_plain_layer_is_written_once(tmp_path: Path) -> None:
    content = tar_of(FILES)
    blob = Blob(hashlib.sha256(content).hexdigest(), len(content))
    packed = Packed(blob, Compression.NONE, root="models", is_overlay=True)
    await stopped_at(tmp_path, packed, content, 100_000)
    assert sum(path.stat().st_size for path in kept_in(tmp_path)) == 100_000


@pytest.mark.parametrize("how", ["cut short", "other bytes", "gone", "zeros"])
async def test_what_a_power_cut_spoiled_is_fetched_again(tmp_path: Path, layer: tuple[Packed, bytes], how: str) -> None:
    packed, content = layer
    for attempt in range(8):
        folder = tmp_path / str(attempt)
        await stopped_at(folder, packed, content, len(content) - 100)
        left = [path for path in kept_in(folder) if path.stat().st_size]
        path = left[attempt % len(left)]
        was = path.read_bytes()
        at = CHANCE.randrange(len(was))
        match how:
            case "cut short":
                path.write_bytes(was[:at])
            case "other bytes":
                path.write_bytes(was[:at] + bytes([was[at] ^ 1]) + was[at + 1 :])
            case "gone":
                path.unlink()
            case "zeros":
                path.write_bytes(bytes(len(was)))
        await check_whole(folder, packed, Line(content))


async def test_files_that_were_taken_away_come_back_beside_those_that_are_still_open(
    tmp_path: Path, layer: tuple[Packed, bytes]
) -> None:
    packed, content = layer
    line = Line(content)
    await check_whole(tmp_path, packed, line)
    files = {path.name: path for path in kept_in(tmp_path) if path.parent.name == "files"}
    with files["0"].open("rb") as reader:
        files["2"].rename(tmp_path / "taken")
        await check_whole(tmp_path, packed, line)
        assert reader.read() == FILES["models/weights.bin"]
    assert (tmp_path / "taken").read_bytes() == FILES["models/deep/er/model.onnx"]
    assert line.offsets == [0, 0]
