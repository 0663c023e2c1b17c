"""Models that travel in a file, from one real cache into another; and files that nobody should take in."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.model_archives import ArchiveDisk
from adapters.model_cache import ModelCache
from adapters.model_records import ModelRecords
from router.desired import Desired
from router.domain.errors import Invalid, ModelUnavailable, NotFound
from router.domain.model_ref import ModelRef
from router.events import EventLog
from router.models.catalogue import Catalogue
from router.models.freshness import Freshness
from router.models.image_layout import Origin, documents_of, index_of, model_of
from router.models.ports import SourceLimits, SourceUnavailable
from router.models.pulling import Pulling
from router.models.pulls import Pulls
from router.models.tar_stream import Content, Member, TarReader, ending, header, padding
from router.models.transfer import Transfer
from tests.scripted_source import ScriptedSource

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ALIAS = "models:/fraud@champion"
FILES = {"model.onnx": b"graph" * 1000, "data/weights.bin": bytes(range(256)) * 900, "empty": b""}
LIMITS = SourceLimits(max_files=10, max_bytes=10**6)


@dataclass
class Site:
    """A gateway's models, and its line to the outside."""

    folder: Path
    source: ScriptedSource

    def __post_init__(self) -> None:
        cache, records = ModelCache(self.folder, keep_free_bytes=0), ModelRecords(self.folder / "records.jsonl")
        self.pulling = Pulling(self.source, cache, records, Freshness(), lambda: NOON)
        events = EventLog(lambda: NOON)
        catalogue = Catalogue(self.pulling, Pulls(self.pulling, events, lambda: NOON), Desired({}), events)
        self.transfer = Transfer(self.pulling, catalogue, ArchiveDisk(self.folder / "archives", 0), LIMITS)

    async def export(self, *wanted: str) -> bytes:
        archive = await self.transfer.export(wanted)
        whole = b"".join([chunk async for chunk in archive.chunks])
        assert len(whole) == archive.size
        return whole

    async def take_in(self, archive: bytes, name: str = "", piece: int = 70_000) -> list[str]:
        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(archive), piece):
                yield archive[at : at + piece]

        return [item.kept.tree.digest for item in await self.transfer.take_in(pieces(), name, "ann")]

    async def digests(self) -> set[str]:
        return {kept.tree.digest for kept in await self.pulling.cache.entries()}

    def is_clean(self) -> bool:
        """No stage is left."""
        return not list((self.folder / "archives").iterdir())


def site(folder: Path, **source: Any) -> Site:
    return Site(folder, ScriptedSource(**({"files": FILES, "pinned": "models:/fraud/3"} | source)))


def contents(folder: str) -> dict[str, bytes]:
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def damage(victim: Path) -> None:
    victim.chmod(0o600)
    victim.write_bytes(victim.read_bytes().swapcase())


def isolated(folder: Path) -> Site:
    return site(folder, trouble=SourceUnavailable("no route to host"))


async def test_a_model_travels_in_a_file_and_runs_where_no_registry_is_reached(tmp_path: Path) -> None:
    cloud, island = site(tmp_path / "cloud"), isolated(tmp_path / "island")
    model = await cloud.pulling.pull(ModelRef.parse(ALIAS), "ann")
    archive = await cloud.export(ALIAS)
    assert await island.take_in(archive) == [model.resolved.sha256]
    there = await island.pulling.pull(ModelRef.parse("models:/fraud/3"), "bob")
    assert there.resolved.sha256 == model.resolved.sha256
    assert contents(there.kept.folder) == FILES
    origin = island.pulling.records.history.origin(model.resolved.sha256, ALIAS)
    assert origin
    assert (origin.by, origin.revision, dict(origin.lineage)["run_id"]) == ("ann", "r1", "7")
    assert island.is_clean()
    assert await island.take_in(archive) == [model.resolved.sha256]


async def test_the_same_models_give_the_same_bytes_whoever_exports_them(tmp_path: Path) -> None:
    one, other = site(tmp_path / "one"), site(tmp_path / "other")
    pulled = [await place.pulling.pull(ModelRef.parse(ALIAS), "ann") for place in (one, other)]
    first = await one.export(ALIAS)
    assert first == await other.export(pulled[1].resolved.sha256[:12])
    third = isolated(tmp_path / "third")
    await third.take_in(first)
    assert await third.export(ALIAS) == first


