"""A model repository on disk, made of links into the read-only folder of a model, for one Triton to read.

    <folder>/<name>/config.pbtxt    written here
    <folder>/<name>/1               a link to the folder that the model's file is in

An ensemble goes by that name as well; the models that it leads to are beside it, each by its own.

A link of the folder, not of the file: a graph finds the weights beside it, and ONNX Runtime, which refuses weights
outside of the graph's own folder, sees them in it. Only a file that did not come with a folder of its own is linked
alone, for Triton looks at everything below a version. Hard links would give the cache's files a second name, which it
does not allow.
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.triton.leftovers import new_folder, sweep
from adapters.triton.model_config import WARM_UP_FOLDER, Wanted, adapted, backend_named, leading, warm_up_file, written
from router.domain.errors import ModelUnavailable
from router.domain.triton_repository import CONFIG, MAX_CONFIG_BYTES, ONNX, Member, Served, is_version
from serving.tensors import DATATYPES, encode_binary
from serving.triton_ports import TriedModel


@dataclass(frozen=True, slots=True)
class Repository:
    """`name`: the model that answers. `backend`: what Triton needs to serve it. `parts`: the models that it leads to.

    `is_asked_first`: whether it is ready only when it has answered a request, because it is an ensemble, whose
    configuration cannot ask for a warm-up.
    """

    folder: Path
    name: str
    backend: str
    parts: tuple[str, ...] = ()
    is_asked_first: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of all models in it."""
        return (self.name, *self.parts)

    def remove(self) -> None:
        """The links, not what they lead to."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a model's parts are. `root`: of a Triton model's own folder, None for a mere graph. `is_alone`: what else
    is in its folder is none of it."""

    file: Path
    number: str
    root: Path | None
    is_alone: bool


def write_repository(beside: str, path: str, model_folder: str, wanted: Wanted, model: TriedModel) -> Repository:
    """Make one in a new folder inside `beside`, a folder of this machine's replicas alone; empty: where temporary files
    are. `path`: the model's file. `model_folder`: all that came with it; empty when that is the file alone.

    Raises `ModelUnavailable`.
    """
    source = _source(Path(path), model_folder)
    config = _config(source, wanted, model)
    folder = _made(beside, lambda folder: _write_model(folder, source, config, wanted, model))
    return Repository(folder, wanted.name, backend_named(config))


def write_ensemble(
    beside: str, model_folder: str, served: Served, wanted: Wanted, tried: Mapping[str, TriedModel]
) -> Repository:
    """Likewise for a repository of several models, of which an ensemble is served. `tried`: by the names of its parts.

    The ensemble gets the name that is wanted. A part that has it already gets another one, where steps name it, too.
    Raises `ModelUnavailable`.
    """
    root = Path(model_folder)
    names = _names_of(served.parts, wanted.name)
    ensembles: list[tuple[Member, str, str]] = []
    graphs: list[tuple[_Source, str, Wanted, TriedModel]] = []
    for member in (*served.parts, served.top):
        name = wanted.name if member is served.top else names[member.name]
        if member.is_ensemble:
            ensembles.append((member, name, leading(own_config(root / member.folder), name, names)))
            continue
        source = _source_of(root, member)
        as_wanted = replace(wanted, name=name)
        try:
            config = _config(source, as_wanted, tried[member.name])
        except ModelUnavailable as error:
            raise ModelUnavailable(f"{member.name}, a part of {served.top.name}: {error}") from None
        graphs.append((source, config, as_wanted, tried[member.name]))

    def fill(folder: Path) -> None:
        for source, config, as_wanted, model in graphs:
            _write_model(folder, source, config, as_wanted, model)
        for member, name, config in ensembles:
            _write_config(folder / name, config)
            (folder / name / str(member.version)).mkdir()
            _link_beside(root / member.folder, folder / name)

    folder = _made(beside, fill)
    return Repository(folder, wanted.name, ONNX, tuple(names.values()), wanted.triton.is_warmed_up)


def own_config(folder: Path) -> str:
    """The config.pbtxt that came with a model. Raises `ModelUnavailable`."""
    try:
        with (folder / CONFIG).open("rb") as file:
            return file.read(MAX_CONFIG_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelUnavailable(f"the model's config.pbtxt cannot be read: {error}") from None


def _names_of(parts: Iterable[Member], taken: str) -> dict[str, str]:
    """Name of a part → what this Triton calls it."""
    own = [part.name for part in parts]
    free = f"{taken}-part"
    while free in own:
        free += "-"
    return {name: free if name == taken else name for name in own}


def _made(beside: str, fill: Callable[[Path], None]) -> Path:
    """A new folder, filled. Raises `ModelUnavailable`."""
    try:
        if beside:
            sweep(Path(beside))
        folder = new_folder(beside)
        try:
            fill(folder)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        raise ModelUnavailable(
            f"no model repository can be made for Triton: {error.strerror}: {error.filename}"
        ) from error
    return folder


def _source(file: Path, model_folder: str) -> _Source:
    """A file in a numbered folder beside a config.pbtxt is a version of a Triton model."""
    number, root = file.parent.name, file.parent.parent
    is_inside = bool(model_folder) and root.is_relative_to(model_folder)
    if is_inside and is_version(number) and (root / CONFIG).is_file():
        return _Source(file, number, root, is_alone=False)
    return _Source(file, "1", None, is_alone=not model_folder)


def _source_of(folder: Path, member: Member) -> _Source:
    """A model of a repository has a folder of its own, with or without a config.pbtxt."""
    root = folder / member.folder
    return _Source(
        folder / member.graph, str(member.version), root if (root / CONFIG).is_file() else None, is_alone=False
    )


def _config(source: _Source, wanted: Wanted, model: TriedModel) -> str:
    if source.root is None:
        return written(wanted, model, source.file.name)
    return adapted(own_config(source.root), wanted, model, source.file.name)


def _write_model(folder: Path, source: _Source, config: str, wanted: Wanted, model: TriedModel) -> None:
    _fill(folder / wanted.name, source, config)
    if source.root is None and wanted.triton.is_warmed_up:
        _write_sample(folder / wanted.name / WARM_UP_FOLDER, model)


def _write_config(folder: Path, config: str) -> None:
    folder.mkdir()
    (folder / CONFIG).write_text(config)


def _fill(folder: Path, source: _Source, config: str) -> None:
    _write_config(folder, config)
    if source.is_alone:
        (folder / source.number).mkdir()
        (folder / source.number / source.file.name).symlink_to(source.file)
    else:
        (folder / source.number).symlink_to(source.file.parent)
    if source.root is not None:
        _link_beside(source.root, folder)


def _link_beside(root: Path, folder: Path) -> None:
    """What lies beside a model's versions: labels, what its own warm-up reads."""
    for entry in root.iterdir():
        if entry.name != CONFIG and not is_version(entry.name):
            (folder / entry.name).symlink_to(entry)


def _write_sample(folder: Path, model: TriedModel) -> None:
    folder.mkdir()
    for at, spec in enumerate(model.signature.inputs):
        data = encode_binary(spec.name, DATATYPES[spec.datatype], model.sample[spec.name])
        (folder / warm_up_file(at)).write_bytes(data)
