"""Manifests as anybody might write them: understood, or refused with `ModelUnavailable`; nothing else happens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.registries.oci_manifest import (
    Artifact,
    Blob,
    Entry,
    Image,
    Index,
    Loose,
    Packed,
    chosen,
    described,
    parsed,
)
from adapters.registries.tar_members import Compression
from router.domain.errors import ModelUnavailable
from router.domain.model_tree import checked_digest, checked_path
from router.models.ports import SourceLimits
from tests.registries.oci.docker_registry import EMPTY_CONFIG, IMAGE_CONFIG, MANIFEST, MODEL_CONFIG, TITLE

# Seconds mean nothing on a busy machine.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

LIMITS = SourceLimits(max_files=8, max_bytes=1000)
HEX = "5" * 64
KINDS = [
    "application/octet-stream",
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.cncf.model.weight.v1.raw",
    "application/vnd.cncf.model.weight.config.v1.tar+gzip",
    "application/vnd.cncf.model.code.v1.raw",
]

_rubbish = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just([]), st.just({}))


def _or_rubbish(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly right, so that what lies deeper is reached as well."""
    return st.integers(0, 9).flatmap(lambda roll: _rubbish if roll == 0 else right)


_annotations = st.fixed_dictionaries(
    {},
    optional={
        TITLE: _or_rubbish(st.sampled_from(["m", "M", "a/b", "../x", "/x", "a"])),
        "org.cncf.model.filepath": _or_rubbish(st.sampled_from(["m", "a/b", ".."])),
        "io.deis.oras.content.unpack": _or_rubbish(st.just("true")),
    },
)
_descriptors = st.fixed_dictionaries(
    {
        "mediaType": _or_rubbish(st.sampled_from([*KINDS, EMPTY_CONFIG, IMAGE_CONFIG, MODEL_CONFIG])),
        "digest": _or_rubbish(st.sampled_from([f"sha256:{HEX}", "sha256:../..", f"sha512:{HEX}"])),
        "size": _or_rubbish(st.integers(0, 600)),
    },
    optional={"annotations": _or_rubbish(_annotations), "platform": _or_rubbish(st.just({"os": "linux"}))},
)
_documents = st.fixed_dictionaries(
    {"schemaVersion": _or_rubbish(st.just(2))},
    optional={
        "mediaType": _or_rubbish(st.sampled_from([MANIFEST, "application/vnd.oci.image.index.v1+json"])),
        "config": _or_rubbish(_descriptors),
        "layers": _or_rubbish(st.lists(_or_rubbish(_descriptors), max_size=10)),
        "manifests": _or_rubbish(st.lists(_or_rubbish(_descriptors), max_size=3)),
        "annotations": _or_rubbish(st.dictionaries(st.text(max_size=3), _rubbish, max_size=3)),
    },
)


@PATIENT
@given(_or_rubbish(_documents))
def test_every_document_is_understood_or_refused(document: Any) -> None:
    try:
        found = parsed(json.dumps(document).encode(), MANIFEST, "m", LIMITS)
    except ModelUnavailable:
        return
    match found:
        case Index(entries):
            assert all(checked_digest(entry.digest) for entry in entries)
        case Artifact(layers) | Image(layers):
            for layer in layers:
                checked_digest(layer.blob.digest)
                checked_path(layer.path if isinstance(layer, Loose) else layer.root or "any")
            assert len(layers) <= LIMITS.max_files
            assert sum(layer.blob.size for layer in layers) <= LIMITS.max_bytes


@PATIENT
@given(_or_rubbish(st.dictionaries(st.text(max_size=3), st.one_of(_rubbish, st.lists(_rubbish)), max_size=3)))
def test_every_description_of_a_model_is_plain_words(descriptor: Any) -> None:
    words = described(json.dumps({"descriptor": descriptor}).encode(), "m")
    assert all(isinstance(word, str) and word.isprintable() for pair in words.items() for word in pair)


def _titled(media_type: str, title: str, **annotations: str) -> bytes:
    layer = {
        "mediaType": media_type,
        "digest": f"sha256:{HEX}",
        "size": 1,
        "annotations": {TITLE: title, **annotations},
    }
    config = {"mediaType": IMAGE_CONFIG, "digest": f"sha256:{HEX}", "size": 2}
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}).encode()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (_titled(KINDS[1], "m.onnx"), Loose("m.onnx", Blob(HEX, 1))),  # the type that oras gives to any file
        (_titled(KINDS[2], "model.tar.gz"), Loose("model.tar.gz", Blob(HEX, 1))),
        (_titled(KINDS[2], "fraud"), Packed(Blob(HEX, 1), Compression.GZIP, "fraud")),
        (
            _titled(KINDS[0], "f", **{"io.deis.oras.content.unpack": "true"}),
            Packed(Blob(HEX, 1), Compression.NONE, "f"),
        ),
    ],
)
def test_a_title_makes_a_file_and_a_packed_folder_is_told_apart(body: bytes, expected: Loose | Packed) -> None:
    found = parsed(body, MANIFEST, "m", LIMITS)
    assert isinstance(found, Artifact)
    assert found.layers == (expected,)


def test_the_model_for_any_platform_goes_before_the_one_for_this_one_and_attestations_do_not_count() -> None:
    here, there, anywhere = Entry("1" * 64, "linux/amd64"), Entry("2" * 64, "linux/arm64"), Entry("3" * 64, "")
    assert chosen(Index((here, there)), "linux/amd64", "m") == here
    assert chosen(Index((here, there, anywhere)), "linux/amd64", "m") == anywhere
    assert chosen(Index((there,)), "linux/amd64", "m") == there
    for unclear in ((there, there), (anywhere, anywhere), (here, here), ()):
        with pytest.raises(ModelUnavailable):
            chosen(Index(unclear), "linux/amd64", "m")
    described_entry = {"mediaType": MANIFEST, "digest": f"sha256:{HEX}", "size": 1}
    attestation = {**described_entry, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    body = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
    body["manifests"] = [described_entry, attestation, {**described_entry, "mediaType": "application/vnd.in-toto+json"}]
    assert parsed(json.dumps(body).encode(), "", "m", LIMITS) == Index((Entry(HEX, ""),))
