"""Models that travel in a file, for networks with no line to any registry: an OCI image layout in a tar.

What comes in is trusted no more than what a registry sends: every blob must have the digest that is its name, every
file those of its manifest, and nothing is seen in the cache before all of it is verified. Where a model came from is
what the file says, and whoever brings it in vouches for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from router.domain.errors import Invalid, ModelUnavailable, NotFound
from router.domain.model_ref import ModelRef
from router.domain.model_tree import TreeFile
from router.domain.provenance import Pulled
from router.models import image_layout, tar_stream
from router.models.cache_ports import Disk, Kept, Stage
from router.models.catalogue import Catalogue
from router.models.image_layout import INDEX_FILE, LAYOUT, LAYOUT_FILE, LayoutModel, Origin
from router.models.ports import Download, RemoteFile, Resolution, SourceLimits
from router.models.pulling import Pulling

_DOCUMENTS_PER_FILE = 3  # blobs that are no files of a model: manifests, configurations, and some to spare


@dataclass(frozen=True, slots=True)
class Archive:
    """`size` in bytes. `chunks` raises `ModelUnavailable` when a model turns out to be damaged."""

    size: int
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Arrived:
    """A model that an archive brought. `ref` and `pinned`: its names here."""

    kept: Kept
    ref: str
    pinned: str


class Transfer:
    """Belongs to one event loop."""

    def __init__(self, pulling: Pulling, catalogue: Catalogue, disk: Disk, limits: SourceLimits) -> None:
        self._pulling = pulling
        self._catalogue = catalogue
        self._disk = disk
        self._limits = limits

    # -- out

    async def export(self, wanted: Sequence[str]) -> Archive:
        """An archive of these models: references that were pulled, or digests (6 digits are enough).

        The same models give the same bytes, whoever exports them when. Raises `NotFound`, `Conflict`, `Invalid`.
        """
        documents: dict[str, bytes] = {}
        files: dict[str, tuple[int, str]] = {}  # digest → size and path
        manifests = []
        for digest, pulled in sorted([await self._wanted(item) for item in wanted], key=lambda found: found[0]):
            kept = (await self._catalogue.find(digest)).kept
            manifest, config = image_layout.documents_of(kept.tree, _origin(pulled))
            manifests.append(manifest)
            documents |= {hashlib.sha256(body).hexdigest(): body for body in (manifest, config)}
            files |= {file.sha256: (file.size, f"{kept.folder}/{file.path}") for file in kept.tree.files}
        index = image_layout.index_of(list(dict.fromkeys(manifests)))
        named = [(LAYOUT_FILE, LAYOUT), (INDEX_FILE, index)]
        named += [(image_layout.blob_name(digest), documents[digest]) for digest in sorted(documents)]
        files = {digest: files[digest] for digest in sorted(files) if digest not in documents}
        size = tar_stream.total_size([len(body) for _, body in named] + [size for size, _ in files.values()])
        return Archive(size, self._packed(named, files))

    async def _wanted(self, item: str) -> tuple[str, Pulled | None]:
        history = self._pulling.records.history
        if ":" not in item:
            digest = (await self._catalogue.find(item)).kept.tree.digest
            return digest, history.origin(digest)
        pulls = history.pulls_by(str(ModelRef.parse(item).whole))
        if not pulls:
            raise NotFound("model", item, tuple(sorted({pull.ref for pull in _pulls(history.records)})))
        return pulls[0].digest, pulls[0]

    async def _packed(self, named: list[tuple[str, bytes]], files: dict[str, tuple[int, str]]) -> AsyncIterator[bytes]:
        for name, body in named:
            yield tar_stream.header(name, len(body)) + body + tar_stream.padding(len(body))
        for digest, (size, path) in files.items():
            yield tar_stream.header(image_layout.blob_name(digest), size)
            seen, count = hashlib.sha256(), 0
            async for chunk in self._disk.read(path):
                seen.update(chunk)
                count += len(chunk)
                yield chunk
            if seen.hexdigest() != digest or count != size:
                raise ModelUnavailable(f"{path} is damaged: pull the model again (crossfade model verify tells more)")
            yield tar_stream.padding(size)
        yield tar_stream.ending()

    # -- in

    async def take_in(self, chunks: AsyncIterator[bytes], name: str, by: str) -> tuple[Arrived, ...]:
        """Keep every model of an archive. `name`: what the only model in it is called here, instead of what it says;
        it should name this model for good. Raises `ModelUnavailable`, `Invalid`, `StoreFailed`.
        """
        ref = ModelRef.parse(name).whole if name else None
        async with self._disk.stage() as stage:
            unpacked = _Unpacked(stage, self._limits)
            reader = tar_stream.TarReader()
            async for chunk in chunks:
                for event in reader.feed(chunk):
                    await unpacked.take(event)
            reader.close()
            models = [item async for item in unpacked.models()]
            if ref is not None and len(models) != 1:
                raise ModelUnavailable(f"the archive holds {len(models)} models, and one name was given for them")
            resolutions = [_resolution(model, ref) for model in models]

            @asynccontextmanager
            async def read(file: RemoteFile, offset: int) -> AsyncIterator[Download]:
                yield Download(offset, stage.read(file.locator, offset))

            arrived = []
            for resolution in resolutions:
                kept = await self._pulling.take_in(resolution, read, by)
                arrived.append(Arrived(kept, str(resolution.ref), resolution.pinned))
            return tuple(arrived)


class _Unpacked:
    """An archive's members as they come: documents in memory, blobs on the disk."""

    def __init__(self, stage: Stage, limits: SourceLimits) -> None:
        self._stage = stage
        self._limits = limits
        self._documents: dict[str, bytes] = {}
        self._blobs: dict[str, int] = {}
        self._name = ""
        self._total = 0

    async def take(self, event: tar_stream.Member | tar_stream.Content) -> None:
        match event:
            case tar_stream.Member(name, size):
                await self._begin(name, size)
            case tar_stream.Content(data, is_last):
                if digest := image_layout.blob_of(self._name):
                    await self._stage.write(data)
                    if is_last and (found := await self._stage.end()) != digest:
                        raise ModelUnavailable(
                            f"blob {digest[:12]} has another content, sha256 {found[:12]}: it is damaged"
                        )
                else:
                    self._documents[self._name] += data

    async def _begin(self, name: str, size: int) -> None:
        self._name, digest = name, image_layout.blob_of(name)
        if not digest and name not in (LAYOUT_FILE, INDEX_FILE):
            raise ModelUnavailable(f"{name[:80]!r} does not belong into an OCI image layout")
        if digest in self._blobs or name in self._documents:
            raise ModelUnavailable(f"{name!r} comes twice")
        self._total += size
        if self._total > self._limits.max_bytes:
            raise ModelUnavailable(f"the archive is larger than the {self._limits.max_bytes} bytes that it may have")
        if len(self._blobs) >= _DOCUMENTS_PER_FILE * self._limits.max_files:
            raise ModelUnavailable("the archive has too many blobs")
        if digest:
            self._blobs[digest] = size
            await self._stage.begin(size)
        elif size > image_layout.MAX_DOCUMENT_BYTES:
            raise ModelUnavailable(f"{name}: is larger than any such document")
        else:
            self._documents[name] = b""

    async def models(self) -> AsyncIterator[LayoutModel]:
        for name in (LAYOUT_FILE, INDEX_FILE):
            if name not in self._documents:
                raise ModelUnavailable(f"this is no OCI image layout: it has no {name}")
        image_layout.check_layout(self._documents[LAYOUT_FILE])
        for digest, size in image_layout.manifests_of(self._documents[INDEX_FILE]):
            self._check(digest, size, "a manifest")
            if size > image_layout.MAX_DOCUMENT_BYTES:
                raise ModelUnavailable(f"manifest {digest[:12]}: is larger than any such document")
            body = b"".join([chunk async for chunk in self._stage.read(digest, 0)])
            model = image_layout.model_of(digest, body)
            for file in model.tree.files:
                self._check(file.sha256, file.size, file.path)
            yield model

    def _check(self, digest: str, size: int, what: str) -> None:
        if self._blobs.get(digest) != size:
            has = "another size" if digest in self._blobs else "none"
            raise ModelUnavailable(f"{what}: needs blob {digest[:12]} of {size} bytes, and the archive has {has}")


