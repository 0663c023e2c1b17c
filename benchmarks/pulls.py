"""How fast a model is pulled over loopback into the cache, hashing and writing included: with how much CPU and memory.

    python -m benchmarks.pulls [--megabytes 1500] [--breaks-every-mb 0] [--folder DIR] [--source url]

Everything is the gateway's own: transport, sources, cache. The server is a process of its own, and cheap. Each kind of
source is measured in a process of its own, from the first question to the model in the cache. Where other programs
have the processors too, CPU seconds for each GB tell more than MB/s. `--breaks-every-mb 0.5`: the server closes after
so much of every answer.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from adapters.http_registry import HttpModels
from adapters.model_cache import ModelCache
from adapters.registries.docker_credentials import DockerCredentials
from adapters.registries.oci import OciModels
from adapters.registries.tar_members import zstd
from adapters.transport import HttpTransport
from benchmarks.blob_server import Page, Piece, serving
from router.domain.model_ref import ModelRef
from router.models.ports import Source
from router.models.progress import PullProgress
from router.models.settings import Host, RegistrySettings

_BLOCK_BYTES = 16 * 1000 * 1000
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one pull. `rest_mb`: the process before it."""

    seconds: float
    cpu_s: float
    grown_mb: float
    rest_mb: float


class Blobs:
    """What the server has. A model is one block of random bytes, again and again."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._block = os.urandom(_BLOCK_BYTES)
        self._counts = (size // _BLOCK_BYTES, size % _BLOCK_BYTES)
        self.pages: dict[str, Page] = {}

    def model(self, packed: Callable[[bytes], bytes] = bytes) -> list[Piece]:
        count, rest = self._counts
        return [self.piece(packed(self._block))] * count + ([self.piece(packed(self._block[:rest]))] if rest else [])

    def piece(self, content: bytes) -> Piece:
        descriptor, name = tempfile.mkstemp(dir=self._folder)
        os.unlink(name)
        os.write(descriptor, content)
        return Piece(descriptor, len(content))

    def page(self, path: str, pieces: Sequence[Piece], content_type: str = "application/octet-stream") -> Page:
        self.pages[path] = made = Page(tuple(pieces), content_type)
        return made

    def blob(self, repository: str, pieces: Sequence[Piece], media_type: str) -> dict[str, object]:
        """Its descriptor."""
        digest = _sha256(pieces)
        page = self.page(f"/v2/{repository}/blobs/sha256:{digest}", pieces)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": page.size}

    def manifest(self, repository: str, config_type: str, layer: dict[str, object]) -> None:
        config = self.blob(repository, [self.piece(b"{}")], config_type)
        document = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": [layer]}
        self.page(f"/v2/{repository}/manifests/1", [self.piece(json.dumps(document).encode())], _MANIFEST)


def _sha256(pieces: Sequence[Piece]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(os.pread(piece.descriptor, piece.length, 0))
    return digest.hexdigest()


def url(blobs: Blobs) -> str:
    """A file at a plain URL."""
    pieces = blobs.model()
    blobs.page("/model.onnx", pieces)
    return f"http://{{host}}/model.onnx#sha256={_sha256(pieces)}"


def oci(blobs: Blobs) -> str:
    """An artifact whose layer is the file."""
    layer = blobs.blob("plain", blobs.model(), "application/octet-stream")
    layer["annotations"] = {"org.opencontainers.image.title": "model.onnx"}
    blobs.manifest("plain", "application/vnd.oci.empty.v1+json", layer)
    return "oci://{host}/plain:1"


def image(blobs: Blobs, packed: Callable[[bytes], bytes] = bytes, suffix: str = "") -> str:
    """A modelcar: an image with the file in a layer that is a tar archive."""
    pieces = blobs.model()
    size = sum(piece.length for piece in pieces)
    member = tarfile.TarInfo("models/model.onnx")
    member.size = size
    end = bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)
    layer = [blobs.piece(packed(member.tobuf())), *blobs.model(packed), blobs.piece(packed(end))]
    described = blobs.blob("car", layer, f"application/vnd.oci.image.layer.v1.tar{suffix}")
    blobs.manifest("car", "application/vnd.oci.image.config.v1+json", described)
    return "oci://{host}/car:1"


def image_gzip(blobs: Blobs) -> str:
    """The same, compressed: members of a gzip file come one after the other (RFC 1952, 2.2)."""
    return image(blobs, lambda content: gzip.compress(content, 1), "+gzip")


def image_zstd(blobs: Blobs) -> str:
    """And by zstd: frames come one after the other (RFC 8878, 3.1)."""
    return image(blobs, zstd.compress, "+zstd")


SOURCES = {"url": url, "oci": oci, "image": image, "image-gzip": image_gzip, "image-zstd": image_zstd}


def measured(reference: str, host: str, folder: Path) -> Measured:
    """In a process of its own, so that its memory is the pull's."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    return uvloop.run(_pulled(ModelRef.parse(reference), host, folder))


async def _pulled(ref: ModelRef, host: str, folder: Path) -> Measured:
    settings = RegistrySettings(hosts={host: Host(is_plain_http=True)})
    transport = HttpTransport(settings)
    source: Source = HttpModels(transport)
    if ref.scheme == "oci":
        source = OciModels(transport, settings, DockerCredentials(folder / "none"), folder / "models" / "spool")
    cache = ModelCache(folder / "models", settings.limits)
    rest, cpu_s, started_s = _peak_mb(), time.process_time(), time.perf_counter()
    resolution = await source.resolve(ref)
    await cache.fetch(
        resolution, lambda file, offset: source.read(resolution, file, offset), PullProgress(time.monotonic)
    )
    took_s, used_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    await transport.close()
    return Measured(took_s, used_s, _peak_mb() - rest, rest)


def _peak_mb() -> float:
    """Of this process. (`ru_maxrss` of a child begins with what its parent had.)"""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    """A folder that goes with all that is in it, models too, which are read-only."""
    folder = Path(tempfile.mkdtemp(prefix="crossfade-pulls-", dir=parent))
    try:
        yield folder
    finally:
        for path in folder.glob("models/trees/**/"):
            path.chmod(0o700)
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", action="append", choices=SOURCES, help="one or more; else all")
    parser.add_argument("--megabytes", type=float, default=1500)
    parser.add_argument("--breaks-every-mb", type=float, default=0)
    parser.add_argument("--folder", type=Path, help="where to write: a disk or a memory file system")
    asked = parser.parse_args()
    print("| source | MB/s | CPU s/GB | memory above rest (MB) |\n|---|---|---|---|")
    for name in asked.source or SOURCES:
        with scratch(asked.folder) as folder:
            blobs = Blobs(folder, int(asked.megabytes * 1e6))
            reference = SOURCES[name](blobs)
            with (
                serving(blobs.pages, int(asked.breaks_every_mb * 1e6)) as host,
                ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
            ):
                it = pool.submit(measured, reference.format(host=host), host, folder).result()
        rate, cpu = asked.megabytes / it.seconds, it.cpu_s / asked.megabytes * 1000
        print(f"| {name} | {rate:.0f} | {cpu:.2f} | {it.grown_mb:.0f} (at rest {it.rest_mb:.0f}) |", flush=True)


if __name__ == "__main__":
    main()
