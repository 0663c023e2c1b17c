"""Models in object stores: `s3://`, `gs://`, `az://`, `abfss://`; one object, or a folder of them.

Implements `router.models.ports.Source`. A store's ETag is no digest of the content that anybody could check: it only
tells whether an object is still the same one. Every read asks for that one, and looks at what came.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from typing import Any

from adapters.registries.cloud_reference import CloudReference, parsed, pinned
from adapters.registries.cloud_stores import CloudStores, NoSuchObject, translated
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_ref import ModelRef
from router.domain.model_tree import check_names, checked_path
from router.models.ports import Download, RemoteFile, Resolution, SourceUnavailable, Transport
from router.models.settings import RegistrySettings

# What obstore holds when the link breaks is lost: with 2 MB, one that breaks sooner would never bring anything.
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Object:
    """`etag` in quotes, as If-Match wants it. `version`: "" where the store keeps none. `modified`: ISO 8601."""

    key: str
    size: int
    etag: str
    version: str
    modified: str

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> _Object:
        etag, version = meta["e_tag"] or "", meta["version"] or ""
        if not etag.startswith("W/"):
            etag = f'"{etag.strip(chr(34))}"'  # listings of some stores leave the quotes out
        return cls(
            meta["path"], meta["size"], etag, "" if version == "null" else version, meta["last_modified"].isoformat()
        )


class CloudModels:
    def __init__(self, transport: Transport, settings: RegistrySettings) -> None:
        self._stores = CloudStores(transport, settings)
        self._limits = settings.limits

    async def resolve(self, ref: ModelRef) -> Resolution:
        reference = parsed(ref)
        if not reference.is_folder and (found := await self._object(reference, str(ref))) is not None:
            if reference.etag and reference.etag != _bare(found.etag):
                raise ModelUnavailable(f"{ref}: is another one now, and the store keeps no old versions")
            place = pinned(ref, reference, version=found.version, etag=_bare(found.etag))
            file = _remote(found.key.rpartition("/")[2], found, str(ref))
            return Resolution(ref, place, found.version or found.etag, (file,), lineage={"created": found.modified})
        objects = await self._below(reference, str(ref))
        if not objects:
            raise ModelUnavailable(f"{ref}: there is no such object, and none below it")
        listing = _listing(objects)
        if reference.listing and reference.listing != listing:
            raise ModelUnavailable(f"{ref}: has other objects now")
        files = tuple(_remote(path, found, str(ref)) for path, found in sorted(objects.items()))
        try:
            check_names(file.path for file in files)
        except Invalid as error:
            raise ModelUnavailable(f"{ref}: {error}") from None
        return Resolution(ref, pinned(ref, reference, listing=listing), listing, files)

    @asynccontextmanager
    async def read(self, resolution: Resolution, file: RemoteFile, offset: int) -> AsyncIterator[Download]:
        reference = parsed(resolution.ref)
        what = f"{reference.provider}://{reference.bucket}/{file.path}"
        wanted = _Object(*json.loads(file.locator))
        options: dict[str, Any] = {}
        if not wanted.etag.startswith("W/"):
            options["if_match"] = wanted.etag
        if wanted.version:
            options["version"] = wanted.version
        if offset:
            options["range"] = {"offset": offset}
        try:
            answer = await self._stores.get(reference, wanted.key, options, what)
        except NoSuchObject as error:
            raise SourceUnavailable(f"{error}: it was there when the model was resolved") from None
        found = _Object.of(answer.meta)
        # Not every store heeds If-Match.
        if (found.etag, found.size) != (wanted.etag, wanted.size) or answer.range[0] != offset:
            raise SourceUnavailable(f"{what}: is another one now: resolve the model again")
        yield Download(offset, _chunks(answer, what))

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        reference = parsed(ref)
        if reference.is_pinned:
            return False
        if not reference.is_folder and (found := await self._object(reference, str(ref))) is not None:
            return (found.version or found.etag) != revision
        return _listing(await self._below(reference, str(ref))) != revision

    async def _object(self, reference: CloudReference, what: str) -> _Object | None:
        """None when there is none of exactly this name."""
        options = {"head": True} | ({"version": reference.version} if reference.version else {})
        try:
            return _Object.of((await self._stores.get(reference, reference.key, options, what)).meta)
        except NoSuchObject:
            if reference.is_pinned:
                raise
            return None

    async def _below(self, reference: CloudReference, what: str) -> dict[str, _Object]:
        """Path inside the folder → object. Raises `ModelUnavailable` for more than a model may have."""
        prefix = f"{reference.key}/" if reference.key else ""
        objects: dict[str, _Object] = {}
        # A folder that some consoles make is an empty object with its name, which is one more.
        for meta in await self._stores.listed(reference, prefix, self._limits.max_files + 1, what):
            found = _Object.of(meta)
            if found.key.startswith(prefix) and found.key != prefix:
                objects[found.key.removeprefix(prefix)] = found
        if len(objects) > self._limits.max_files:
            raise ModelUnavailable(f"{what}: has more than {self._limits.max_files} objects")
        total = sum(found.size for found in objects.values())
        if total > self._limits.max_bytes:
            raise ModelUnavailable(f"{what}: has {total} bytes; {self._limits.max_bytes} are the most")
        return objects


def _remote(path: str, found: _Object, where: str) -> RemoteFile:
    try:
        checked_path(path)
    except Invalid as error:
        raise ModelUnavailable(f"{where}: {error}") from None
    locator = json.dumps(list(astuple(found)))
    return RemoteFile(path, found.size, "", locator)


def _listing(objects: Mapping[str, _Object]) -> str:
    lines = (f"{path}\0{found.size}\0{found.etag}\n" for path, found in sorted(objects.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _bare(etag: str) -> str:
    return etag.strip('"')


async def _chunks(answer: Any, what: str) -> AsyncIterator[bytes]:
    with translated(what):
        async for chunk in answer.stream(min_chunk_size=_CHUNK_BYTES):
            yield bytes(chunk)
