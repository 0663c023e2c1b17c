"""What the layers of an image mean for the model in it: which members are its files, and what covers what. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from adapters.registries.oci_manifest import Packed
from adapters.registries.tar_members import Damaged, Kind, Member
from router.domain.errors import Invalid
from router.domain.model_tree import checked_path

_WHITEOUT = ".wh."  # opencontainers/image-spec, layer.md, "Whiteouts"
_OPAQUE = ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class Put:
    """A file. `path` is relative to the root."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Remove:
    """What earlier layers have at `path` ("": everything), and below it, is gone."""

    path: str


Change = Put | Remove


def overlaid(layers: Iterable[Iterable[Change]]) -> dict[str, tuple[int, Put]]:
    """What is there when every layer has been put over the earlier ones: path → (number of the layer, file)."""
    files: dict[str, tuple[int, Put]] = {}
    folders: set[str] = {""}  # all that there ever were, so that few paths need a look at every file
    for number, changes in enumerate(layers):
        # Whiteouts hide what is below this layer, wherever in the layer they stand.
        for change in sorted(changes, key=lambda change: isinstance(change, Put)):
            files.pop(change.path, None)
            if change.path in folders:
                below = f"{change.path}/" if change.path else ""
                for path in [path for path in files if path.startswith(below)]:
                    del files[path]
            if isinstance(change, Put):
                for above in _folders_of(change.path):
                    files.pop(above, None)
                    folders.add(above)
                files[change.path] = (number, change)
    return files


def meant(member: Member, layer: Packed) -> str | Remove | None:
    """What a member of the layer's archive is for the model: the path of a file of it, a removal, or nothing.

    Raises `Damaged` for what a model may not have.
    """
    folder, _, name = member.name.rpartition("/")
    if layer.is_overlay and name.startswith(_WHITEOUT):
        hidden = folder if name == _OPAQUE else f"{folder}/{name.removeprefix(_WHITEOUT)}".lstrip("/")
        if _is_at_or_below(layer.root, hidden):
            return Remove("")
        return Remove(hidden[len(layer.root) + 1 :]) if _is_at_or_below(hidden, layer.root) else None
    if member.kind is Kind.FOLDER:
        return None
    if _is_at_or_below(layer.root, member.name) and layer.root:
        raise Damaged(f"has {member.name!r} as {member.kind.value}, where the model's folder should be")
    if not _is_at_or_below(member.name, layer.root):
        return None
    if member.kind is not Kind.FILE:
        raise Damaged(f"has {member.name!r} as {member.kind.value}: a model has plain files only")
    path = member.name[len(layer.root) + 1 :] if layer.is_overlay else member.name
    try:
        return checked_path(path)
    except Invalid as error:
        raise Damaged(f"has a file whose {error}") from None


def _folders_of(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


def _is_at_or_below(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(f"{folder}/")
