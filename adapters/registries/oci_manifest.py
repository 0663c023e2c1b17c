"""What a registry's manifests say, parsed into what a model consists of. Nothing here asks anybody.

Three ways to put a model into a registry are understood:
ModelPack (github.com/modelpack/model-spec), one layer for each file, named by `org.cncf.model.filepath`;
artifacts as `oras push` makes them, one layer for each file, named by `org.opencontainers.image.title`;
images as KServe's modelcars, whose file system has the model below `/models`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.registries.oci_reference import checked
from adapters.registries.tar_members import Compression
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_tree import check_names, checked_path
from router.models.ports import SourceLimits

MAX_MANIFEST_BYTES = 4 * 1024 * 1024  # the distribution specification asks registries to take no larger ones
MAX_CONFIG_BYTES = 1024 * 1024
IMAGE_ROOT = "models"

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
ACCEPT = ", ".join((*_MANIFESTS, *_INDEXES))

_MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
_IMAGE_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_IMAGE_LAYERS = {
    "application/vnd.oci.image.layer.v1.tar": Compression.NONE,
    "application/vnd.oci.image.layer.v1.tar+gzip": Compression.GZIP,
    "application/vnd.oci.image.layer.v1.tar+zstd": Compression.ZSTD,
    "application/vnd.docker.image.rootfs.diff.tar": Compression.NONE,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": Compression.GZIP,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": Compression.ZSTD,
}
_MODEL_ARCHIVES = {"tar": Compression.NONE, "tar+gzip": Compression.GZIP, "tar+zstd": Compression.ZSTD}
_MODEL_WEIGHTS = ("application/vnd.cncf.model.weight.v1.", "application/vnd.cncf.model.weight.config.v1.")
_MODEL_OTHERS = (  # what came with the model and is not served: never fetched
    "application/vnd.cncf.model.doc.v1.",
    "application/vnd.cncf.model.code.v1.",
    "application/vnd.cncf.model.dataset.v1.",
)

_TITLE = "org.opencontainers.image.title"
_FILEPATH = "org.cncf.model.filepath"
_FOLDER = "application/vnd.oci.image.layer.v1.tar+gzip"
_UNPACK = "io.deis.oras.content.unpack"
_REFERENCE_TYPE = "vnd.docker.reference.type"  # buildkit: attestations stand beside images in the index


@dataclass(frozen=True, slots=True)
class Blob:
    """`digest`: 64 hex digits. `size` in bytes."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Loose:
    """A layer that is one file of the model."""

    path: str
    blob: Blob


@dataclass(frozen=True, slots=True)
class Packed:
    """A layer that is a tar. The model's files in it lie below `root` ("": all of them are meant).

    `is_overlay`: one of an image's layers: it may remove what is below it, and `root` is no part of the files' names.
    """

    blob: Blob
    compression: Compression
    root: str
    is_overlay: bool = False


@dataclass(frozen=True, slots=True)
class Artifact:
    """Layers side by side."""

    layers: tuple[Loose | Packed, ...]
    annotations: Mapping[str, str]
    config: Blob | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """Layers over each other: later ones replace and remove what earlier ones have."""

    layers: tuple[Packed, ...]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """`platform`: os/architecture, "" when the manifest is for any."""

    digest: str
    platform: str


@dataclass(frozen=True, slots=True)
class Index:
    entries: tuple[Entry, ...]


def parsed(body: bytes, content_type: str, where: str, limits: SourceLimits) -> Artifact | Image | Index:
    """Raises `ModelUnavailable` with `where` for what is no manifest, is ambiguous, hostile or no model."""
    document = _object(body, where)
    media_type = document.get("mediaType") or content_type.partition(";")[0].strip()
    if document.get("schemaVersion") != 2:
        raise ModelUnavailable(f"{where}: has no manifest of version 2: push it again with a newer client")
    # CVE-2021-41190: a document that is both, and is taken for the one or the other.
    if "manifests" in document and ("layers" in document or "config" in document):
        raise ModelUnavailable(f"{where}: its manifest is ambiguous: an index and an image in one")
    if media_type in _INDEXES:
        return Index(tuple(_entries(_list(document, "manifests", where, limits), where)))
    if media_type not in _MANIFESTS:
        raise ModelUnavailable(f"{where}: {str(media_type)[:80]!r} is not a kind of manifest that is understood")
    return _manifest(document, where, limits)


def chosen(index: Index, platform: str, where: str) -> Entry:
    """The only manifest, else the only one for any platform, else the only one for `platform`.

    Raises `ModelUnavailable` when it is not clear which is meant.
    """
    anywhere = [entry for entry in index.entries if not entry.platform]
    here = [entry for entry in index.entries if entry.platform == platform]
    for candidates in (list(index.entries), anywhere, here):
        if len(candidates) == 1:
            return candidates[0]
    if not index.entries:
        raise ModelUnavailable(f"{where}: its index lists no manifest")
    named = ", ".join(f"{entry.platform or 'any'} is @sha256:{entry.digest[:12]}…" for entry in index.entries[:8])
    raise ModelUnavailable(f"{where}: it is not clear which model is meant ({named}): give the digest of one")


def described(body: bytes, where: str) -> dict[str, str]:
    """What a ModelPack's configuration tells of the model's origin."""
    descriptor = _object(body, where).get("descriptor")
    return plain_words(descriptor) if isinstance(descriptor, dict) else {}


def plain_words(annotations: Any, max_entries: int = 64, max_length: int = 500) -> dict[str, str]:
    """Those that are printable text of a bearable length; lists of text are joined."""
    if not isinstance(annotations, dict):
        return {}
    words = {}
    for key, value in list(annotations.items())[:max_entries]:
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        if isinstance(text, str) and text and text.isprintable() and key.isprintable() and len(key) <= max_length:
            words[key] = text[:max_length]
    return words


