"""Registries that lie, and models that want out of their folder: refused, each with its own words; nothing is left."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from adapters.registries.docker_credentials import DockerCredentials
from adapters.registries.oci import OciModels
from adapters.registries.tar_members import Compression
from adapters.transport import HttpTransport
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef
from router.models.ports import SourceLimits
from router.models.settings import RegistrySettings
from tests.registries.http_server import HttpServer, http_server
from tests.registries.oci.archives import (
    IMAGE_TAR,
    IMAGE_TAR_GZIP,
    IMAGE_TAR_ZSTD,
    compressed,
    member,
    packed,
    tar_of,
    with_header,
    zipped,
)
from tests.registries.oci.docker_registry import (
    EMPTY_CONFIG,
    IMAGE_CONFIG,
    INDEX,
    MANIFEST,
    MODEL_CONFIG,
    TITLE,
    descriptor,
    manifest,
)
from tests.registries.oci.lying_registry import LyingRegistry
from tests.registries.oci.reading import PLAIN, pulled, read_file

LIMITS = SourceLimits(max_files=20, max_bytes=10_000_000)
HEX = "0" * 64


class Liar(LyingRegistry):
    """A registry that lies, and the source that believes nothing."""

    source: OciModels
    server: HttpServer
    spool: Path

    @property
    def ref(self) -> ModelRef:
        return ModelRef.parse(f"oci://{self.server.host}/m:1")

    async def refused(self, words: str) -> ModelUnavailable:
        with pytest.raises(ModelUnavailable, match=words) as error:
            await self.source.resolve(self.ref)
        left = [path for path in self.spool.rglob("*") if path.is_file() and path.name not in ("lock", "listing.json")]
        assert [path for path in left if path.stat().st_size] == []
        return error.value


@pytest.fixture
async def liar(tmp_path: Path) -> AsyncIterator[Liar]:
    made = Liar()
    async with http_server(made.behave) as server:
        settings = RegistrySettings(hosts={server.host: PLAIN}, limits=LIMITS)
        transport = HttpTransport(settings, (0.0,))
        made.server, made.spool = server, tmp_path / "spool"
        made.source = OciModels(transport, settings, DockerCredentials(tmp_path / "none"), made.spool)
        yield made
        await transport.close()


def titled(title: str, content: bytes = b"x", **changed: Any) -> dict[str, Any]:
    return {**descriptor(content, "application/octet-stream", **{TITLE: title}), **changed}


async def test_a_manifest_other_than_its_announced_digest_is_refused(liar: Liar) -> None:
    liar.tag_layers(titled("m"))
    liar.announced = f"sha256:{HEX}"
    await liar.refused("the manifest is not what was asked for")


async def test_a_manifest_other_than_the_digest_that_was_asked_for_is_refused(liar: Liar) -> None:
    liar.tag_layers(titled("m"))
    liar.manifests[f"sha256:{HEX}"] = liar.manifests["1"]
    with pytest.raises(ModelUnavailable, match="the manifest is not what was asked for"):
        await liar.source.resolve(ModelRef.parse(f"oci://{liar.server.host}/m@sha256:{HEX}"))


async def test_a_digest_in_an_answer_about_moving_is_no_path_either(liar: Liar) -> None:
    liar.tag_layers(titled("m"))
    liar.announced = "sha256:../../etc"
    with pytest.raises(ModelUnavailable, match="is not a sha256 digest"):
        await liar.source.has_moved(liar.ref, HEX)


async def test_a_registry_that_announces_no_digest_is_compared_by_content(liar: Liar) -> None:
    liar.tag_layers(titled("m"))
    resolution = await liar.source.resolve(liar.ref)
    assert not await liar.source.has_moved(liar.ref, resolution.revision)
    assert await liar.source.has_moved(liar.ref, HEX)


async def test_a_manifest_without_an_end_is_not_read_to_its_end(liar: Liar) -> None:
    liar.tag(b"[" + b" " * (4 * 1024 * 1024) + b"]")
    await liar.refused("answers with more than 4194304 bytes")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"<html>sign in</html>", "something else than a manifest: '<html>sign in"),
        (b"[" * 100_000, "something else than a manifest"),
        (b"[]", "something else than a manifest"),
        (b'"\xff"', "something else than a manifest"),
        ({"schemaVersion": 1, "fsLayers": []}, "no manifest of version 2"),
        ({**manifest({}, []), "mediaType": "text/plain"}, "'text/plain' is not a kind of manifest"),
        ({**manifest({}, []), "manifests": []}, "ambiguous"),
        ({"schemaVersion": 2, "mediaType": INDEX, "layers": []}, "has no manifests"),
        ({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}, "lists no manifest"),
        ({"schemaVersion": 2, "mediaType": INDEX, "manifests": [7]}, "has no manifests"),
        ({"schemaVersion": 2, "mediaType": MANIFEST}, "has no layers"),
        ({"schemaVersion": 2, "mediaType": MANIFEST, "layers": {}}, "has no layers"),
        ({"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}, "has no configuration"),
        (manifest(descriptor(b"{}", EMPTY_CONFIG), []), "has no files of a model"),
        (manifest(descriptor(b"{}", IMAGE_CONFIG), []), "has no files below /models"),
    ],
)
async def test_what_is_no_manifest_of_a_model_is_refused(liar: Liar, document: Any, words: str) -> None:
    liar.tag(document)
    await liar.refused(words)


async def test_an_index_of_indexes_is_refused(liar: Liar) -> None:
    entry = {"mediaType": MANIFEST, "digest": "", "size": 1}
    inner = b'{"schemaVersion": 2, "mediaType": "' + INDEX.encode() + b'", "manifests": []}'
    entry["digest"] = descriptor(inner, "")["digest"]
    liar.manifests[str(entry["digest"])] = inner, INDEX
    liar.tag({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}, INDEX)
    await liar.refused("lists another index")


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([titled("../m.onnx")], "leads elsewhere"),
        ([titled("/etc/passwd")], "not a plain relative path"),
        ([titled("a/../../b")], "leads elsewhere"),
        ([titled("a\\b")], "not a plain relative path"),
        ([titled("a\0b")], "not a plain relative path"),
        ([titled("C:/m")], "not a plain relative path"),
        ([titled("a/" * 40 + "m")], "too deep"),
        ([titled("x" * 300)], "a name that file systems do not take"),
        ([titled("m"), titled("m", b"y")], "would be the same file"),
        ([titled("Model"), titled("model")], "would be the same file"),
        ([titled("m"), titled("m/x")], "is a file and the folder of"),
        ([titled("m", digest="sha256:../../../etc/passwd")], "is not a sha256 digest"),
        ([titled("m", digest=f"sha256:{'A' * 64}")], "is not a sha256 digest"),
        ([titled("m", digest=f"sha512:{HEX}{HEX}")], "not a digest that can be checked"),
        ([titled("m", digest=7)], "without digest or size"),
        ([titled("m", size=-1)], "without digest or size"),
        ([titled("m", size=True)], "without digest or size"),
        ([titled("m", size="1")], "without digest or size"),
        ([titled("m", size=10_000_001)], "10000001 bytes; 10000000 are the most"),
        ([titled("m", size=6_000_000), titled("n", size=6_000_000)], "12000000 bytes"),
        ([titled(f"m{number}") for number in range(21)], "has 21 layers; 20 are the most"),
        ([descriptor(b"x", "application/vnd.evil")], "type 'application/vnd.evil' without a file name"),
        ([titled("m"), descriptor(b"x", IMAGE_TAR)], "without a file name"),
    ],
)
async def test_a_layer_that_is_named_or_sized_wrongly_is_refused(
    liar: Liar, layers: list[dict[str, Any]], words: str
) -> None:
    liar.tag_layers(*layers)
    await liar.refused(words)
    assert [asked.target for asked in liar.server.asked] == ["/v2/m/manifests/1"]


async def test_a_model_pack_with_another_configuration_than_its_digest_says_is_refused(liar: Liar) -> None:
    weights = descriptor(b"x", "application/vnd.cncf.model.weight.v1.raw", **{"org.cncf.model.filepath": "m"})
    config = descriptor(b'{"descriptor": {}}', MODEL_CONFIG)
    liar.blobs[config["digest"]] = b'{"descriptor": {"authors": ["Mallory"]}}'
    liar.tag(manifest(config, [weights]))
    await liar.refused("configuration is not what its digest says")


async def test_a_model_pack_with_layers_of_an_unknown_kind_is_refused(liar: Liar) -> None:
    for kind in ("weight.v1.tar+xz", "weight.v1.raw", "weight.v9.raw", "evil.v1.raw"):
        liar.tag_layers(descriptor(b"x", f"application/vnd.cncf.model.{kind}"), config=MODEL_CONFIG)
        await liar.refused("type 'application/vnd.cncf.model")


async def test_annotations_that_are_no_plain_words_are_left_out_of_the_lineage(liar: Liar) -> None:
    document = manifest(descriptor(b"{}", EMPTY_CONFIG), [titled("m")])
    document["annotations"] = {"a": "x" * 9999, "b": "\x1b[31mred", "c": 7, "d\n": "e", "f": None, "g": "good"}
    liar.tag(document)
    assert (await liar.source.resolve(liar.ref)).lineage == {"a": "x" * 500, "g": "good"}


def sparse_by_pax() -> bytes:
    info = tarfile.TarInfo("models/m")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 50)}
    return info.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (packed(member("models/m", kind=tarfile.SYMTYPE, link="/etc/passwd")), "'models/m' as a symbolic link"),
        (packed(member("models/m", kind=tarfile.LNKTYPE, link="etc/shadow")), "'models/m' as a hard link"),
        (packed(member("models/m", kind=tarfile.CHRTYPE)), "as a device or a pipe"),
        (packed(member("models/m", kind=tarfile.FIFOTYPE)), "as a device or a pipe"),
        (packed(member("models", kind=tarfile.SYMTYPE, link="/")), "where the model's folder should be"),
        (packed(member("models", b"file")), "where the model's folder should be"),
        (packed(member("/models/m", b"x")), "leads out of the archive"),
        (packed(member("models/../../m", b"x")), "leads out of the archive"),
        (packed(member("models/a\\..\\b", b"x")), "not a plain relative path"),
        (packed(member("models/m", b"x"), member("./models//m", b"y")), "has 'm' twice"),
        (packed(member("models/m", b"x"), member("models/M", b"y")), "would be the same file"),
        (packed(*(member(f"models/{number}", b"x") for number in range(21))), "more than 20 files"),
        (packed(with_header("models/m", b"S", b"00000001000") + bytes(512)), "is a sparse file"),
        (packed(sparse_by_pax()), "is a sparse file"),
        (packed(with_header("models/m", b"0", b"\xff" * 12)), "is not a size"),
        (
            packed(with_header("models/m", b"0", b"\x80" + (1 << 60).to_bytes(11, "big"))),
            "ends in the middle of a file",
        ),
        (tar_of({"models/m": b"x" * 2000})[:1500], "ends in the middle of a file"),
        (tar_of({"models/m": bytes(10_500_000)}), "more than 10000000 bytes|10000000 are the most"),
        (b"no tar at all" * 100, "is not a size"),
        (tar_of({"elsewhere/m": b"x"}), "no files below /models"),
    ],
)
@pytest.mark.parametrize("compression", Compression)
async def test_a_hostile_image_is_refused_and_nothing_of_it_stays(
    liar: Liar, layer: bytes, words: str, compression: Compression
) -> None:
    kind = {Compression.GZIP: IMAGE_TAR_GZIP, Compression.ZSTD: IMAGE_TAR_ZSTD}.get(compression, IMAGE_TAR)
    liar.tag_layers(liar.blob(compressed(compression, layer), kind), config=IMAGE_CONFIG)
    await liar.refused(words)


async def test_the_size_that_a_bomb_has_when_unpacked_is_bounded(liar: Liar) -> None:
    liar.tag_layers(liar.blob(zipped(tar_of({"models/m": bytes(60_000_000)})), IMAGE_TAR_GZIP), config=IMAGE_CONFIG)
    await liar.refused("more than 10000000 bytes when decompressed")


async def test_links_and_devices_outside_of_the_model_are_nobodys_business(liar: Liar) -> None:
    layer = packed(
        member("bin", kind=tarfile.SYMTYPE, link="usr/bin"),
        member("dev/null", kind=tarfile.CHRTYPE),
        member("modelsx/m", kind=tarfile.SYMTYPE, link="/"),
        member("models/", kind=tarfile.DIRTYPE),
        member("models/m", b"model"),
    )
    liar.tag_layers(liar.blob(layer, IMAGE_TAR), config=IMAGE_CONFIG)
    assert await pulled(liar.source, str(liar.ref)) == {"m": b"model"}


async def test_a_folder_that_oras_packed_keeps_its_name_and_nothing_beside_it_gets_in(liar: Liar) -> None:
    unpack = {TITLE: "fraud", "io.deis.oras.content.unpack": "true"}
    layer = zipped(packed(member("fraud/1/m.onnx", b"model"), member("fraud/.wh.x", b"plain"), member("evil", b"x")))
    liar.tag_layers(liar.blob(layer, IMAGE_TAR_GZIP, **unpack), titled("config", b"c"))
    liar.blob(b"c", "")
    files = {"fraud/1/m.onnx": b"model", "fraud/.wh.x": b"plain", "config": b"c"}
    assert await pulled(liar.source, str(liar.ref)) == files


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (lambda layer: layer + b"more", "larger than the 10240 bytes"),
        (lambda layer: layer[:-1] + b"!", "something else than was announced"),
    ],
)
async def test_an_archive_other_than_its_digest_says_is_refused(liar: Liar, sent: Any, words: str) -> None:
    described = liar.blob(layer := tar_of({"models/m": b"model"}), IMAGE_TAR)
    assert len(layer) == 10240
    liar.blobs[described["digest"]] = sent(layer)
    liar.tag_layers(described, config=IMAGE_CONFIG)
    await liar.refused(words)


async def test_an_archive_that_was_spoiled_in_the_spool_is_fetched_again(liar: Liar) -> None:
    liar.tag_layers(liar.blob(tar_of({"models/m": b"model"}), IMAGE_TAR), config=IMAGE_CONFIG)
    resolution = await liar.source.resolve(liar.ref)
    (spooled,) = liar.spool.glob("*/files/*")
    spooled.unlink()
    assert await read_file(liar.source, resolution, resolution.files[0]) == b"model"
