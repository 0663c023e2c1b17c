"""Models in OCI registries: `oci://host/repository:tag`, or `@sha256:…`. Implements `router.models.ports.Source`.

What a manifest means is decided in `oci_manifest`, who asks in `oci_access`; layers that are archives go through
`oci_layers`. A tag is looked at once; from then on everything is named by digest, so nothing can change underneath.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import platform
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple
from pathlib import Path
from typing import BinaryIO

from adapters.registries.docker_credentials import DockerCredentials
from adapters.registries.oci_access import RegistryAccess, check
from adapters.registries.oci_blob import Fetch
from adapters.registries.oci_layers import LayerSpool
from adapters.registries.oci_manifest import (
    ACCEPT,
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    Artifact,
    Blob,
    Image,
    Index,
    Loose,
    Packed,
    chosen,
    described,
)
from adapters.registries.oci_manifest import parsed as parsed_manifest
from adapters.registries.oci_overlay import Change, Put, overlaid
from adapters.registries.oci_reference import OciReference, checked
from adapters.registries.oci_reference import parsed as parsed_reference
from adapters.registries.tar_members import Compression
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_ref import ModelRef
from router.domain.model_tree import check_names
from router.models.onlookers import onlooker
from router.models.ports import Download, RemoteFile, Resolution, SourceLimits, SourceUnavailable, Transport
from router.models.settings import RegistrySettings

_CHUNK = 1024 * 1024
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}  # as Go, and so OCI, calls them

# What people look for → where the image specification and ModelPack have it.
_WORDS = {
    "org.opencontainers.image.created": "created",
    "org.opencontainers.image.authors": "author",
    "org.opencontainers.image.licenses": "licence",
    "org.opencontainers.image.source": "source",
    "org.opencontainers.image.revision": "source_revision",
    "org.opencontainers.image.version": "version",
    "createdAt": "created",
    "authors": "author",
    "licenses": "licence",
    "sourceURL": "source",
    "revision": "source_revision",
}


class OciModels:
    """`spool`: a folder of this machine for archives. Belongs to one event loop."""

    def __init__(
        self, transport: Transport, settings: RegistrySettings, docker: DockerCredentials, spool: Path
    ) -> None:
        self._access = RegistryAccess(transport, settings, docker)
        self._limits = settings.limits
        self._spool = LayerSpool(spool, settings.limits)
        self._unread: dict[Packed, set[str]] = {}

    async def resolve(self, ref: ModelRef) -> Resolution:
        reference, where = parsed_reference(ref), str(ref)
        top, body, content_type = await self._manifest(reference, reference.target)
        document = parsed_manifest(body, content_type, where, self._limits)
        if isinstance(document, Index):
            entry = chosen(document, _platform(), where)
            _, body, content_type = await self._manifest(reference, f"sha256:{entry.digest}")
            document = parsed_manifest(body, content_type, where, self._limits)
        match document:
            case Index():
                raise ModelUnavailable(f"{where}: its index lists another index: give the digest of the model itself")
            case Image():
                files = await self._image_files(reference, document, where)
            case Artifact():
                files = await self._artifact_files(reference, document, where)
        lineage = dict(document.annotations)
        if isinstance(document, Artifact) and document.config is not None:
            lineage = await self._described(reference, document.config, where) | lineage
        lineage = {_WORDS.get(key, key): value for key, value in lineage.items()}
        version = lineage.get("version") or (reference.tag if reference.tag != "latest" else "")
        return Resolution(ref, reference.pinned(top), top, files, version, lineage)

    @asynccontextmanager
    async def read(self, resolution: Resolution, file: RemoteFile, offset: int) -> AsyncIterator[Download]:
        reference = parsed_reference(ModelRef.parse(resolution.pinned))
        if not file.locator:
            async with self._access.stream(reference, file.sha256, offset) as download:
                yield download
            return
        layer, number = _located(file.locator)
        where = str(resolution.ref)
        path = await self._spool.file(layer, number, file.size, self._fetch(reference, layer), where)
        try:
            opened = await asyncio.to_thread(path.open, "rb")
        except FileNotFoundError:
            raise SourceUnavailable(f"{where}: {file.path} was taken away by another process") from None
        with opened:
            opened.seek(offset)
            yield Download(offset, _chunks(opened), str(path))
            is_read = not path.exists() or not opened.read(1)
        if is_read:
            await self._was_read(layer, file.path)

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        reference = parsed_reference(ref)
        if reference.digest:
            return False
        # Registries take the digest for the ETag; who does not still answers with the present one.
        headers = {"accept": ACCEPT, "if-none-match": f'"sha256:{revision}"'}
        reply = await self._access.request("HEAD", reference, f"manifests/{reference.target}", headers)
        check(reply, reference)
        if reply.status == 304:
            return False
        if said := reply.headers.get("docker-content-digest"):
            return checked(said, str(ref)) != revision
        digest, _, _ = await self._manifest(reference, reference.target)
        return digest != revision

    async def _manifest(self, reference: OciReference, target: str) -> tuple[str, bytes, str]:
        """Its digest, which was compared with all that was said about it, its bytes, and the type they came with."""
        path = f"manifests/{target}"
        reply = await self._access.request("GET", reference, path, {"accept": ACCEPT}, MAX_MANIFEST_BYTES)
        check(reply, reference)
        digest = hashlib.sha256(reply.body).hexdigest()
        said = reply.headers.get("docker-content-digest", "")
        for expected in (said, target):
            if expected.startswith("sha256:") and expected != f"sha256:{digest}":
                raise ModelUnavailable(
                    f"{reference.host}/{reference.repository}: the manifest is not what was asked for: "
                    f"sha256:{digest[:12]}… came for {expected[:19]}…"
                )
        return digest, reply.body, reply.headers.get("content-type", "")

    async def _described(self, reference: OciReference, config: Blob, where: str) -> dict[str, str]:
        path = f"blobs/sha256:{config.digest}"
        reply = await self._access.request("GET", reference, path, max_bytes=MAX_CONFIG_BYTES)
        check(reply, reference)
        if hashlib.sha256(reply.body).hexdigest() != config.digest:
            raise ModelUnavailable(f"{where}: the model's configuration is not what its digest says")
        return described(reply.body, where)

    async def _artifact_files(self, reference: OciReference, artifact: Artifact, where: str) -> tuple[RemoteFile, ...]:
        files: list[RemoteFile] = []
        _tell_of(layer for layer in artifact.layers if isinstance(layer, Packed))
        for layer in artifact.layers:
            match layer:
                case Loose(path, blob):
                    files.append(RemoteFile(path, blob.size, blob.digest, ""))
                case Packed():
                    changes = await self._spool.changes(layer, self._fetch(reference, layer), where)
                    unpacked = [_remote(put, layer, number) for number, put in _numbered(changes)]
                    self._unread[layer] = {file.path for file in unpacked}
                    files += unpacked
        return await self._checked(files, artifact.layers, where)

    async def _image_files(self, reference: OciReference, image: Image, where: str) -> tuple[RemoteFile, ...]:
        _tell_of(image.layers)
        changes = [await self._spool.changes(layer, self._fetch(reference, layer), where) for layer in image.layers]
        numbers = [{put.path: number for number, put in _numbered(those)} for those in changes]
        found = overlaid(changes).values()
        files = [_remote(put, image.layers[layer], numbers[layer][put.path]) for layer, put in found]
        for at, layer in enumerate(image.layers):
            self._unread[layer] = {put.path for number, put in found if number == at}
            if not self._unread[layer]:
                await self._spool.drop_files(layer)
        if not files:
            raise ModelUnavailable(f"{where}: the image has no files below /models")
        return await self._checked(files, image.layers, where)

    async def _checked(
        self, files: list[RemoteFile], layers: Sequence[Loose | Packed], where: str
    ) -> tuple[RemoteFile, ...]:
        """The files by path. Raises `ModelUnavailable`, and then nothing of the layers stays in the spool."""
        if complaint := _complaint(files, self._limits):
            for layer in layers:
                if isinstance(layer, Packed):
                    await self._spool.drop_files(layer)
            raise ModelUnavailable(f"{where}: {complaint}")
        return tuple(sorted(files, key=lambda file: file.path))

    def _fetch(self, reference: OciReference, layer: Packed) -> Fetch:
        return lambda offset: self._access.stream(reference, layer.blob.digest, offset)

    async def _was_read(self, layer: Packed, path: str) -> None:
        unread = self._unread.get(layer, set())
        unread.discard(path)
        if not unread and self._unread.pop(layer, None) is not None:
            await self._spool.drop_files(layer)


def _tell_of(layers: Iterable[Packed]) -> None:
    """Whoever looks on sees the layers come, as long as they are; their files are counted later, when they are read."""
    if sizes := [layer.blob.size for layer in layers]:
        onlooker().expects(sum(sizes))


def _complaint(files: Sequence[RemoteFile], limits: SourceLimits) -> str:
    total = sum(file.size for file in files)
    if len(files) > limits.max_files or total > limits.max_bytes:
        return f"has {len(files)} files with {total} bytes, more than may be fetched"
    try:
        check_names(file.path for file in files)
    except Invalid as error:
        return str(error)
    return ""


def _numbered(changes: Sequence[Change]) -> list[tuple[int, Put]]:
    return list(enumerate(change for change in changes if isinstance(change, Put)))


def _remote(put: Put, layer: Packed, number: int) -> RemoteFile:
    locator = json.dumps([*astuple(layer.blob), layer.compression, layer.root, layer.is_overlay, number])
    return RemoteFile(put.path, put.size, put.sha256, locator, is_spooled=True)


def _located(locator: str) -> tuple[Packed, int]:
    """The layer, and which of its files."""
    digest, size, compression, root, is_overlay, number = json.loads(locator)
    return Packed(Blob(digest, size), Compression(compression), root, is_overlay), number


def _platform() -> str:
    machine = platform.machine()
    return f"linux/{_MACHINES.get(machine, machine)}"


async def _chunks(opened: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(opened.read, _CHUNK):
        yield chunk
