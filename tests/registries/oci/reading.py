"""What the pipeline does with a source, in short: resolve, read every file, compare with what was promised."""

from __future__ import annotations

import hashlib

from adapters.registries.oci import OciModels
from router.domain.model_ref import ModelRef
from router.models.ports import RemoteFile, Resolution, Source
from router.models.settings import Host

PLAIN = Host(is_plain_http=True)


async def read_file(source: Source, resolution: Resolution, file: RemoteFile, offset: int = 0) -> bytes:
    async with source.read(resolution, file, offset) as download:
        assert download.starts_at == offset
        return b"".join([chunk async for chunk in download.chunks])


async def pulled(source: OciModels, reference: str) -> dict[str, bytes]:
    """Every file, each of the size and the digest that were promised."""
    resolution = await source.resolve(ModelRef.parse(reference))
    files = {}
    for file in resolution.files:
        content = await read_file(source, resolution, file)
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)
        files[file.path] = content
    return files
