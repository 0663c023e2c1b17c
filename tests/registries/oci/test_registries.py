"""Real registries: what was pushed is what is read; tags move, mirrors outlive their upstream, strangers stay out."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from pathlib import Path

import pytest

from adapters.model_cache import ModelCache
from adapters.registries.tar_members import Compression
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef
from router.models.onlookers import looked_on_by
from router.models.ports import AccessDenied, SourceUnavailable
from router.models.progress import PullProgress
from router.models.settings import FromFile, Host
from tests.registries.oci.archives import IMAGE_TAR, IMAGE_TAR_GZIP, IMAGE_TAR_ZSTD, compressed, tar_of, zipped
from tests.registries.oci.conftest import Opened
from tests.registries.oci.docker_registry import (
    FILEPATH,
    INDEX,
    MANIFEST,
    MODEL_CONFIG,
    PASSWORD,
    USER,
    Registry,
    descriptor,
    docker_registry,
    manifest,
)
from tests.registries.oci.reading import PLAIN, pulled, read_file

pytestmark = pytest.mark.timeout(600)  # the first time, packages are fetched

WEIGHTS = random.Random(1).randbytes(3_000_000)
TRITON = {"fraud/config.pbtxt": b"name: 'fraud'", "fraud/1/model.onnx": WEIGHTS, "fraud/2/model.onnx": WEIGHTS[::-1]}


async def test_a_triton_repository_as_oras_pushes_it_comes_with_its_folders(plain: Registry, opened: Opened) -> None:
    with plain.pusher("team/fraud") as pusher:
        digest = pusher.files(
            "1.0", TRITON, **{"org.opencontainers.image.created": "2026-01-02T03:04:05Z", "run_id": "7"}
        )
    async with opened({plain.host: PLAIN}) as source:
        resolution = await source.resolve(ModelRef.parse(f"oci://{plain.host}/team/fraud:1.0"))
        assert resolution.pinned == f"oci://{plain.host}/team/fraud@{digest}"
        assert f"sha256:{resolution.revision}" == digest
        assert resolution.version == "1.0"
        assert resolution.lineage == {"created": "2026-01-02T03:04:05Z", "run_id": "7"}
        assert await pulled(source, resolution.pinned) == await pulled(source, str(resolution.ref)) == TRITON


async def test_what_oras_itself_pushed_comes_as_it_was(plain: Registry, opened: Opened, tmp_path: Path) -> None:
    files = {**TRITON, "README.md": b"a file beside the folder"}
    for path, content in files.items():
        (tmp_path / "pushed" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pushed" / path).write_bytes(content)
    await asyncio.to_thread(plain.push_by_oras, "by/oras:1", tmp_path / "pushed")
    async with opened({plain.host: PLAIN}) as source:
        assert await pulled(source, f"oci://{plain.host}/by/oras:1") == files
        resolution = await source.resolve(ModelRef.parse(f"oci://{plain.host}/by/oras:1"))
        assert resolution.lineage["run_id"] == "r-17"


async def test_reading_goes_on_in_the_middle(plain: Registry, opened: Opened) -> None:
    with plain.pusher("middle") as pusher:
        pusher.files("1", {"m.onnx": WEIGHTS})
    async with opened({plain.host: PLAIN}) as source:
        resolution = await source.resolve(ModelRef.parse(f"oci://{plain.host}/middle:1"))
        assert await read_file(source, resolution, resolution.files[0], 2_000_001) == WEIGHTS[2_000_001:]


async def test_a_tag_that_moves_is_noticed_and_a_digest_never_moves(plain: Registry, opened: Opened) -> None:
    ref = ModelRef.parse(f"oci://{plain.host}/moving:stable")
    with plain.pusher("moving") as pusher:
        pusher.files("stable", {"m.onnx": b"one"})
        async with opened({plain.host: PLAIN}) as source:
            first = await source.resolve(ref)
            assert not await source.has_moved(ref, first.revision)
            pusher.files("stable", {"m.onnx": b"two"})
            assert await source.has_moved(ref, first.revision)
            assert not await source.has_moved(ModelRef.parse(first.pinned), first.revision)
            assert await read_file(source, first, first.files[0]) == b"one"
            assert await pulled(source, str(ref)) == {"m.onnx": b"two"}


async def test_a_model_pack_has_its_weights_its_configuration_and_its_origin(plain: Registry, opened: Opened) -> None:
    config = {"descriptor": {"createdAt": "2026-05-06T00:00:00Z", "authors": ["Ada", "Grace"], "version": "2.1"}}
    kinds = "application/vnd.cncf.model"
    with plain.pusher("packed") as pusher:
        layers = [
            pusher.blob(WEIGHTS, f"{kinds}.weight.v1.raw", **{FILEPATH: "model.onnx"}),
            pusher.blob(b"{}", f"{kinds}.weight.config.v1.raw", **{FILEPATH: "conf/config.json"}),
            pusher.blob(tar_of({"vocabulary/words.txt": b"a b c"}), f"{kinds}.weight.config.v1.tar"),
            pusher.blob(b"import os", f"{kinds}.code.v1.raw", **{FILEPATH: "train.py"}),
        ]
        pusher.manifest(manifest(pusher.blob(json.dumps(config).encode(), MODEL_CONFIG), layers), "latest")
    async with opened({plain.host: PLAIN}) as source:
        assert await pulled(source, f"oci://{plain.host}/packed:latest") == {
            "model.onnx": WEIGHTS,
            "conf/config.json": b"{}",
            "vocabulary/words.txt": b"a b c",
        }
        resolution = await source.resolve(ModelRef.parse(f"oci://{plain.host}/packed:latest"))
        assert resolution.version == "2.1"
        assert resolution.lineage == {"created": "2026-05-06T00:00:00Z", "author": "Ada, Grace", "version": "2.1"}


async def test_a_modelcar_image_gives_what_its_layers_leave_below_models(plain: Registry, opened: Opened) -> None:
    layers = [
        (zipped(tar_of({"bin/busybox": b"#!", "etc/passwd": b"root"})), IMAGE_TAR_GZIP),
        (
            tar_of({"models/model.onnx": b"old", "models/old/a": b"a", "models/gone.txt": b"", "models/x/b": b"b"}),
            IMAGE_TAR,
        ),
        (
            zipped(
                tar_of(
                    {
                        "./models/model.onnx": WEIGHTS,
                        "models/.wh.gone.txt": b"",
                        "models/.wh.old": b"",
                        "models/x/.wh..wh..opq": b"",
                        "models/x/c": b"c",
                        "models/same": WEIGHTS,
                    }
                )
            ),
            IMAGE_TAR_GZIP,
        ),
        (compressed(Compression.ZSTD, tar_of({"models/dense": WEIGHTS[:1000]})), IMAGE_TAR_ZSTD),
    ]
    with plain.pusher("car") as pusher:
        pusher.image("1", layers)
    expected = {"model.onnx": WEIGHTS, "x/c": b"c", "same": WEIGHTS, "dense": WEIGHTS[:1000]}
    async with opened({plain.host: PLAIN}) as source:
        assert await pulled(source, f"oci://{plain.host}/car:1") == expected
        resolution = await source.resolve(ModelRef.parse(f"oci://{plain.host}/car:1"))
        model = next(file for file in resolution.files if file.path == "model.onnx")
        assert await read_file(source, resolution, model, 1234) == WEIGHTS[1234:]  # from a spool that was emptied


async def test_an_image_that_was_unpacked_once_is_resolved_without_fetching_it_again(
    opened: Opened, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "registry") as registry, registry.pusher("car") as pusher:
        layer = zipped(tar_of({"models/m.onnx": WEIGHTS}))
        pusher.image("1", [(layer, IMAGE_TAR_GZIP)])
        reference = f"oci://{registry.host}/car:1"
        async with opened({registry.host: PLAIN}) as source:
            assert await pulled(source, reference) == {"m.onnx": WEIGHTS}
            spool = tmp_path / "spool"
            assert not [path for path in spool.rglob("*") if path.is_file() and path.stat().st_size > 1000]
            pusher.delete(descriptor(layer, "")["digest"])
        async with opened({registry.host: PLAIN}) as another:
            resolution = await another.resolve(ModelRef.parse(reference))
            assert [file.size for file in resolution.files] == [len(WEIGHTS)]
            with pytest.raises(ModelUnavailable):
                await read_file(another, resolution, resolution.files[0])


async def test_who_looks_on_sees_an_images_layers_come_and_then_its_files(
    plain: Registry, opened: Opened, tmp_path: Path
) -> None:
    layers = [zipped(tar_of({"models/m.onnx": WEIGHTS})), zipped(tar_of({"models/config.json": b"{}"}))]
    with plain.pusher("looked-at") as pusher:
        pusher.image("1", [(layer, IMAGE_TAR_GZIP) for layer in layers])
    coming, size = sum(map(len, layers)), len(WEIGHTS) + 2
    cache, progress = ModelCache(tmp_path / "models", keep_free_bytes=0), PullProgress(time.monotonic)
    async with opened({plain.host: PLAIN}) as source:
        with looked_on_by(progress):
            resolution = await source.resolve(ModelRef.parse(f"oci://{plain.host}/looked-at:1"))
            reading = progress.reading()
            assert (reading.done_bytes, reading.total_bytes, reading.fetched_bytes) == (coming, coming, coming)
            await cache.fetch(resolution, lambda file, at: source.read(resolution, file, at), progress)
    reading = progress.reading()
    assert (reading.done_bytes, reading.total_bytes, reading.fetched_bytes) == (size, size, coming)


async def test_an_index_leads_to_the_model_for_any_platform_and_an_unclear_one_is_refused(
    plain: Registry, opened: Opened
) -> None:
    with plain.pusher("index") as pusher:
        model = pusher.files("", {"m.onnx": b"model"})
        other = pusher.files("", {"m.onnx": b"other"})
        entries = [
            {"mediaType": MANIFEST, "digest": model, "size": 1},
            {"mediaType": MANIFEST, "digest": other, "size": 1, "platform": {"os": "plan9", "architecture": "mips"}},
        ]
        pusher.manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, "clear")
        entries[0]["platform"] = {"os": "plan9", "architecture": "sparc"}
        pusher.manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, "unclear")
    async with opened({plain.host: PLAIN}) as source:
        assert await pulled(source, f"oci://{plain.host}/index:clear") == {"m.onnx": b"model"}
        with pytest.raises(ModelUnavailable, match="not clear which model is meant"):
            await source.resolve(ModelRef.parse(f"oci://{plain.host}/index:unclear"))


async def test_what_is_not_there_is_said_with_the_registrys_words(plain: Registry, opened: Opened) -> None:
    with plain.pusher("there") as pusher:
        pusher.files("1", {"m.onnx": b"1"})
    async with opened({plain.host: PLAIN}) as source:
        with pytest.raises(ModelUnavailable, match=r"has no '2'.*MANIFEST_UNKNOWN"):
            await source.resolve(ModelRef.parse(f"oci://{plain.host}/there:2"))
        with pytest.raises(ModelUnavailable, match="has no '1'"):
            await source.has_moved(ModelRef.parse(f"oci://{plain.host}/nowhere:1"), "0" * 64)
        with pytest.raises(AccessDenied, match="allowed_hosts"):
            await source.resolve(ModelRef.parse("oci://registry.invalid/a:1"))


def _with_password(folder: Path, registry: Registry, password: str = PASSWORD) -> dict[str, Host]:
    (folder / "user").write_text(USER)
    (folder / "password").write_text(password)
    username, secret = FromFile(str(folder / "user")), FromFile(str(folder / "password"))
    return {registry.host: Host(username=username, password=secret, ca_bundle=registry.ca)}


async def test_tls_and_a_password_from_the_settings(locked: Registry, opened: Opened, tmp_path: Path) -> None:
    with locked.pusher("secret") as pusher:
        pusher.files("1", TRITON)
    reference = f"oci://{locked.host}/secret:1"
    async with opened(_with_password(tmp_path, locked)) as source:
        assert await pulled(source, reference) == TRITON
        resolution = await source.resolve(ModelRef.parse(reference))
        assert not await source.has_moved(resolution.ref, resolution.revision)
    async with opened(_with_password(tmp_path, locked, "wrong")) as source:
        with pytest.raises(AccessDenied, match=r"does not let us read secret.*registries.yaml.*docker login") as denied:
            await source.resolve(ModelRef.parse(reference))
        assert "wrong" not in str(denied.value)
        with pytest.raises(AccessDenied):
            await read_file(source, resolution, resolution.files[0])
    async with opened({locked.host: Host()}) as source:
        with pytest.raises(SourceUnavailable, match="certificate"):
            await source.resolve(ModelRef.parse(reference))


async def test_a_password_that_docker_login_left(locked: Registry, opened: Opened, tmp_path: Path) -> None:
    with locked.pusher("docker") as pusher:
        pusher.files("1", {"m.onnx": b"1"})
    config = tmp_path / "config.json"
    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    config.write_text(json.dumps({"auths": {locked.host: {"auth": pair}}}))
    async with opened({locked.host: Host(ca_bundle=locked.ca)}, docker=config) as source:
        assert await pulled(source, f"oci://{locked.host}/docker:1") == {"m.onnx": b"1"}


async def test_a_mirror_goes_on_when_its_upstream_has_died(opened: Opened, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "upstream") as upstream:
        with upstream.pusher("team/fraud") as pusher:
            pusher.files("1", TRITON)
        with docker_registry(tmp_path / "mirror", upstream=f"http://{upstream.host}") as mirror:
            async with opened({mirror.host: PLAIN}) as source:
                ref = ModelRef.parse(f"oci://{mirror.host}/team/fraud:1")
                before = await source.resolve(ref)
                assert await pulled(source, str(ref)) == TRITON
                await asyncio.to_thread(_await_stored, tmp_path / "mirror", len(TRITON))
                upstream.process.terminate()
                await asyncio.to_thread(upstream.process.wait, 20)
                assert await pulled(source, str(ref)) == TRITON
                assert not await source.has_moved(ref, before.revision)


def _await_stored(folder: Path, count: int) -> None:
    """A mirror writes what it passes on to its own disk beside that: so many files, and the manifest."""
    deadline = time.monotonic() + 30.0
    while len([path for path in folder.rglob("blobs/sha256/*/*/data") if path.stat().st_size]) < count + 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_a_registry_that_has_died_is_unavailable_not_wrong(opened: Opened, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry") as registry, registry.pusher("m") as pusher:
        pusher.files("1", {"m.onnx": b"1"})
    async with opened({registry.host: PLAIN}) as source:
        with pytest.raises(SourceUnavailable, match="refuses connections"):
            await source.has_moved(ModelRef.parse(f"oci://{registry.host}/m:1"), "0" * 64)