async def test_tar_and_python_read_what_is_exported(tmp_path: Path) -> None:
    cloud = site(tmp_path)
    await cloud.pulling.pull(ModelRef.parse(ALIAS), "ann")
    with tarfile.open(fileobj=io.BytesIO(await cloud.export(ALIAS))) as archive:
        contents = {item.name: archive.extractfile(item).read() for item in archive.getmembers()}  # type: ignore[union-attr]
    assert json.loads(contents["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(contents["index.json"])["manifests"]
    manifest = json.loads(contents[f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}"])
    for layer in manifest["layers"]:
        blob = contents[f"blobs/sha256/{layer['digest'].removeprefix('sha256:')}"]
        assert blob == FILES[layer["annotations"]["org.cncf.model.filepath"]]


async def test_several_models_share_what_they_have_in_common(tmp_path: Path) -> None:
    cloud, island = site(tmp_path / "cloud"), isolated(tmp_path / "island")
    await cloud.pulling.pull(ModelRef.parse(ALIAS), "ann")
    cloud.source.files = {**FILES, "model.onnx": b"another graph"}
    cloud.source.revision, cloud.source.pinned = "r2", "models:/fraud/4"
    await cloud.pulling.pull(ModelRef.parse(ALIAS), "ann")
    both = await cloud.export(*(await cloud.digests()))
    assert both.count(FILES["data/weights.bin"]) == 1
    assert set(await island.take_in(both)) == await cloud.digests()


async def test_what_is_not_here_cannot_be_exported(tmp_path: Path) -> None:
    cloud = site(tmp_path)
    for wanted in ("abcdef123", "models:/fraud/9"):
        with pytest.raises(NotFound):
            await cloud.export(wanted)
    with pytest.raises(Invalid):
        await cloud.export("ftp://x")


async def test_a_model_that_is_damaged_is_not_exported_whole(tmp_path: Path) -> None:
    cloud = site(tmp_path)
    kept = (await cloud.pulling.pull(ModelRef.parse(ALIAS), "ann")).kept
    damage(Path(kept.folder, "model.onnx"))
    with pytest.raises(ModelUnavailable, match="is damaged"):
        await cloud.export(ALIAS)


async def test_a_layout_of_others_gets_a_name_with_as(tmp_path: Path) -> None:
    foreign = {
        "schemaVersion": 2,
        "layers": [
            {
                "mediaType": "application/octet-stream",
                "digest": f"sha256:{hashlib.sha256(b'graph').hexdigest()}",
                "size": 5,
                "annotations": {"org.opencontainers.image.title": "model.onnx"},
            }
        ],
    }
    archive = packed(blobs=[json.dumps(foreign).encode(), b"graph"], manifests=[json.dumps(foreign).encode()])
    island = isolated(tmp_path)
    with pytest.raises(ModelUnavailable, match="--as models:/fraud/3"):
        await island.take_in(archive)
    (digest,) = await island.take_in(archive, "models:/other/1")
    assert (await island.pulling.pull(ModelRef.parse("models:/other/1"), "bob")).resolved.sha256 == digest


# --- what nobody should take in ---

MANIFEST_KEYS = {"mediaType": "application/vnd.cncf.model.weight.v1.raw", "size": 5}
GRAPH = hashlib.sha256(b"graph").hexdigest()


def manifest(path: Any = "model.onnx", digest: str = f"sha256:{GRAPH}", **more: Any) -> bytes:
    layer = {**MANIFEST_KEYS, "digest": digest, "annotations": {"org.cncf.model.filepath": path}}
    annotations = {"org.crossfade.model.ref": "models:/evil/1"}
    return json.dumps({"schemaVersion": 2, "layers": [layer | more], "annotations": annotations}).encode()


def packed(
    blobs: list[bytes],
    manifests: list[bytes],
    index: Any = None,
    extra: Callable[[tarfile.TarFile], None] = lambda archive: None,
    layout: bytes = b'{"imageLayoutVersion":"1.0.0"}',
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

        add("oci-layout", layout)
        add("index.json", index_of(manifests) if index is None else json.dumps(index).encode())
        for blob in blobs:
            add(f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)
        extra(archive)
    return out.getvalue()


def a_member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "") -> Callable[[Any], None]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.size, info.linkname = kind, len(content), link
        archive.addfile(info, io.BytesIO(content))

    return add


def hostile(body: bytes, **more: Any) -> bytes:
    return packed([b"graph", body], [body], **more)


GOOD = manifest()
HOSTILE = {
    "a name that leads out": (hostile(GOOD, extra=a_member("../../etc/cron.d/x", content=b"x")), "does not belong"),
    "an absolute name": (hostile(GOOD, extra=a_member("/etc/passwd", content=b"x")), "does not belong"),
    "a symbolic link": (
        hostile(GOOD, extra=a_member("blobs/sha256/x", tarfile.SYMTYPE, link="/etc")),
        "no regular file",
    ),
    "a hard link": (hostile(GOOD, extra=a_member("blobs/sha256/x", tarfile.LNKTYPE, link="oci-layout")), "no regular"),
    "a device": (hostile(GOOD, extra=a_member("blobs/sha256/x", tarfile.CHRTYPE)), "no regular file"),
    "a pipe": (hostile(GOOD, extra=a_member("blobs/sha256/x", tarfile.FIFOTYPE)), "no regular file"),
    "a long name": (hostile(GOOD, extra=a_member("x" * 300, content=b"x")), "long names"),
    "a blob with another content": (
        hostile(GOOD, extra=a_member(f"blobs/sha256/{'a' * 64}", content=b"x")),
        "another content",
    ),
    "a blob that comes twice": (
        hostile(GOOD, extra=a_member(f"blobs/sha256/{GRAPH}", content=b"graph")),
        "comes twice",
    ),
    "an index that comes twice": (hostile(GOOD, extra=a_member("index.json", content=b"{}")), "comes twice"),
    "a digest with a path in it": (hostile(manifest(digest="sha256:../../../x")), "not a sha256 digest"),
    "a file that leads out": (hostile(manifest("../../x.onnx")), "leads elsewhere"),
    "a file with an absolute path": (hostile(manifest("/etc/x.onnx")), "not a plain relative path"),
    "a file with a backslash": (hostile(manifest("a\\b.onnx")), "not a plain relative path"),
    "a file without a name": (hostile(manifest(None)), "not one plain, named file"),
    "a file of another size": (hostile(manifest(size=6)), "another size"),
    "a file whose size is no number": (hostile(manifest(size="5")), "without digest or size"),
    "a file that is not there": (hostile(manifest(digest=f"sha256:{'b' * 64}")), "and the archive has none"),
    "a layer that is an archive": (
        hostile(manifest(mediaType="application/vnd.oci.image.layer.v1.tar+gzip")),
        "not one plain",
    ),
    "a manifest that is not there": (packed([b"graph"], [GOOD]), "a manifest: needs blob"),
    "a manifest that is no JSON": (hostile(b"{"), "is not a JSON object"),
    "a manifest that is an index too": (
        hostile(b'{"schemaVersion": 2, "layers": [], "manifests": []}'),
        "not a manifest",
    ),
    "a model of no files": (hostile(b'{"schemaVersion": 2, "layers": []}'), "at least one file"),
    "an index of nothing": (packed([], []), "lists 0 models"),
    "an index that is an image too": (
        packed([], [], {"schemaVersion": 2, "manifests": [], "layers": []}),
        "not an index",
    ),
    "an index of indexes": (
        packed([], [], {"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.index.v1+json"}]}),
        "which is no model",
    ),
    "a layout of another version": (
        hostile(GOOD, layout=b'{"imageLayoutVersion":"2.0.0"}'),
        "version that is not known",
    ),
    "no layout at all": (packed([], [])[1024:], "no oci-layout"),
    "more bytes than a model may have": (packed([bytes(999_999), b"graph", GOOD], [GOOD]), "larger than"),
    "an archive that ends early": (hostile(GOOD)[:3000], "ends in the middle"),
    "something after the end": (hostile(GOOD) + b"x", "follows the end"),
    "something else": (b"PK\3\4" * 500, "not a tar archive"),
    "nothing": (b"", "ends in the middle"),
}


@pytest.mark.parametrize(("archive", "words"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path: Path, archive: bytes, words: str) -> None:
    island = isolated(tmp_path / "island")
    with pytest.raises(ModelUnavailable, match=words):
        await island.take_in(archive)
    assert await island.digests() == set()
    assert island.is_clean()
    assert names_in(tmp_path) == {"island"}
    assert await island.take_in(hostile(GOOD))


# --- the stream ---


@settings(deadline=None)
@given(st.lists(st.binary(max_size=3000), max_size=4), st.integers(1, 2000))
def test_whatever_the_pieces_a_tar_is_read_as_it_was_made(contents: list[bytes], piece: int) -> None:
    made = b"".join(
        header(str(number), len(content)) + content + padding(len(content)) for number, content in enumerate(contents)
    )
    made += ending()
    reader, read = TarReader(), {}
    name = ""
    for at in range(0, len(made), piece):
        for event in reader.feed(made[at : at + piece]):
            match event:
                case Member(name, _):
                    read[name] = b""
                case Content(data, _):
                    read[name] += data
    reader.close()
    assert read == {str(number): content for number, content in enumerate(contents)}


@settings(deadline=None)
@given(st.binary(max_size=4000))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    reader = TarReader()
    try:
        reader.feed(noise)
        reader.close()
    except ModelUnavailable:
        return


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_sizes_beyond_eight_gigabytes_are_read_in_both_ways_to_write_them(kind: int) -> None:
    info = tarfile.TarInfo("blobs/sha256/" + "a" * 64)
    info.size = 9 * 1024**3
    (event,) = TarReader().feed(info.tobuf(kind))
    assert event == Member(info.name, info.size)
    assert header(info.name, info.size)[:100].rstrip(b"\0").decode() == info.name


async def test_documents_are_read_as_they_were_written(tmp_path: Path) -> None:
    cloud = site(tmp_path)
    kept = (await cloud.pulling.pull(ModelRef.parse(ALIAS), "ann")).kept
    origin = Origin(ALIAS, "models:/fraud/3", "r1", "3", (("run_id", "7"),))
    body, _ = documents_of(kept.tree, origin)
    model = model_of("c" * 64, body)
    assert (model.tree, model.origin) == (kept.tree, origin)