def _resolution(model: LayoutModel, ref: ModelRef | None) -> Resolution:
    origin = model.origin
    if ref is None and not origin.ref:
        raise ModelUnavailable(
            f"the archive does not say what model {model.tree.digest[:12]} is called: give it a name that is its for "
            "good, such as --as models:/fraud/3"
        )
    try:
        named = ref or ModelRef.parse(origin.ref).whole
    except Invalid as error:
        raise ModelUnavailable(f"the archive names a model {origin.ref[:80]!r}: {error.message}") from None
    pinned = str(named) if ref else origin.pinned or str(named)
    files = tuple(_remote(file) for file in model.tree.files)
    lineage = dict(origin.lineage) | {"imported_as": model.manifest}
    return Resolution(named, pinned, origin.revision or model.manifest, files, origin.version, lineage)


def _remote(file: TreeFile) -> RemoteFile:
    return RemoteFile(file.path, file.size, file.sha256, file.sha256)


def _origin(pulled: Pulled | None) -> Origin:
    if pulled is None:
        return Origin()
    lineage = tuple(item for item in pulled.lineage if item[0] != "imported_as")  # the next one's is another
    return Origin(pulled.ref, pulled.pinned, pulled.revision, pulled.version, lineage)


def _pulls(records: Sequence[object]) -> list[Pulled]:
    return [record for record in records if isinstance(record, Pulled)]