def _manifest(document: dict[str, Any], where: str, limits: SourceLimits) -> Artifact | Image:
    annotations = plain_words(document.get("annotations"))
    layers = _list(document, "layers", where, limits)
    config = document.get("config")
    if not isinstance(config, dict):
        raise ModelUnavailable(f"{where}: its manifest has no configuration")
    config_type = _type(config)
    if config_type == _MODEL_CONFIG:
        meant = [layer for layer in layers if not _type(layer).startswith(_MODEL_OTHERS)]
        artifact = Artifact(
            tuple(_model_layer(layer, where) for layer in meant), annotations, _blob(config, where, MAX_CONFIG_BYTES)
        )
    elif config_type in _IMAGE_CONFIGS and not any(_annotation(layer, _TITLE) for layer in layers):
        image = Image(tuple(_image_layer(layer, where) for layer in layers), annotations)
        _check_total([layer.blob for layer in image.layers], where, limits)
        return image
    else:
        artifact = Artifact(tuple(_titled_layer(layer, where) for layer in layers), annotations)
    if not artifact.layers:
        raise ModelUnavailable(f"{where}: has no files of a model")
    _check_total([layer.blob for layer in artifact.layers], where, limits)
    try:
        check_names(layer.path for layer in artifact.layers if isinstance(layer, Loose))
    except Invalid as error:
        raise ModelUnavailable(f"{where}: {error}") from None
    return artifact


def _model_layer(layer: dict[str, Any], where: str) -> Loose | Packed:
    kind = _type(layer)
    prefix = next((prefix for prefix in _MODEL_WEIGHTS if kind.startswith(prefix)), None)
    path = _annotation(layer, _FILEPATH) or _annotation(layer, _TITLE)
    match kind.removeprefix(prefix) if prefix else None:
        case "raw" if path:
            return Loose(_path(path, where), _blob(layer, where))
        case str(archive) if archive in _MODEL_ARCHIVES:
            return Packed(_blob(layer, where), _MODEL_ARCHIVES[archive], "")
    raise _foreign(kind, where)


def _titled_layer(layer: dict[str, Any], where: str) -> Loose | Packed:
    title = _annotation(layer, _TITLE)
    kind = _type(layer)
    if not title:
        raise _foreign(kind, where)
    # A folder, packed with its name before every other: oras says so, oras-py lets the layer's type say it.
    is_packed = _annotation(layer, _UNPACK) == "true" or (kind == _FOLDER and not title.endswith((".gz", ".tgz")))
    if is_packed:
        packed = next((it for it in Compression if it and kind.endswith(it)), Compression.NONE)
        return Packed(_blob(layer, where), packed, _path(title, where))
    return Loose(_path(title, where), _blob(layer, where))


def _image_layer(layer: dict[str, Any], where: str) -> Packed:
    kind = _type(layer)
    if kind not in _IMAGE_LAYERS:
        raise _foreign(kind, where)
    return Packed(_blob(layer, where), _IMAGE_LAYERS[kind], IMAGE_ROOT, is_overlay=True)


def _foreign(kind: str, where: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"{where}: has a layer of type {kind[:100]!r} without a file name, or that cannot be read: push the model as "
        "plain files (ORAS or ModelPack), or as an image with layers of tar, tar+gzip or tar+zstd, and the model "
        f"below /{IMAGE_ROOT}"
    )


def _entries(entries: list[dict[str, Any]], where: str) -> list[Entry]:
    found = []
    for entry in entries:
        if _type(entry) not in _MANIFESTS or _annotation(entry, _REFERENCE_TYPE):
            continue
        platform = entry.get("platform")
        named = f"{platform.get('os')}/{platform.get('architecture')}" if isinstance(platform, dict) else ""
        found.append(Entry(_blob(entry, where, MAX_MANIFEST_BYTES).digest, named))
    return found


def _blob(descriptor: dict[str, Any], where: str, max_bytes: int | None = None) -> Blob:
    digest, size = descriptor.get("digest"), descriptor.get("size")
    if not isinstance(digest, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ModelUnavailable(f"{where}: its manifest has an entry without digest or size")
    if max_bytes is not None and size > max_bytes:
        raise ModelUnavailable(f"{where}: has a document of {size} bytes; {max_bytes} are the most")
    return Blob(checked(digest, where), size)


def _check_total(blobs: list[Blob], where: str, limits: SourceLimits) -> None:
    if (total := sum(blob.size for blob in blobs)) > limits.max_bytes:
        raise ModelUnavailable(f"{where}: has {total} bytes; {limits.max_bytes} are the most that may be fetched")


def _path(path: str, where: str) -> str:
    try:
        return checked_path(path)
    except Invalid as error:
        raise ModelUnavailable(f"{where}: {error}") from None


def _object(body: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        begin = body[:60].decode(errors="replace")
        hint = "is it the login page of a proxy, or another server than a registry?"
        raise ModelUnavailable(f"{where}: answered with something else than a manifest: {begin!r}; {hint}")
    return document


def _list(document: dict[str, Any], key: str, where: str, limits: SourceLimits) -> list[dict[str, Any]]:
    entries = document.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ModelUnavailable(f"{where}: its manifest has no {key}")
    if len(entries) > limits.max_files:
        raise ModelUnavailable(f"{where}: its manifest has {len(entries)} {key}; {limits.max_files} are the most")
    return entries


def _type(descriptor: dict[str, Any]) -> str:
    return str(descriptor.get("mediaType"))


def _annotation(descriptor: dict[str, Any], key: str) -> str:
    annotations = descriptor.get("annotations")
    value = annotations.get(key) if isinstance(annotations, dict) else None
    return value if isinstance(value, str) else ""
