"""Models as OCI image layouts: the documents in them, written and read in one place. Pure.

An image layout (github.com/opencontainers/image-spec, image-layout.md) is a folder, here in a tar: `oci-layout`,
`index.json`, and `blobs/sha256/…`. Each model is a manifest as ModelPack has it (github.com/modelpack/model-spec): one
raw layer for each file, named by an annotation, so that `skopeo copy oci-archive:FILE.tar docker://…` puts it into a
registry from which `oci://` pulls it. Equal models give equal bytes: there is no time in them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_tree import ModelTree, TreeFile, checked_digest

LAYOUT_FILE, INDEX_FILE = "oci-layout", "index.json"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
MAX_MODELS = 1000

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
_CONFIG = "application/vnd.cncf.model.config.v1+json"
_RAW = "application/vnd.cncf.model.weight.v1.raw"
_RAW_LAYERS = (_RAW, "application/vnd.cncf.model.weight.config.v1.raw")
_FILEPATH = "org.cncf.model.filepath"
_TITLE = "org.opencontainers.image.title"
_OURS = "org.crossfade.model."
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_MAX_WORD = 2000


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model came from, as whoever exported it had it recorded. All empty: the layout does not say."""

    ref: str = ""
    pinned: str = ""
    revision: str = ""
    version: str = ""
    lineage: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class LayoutModel:
    """One model of a layout. `manifest`: its digest."""

    manifest: str
    tree: ModelTree
    origin: Origin


def blob_name(digest: str) -> str:
    return f"blobs/sha256/{checked_digest(digest)}"


def blob_of(name: str) -> str:
    """The digest that a member's name stands for; empty for another name."""
    match = _BLOB.fullmatch(name)
    return match[1] if match else ""


# --- written


def documents_of(tree: ModelTree, origin: Origin) -> tuple[bytes, bytes]:
    """The model's manifest and configuration."""
    config = _json(
        {
            "config": {"format": "onnx"},
            "descriptor": {"version": origin.version},
            "modelfs": {"type": "layers", "diffIds": [f"sha256:{file.sha256}" for file in tree.files]},
        }
    )
    layers = [
        {**_descriptor(_RAW, file.sha256, file.size), "annotations": {_FILEPATH: file.path, _TITLE: file.path}}
        for file in tree.files
    ]
    words = {"ref": origin.ref, "pinned": origin.pinned, "revision": origin.revision, "version": origin.version}
    annotations = {f"{_OURS}{key}": word for key, word in words.items() if word}
    if origin.lineage:
        annotations[f"{_OURS}lineage"] = json.dumps(dict(origin.lineage), sort_keys=True)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "artifactType": _ARTIFACT,
        "config": _descriptor(_CONFIG, hashlib.sha256(config).hexdigest(), len(config)),
        "layers": layers,
    }
    return _json(manifest | ({"annotations": annotations} if annotations else {})), config


def index_of(manifests: Sequence[bytes]) -> bytes:
    entries = [
        _descriptor(_MANIFEST, hashlib.sha256(body).hexdigest(), len(body)) | {"artifactType": _ARTIFACT}
        for body in manifests
    ]
    entries.sort(key=lambda entry: str(entry["digest"]))
    return _json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries})


# --- read


def check_layout(body: bytes) -> None:
    """Raises `ModelUnavailable` for another version than the one there is."""
    if _object(body, LAYOUT_FILE).get("imageLayoutVersion") != "1.0.0":
        raise ModelUnavailable(f"{LAYOUT_FILE}: is of a version that is not known")


def manifests_of(index: bytes) -> tuple[tuple[str, int], ...]:
    """Digest and size of every manifest that an index lists. Raises `ModelUnavailable`."""
    document = _object(index, INDEX_FILE)
    if document.get("schemaVersion") != 2 or "layers" in document or "config" in document:
        raise ModelUnavailable(f"{INDEX_FILE}: is not an index of version 2")
    entries = _objects(document.get("manifests"), INDEX_FILE)
    if not 1 <= len(entries) <= MAX_MODELS:
        raise ModelUnavailable(f"{INDEX_FILE}: lists {len(entries)} models, and 1 to {MAX_MODELS} may be in one file")
    for entry in entries:
        if entry.get("mediaType") != _MANIFEST:
            raise ModelUnavailable(f"{INDEX_FILE}: lists {str(entry.get('mediaType'))[:80]!r}, which is no model")
    return tuple(_blob(entry, INDEX_FILE) for entry in entries)


def model_of(digest: str, body: bytes) -> LayoutModel:
    """What a manifest says. Raises `ModelUnavailable`."""
    where = f"manifest {digest[:12]}"
    document = _object(body, where)
    if document.get("schemaVersion") != 2 or "manifests" in document:
        raise ModelUnavailable(f"{where}: is not a manifest of version 2")
    files = []
    for layer in _objects(document.get("layers"), where):
        annotations = _object_in(layer.get("annotations"))
        path = annotations.get(_FILEPATH) or annotations.get(_TITLE)
        if not isinstance(path, str) or _is_packed(layer):
            raise ModelUnavailable(
                f"{where}: has a layer of type {str(layer.get('mediaType'))[:80]!r} that is not one plain, named file"
            )
        sha256, size = _blob(layer, where)
        try:
            files.append(TreeFile(path, size, sha256))
        except Invalid as error:
            raise ModelUnavailable(f"{where}: {error}") from None
    try:
        return LayoutModel(
            checked_digest(digest), ModelTree.of(files), _origin(_object_in(document.get("annotations")))
        )
    except Invalid as error:
        raise ModelUnavailable(f"{where}: {error}") from None


def _is_packed(layer: Mapping[str, Any]) -> bool:
    kind = str(layer.get("mediaType"))
    is_archive = kind.endswith((".tar", "+gzip", "+zstd")) or kind.startswith("application/vnd.oci.image.layer.")
    return is_archive or (kind.startswith("application/vnd.cncf.model.") and kind not in _RAW_LAYERS)


def _origin(annotations: Mapping[str, Any]) -> Origin:
    words = {key: _word(annotations.get(f"{_OURS}{key}")) for key in ("ref", "pinned", "revision", "version")}
    told = annotations.get(f"{_OURS}lineage")
    lineage = _object(told.encode(), "lineage") if isinstance(told, str) else {}
    pairs = sorted((key, _word(value)) for key, value in lineage.items() if _word(key) and _word(value))
    return Origin(**words, lineage=tuple(pairs[:64]))


def _word(value: Any) -> str:
    """Printable text of a bearable length, else nothing."""
    return value if isinstance(value, str) and value.isprintable() and len(value) <= _MAX_WORD else ""


def _blob(descriptor: Mapping[str, Any], where: str) -> tuple[str, int]:
    digest, size = descriptor.get("digest"), descriptor.get("size")
    if not isinstance(digest, str) or type(size) is not int or size < 0:
        raise ModelUnavailable(f"{where}: has an entry without digest or size")
    try:
        return checked_digest(digest.removeprefix("sha256:")), size
    except Invalid as error:
        raise ModelUnavailable(f"{where}: {error}") from None


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _object(body: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ModelUnavailable(f"{where}: is not a JSON object")
    return document


def _objects(value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ModelUnavailable(f"{where}: has no list of entries where one should be")
    return value


def _object_in(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
