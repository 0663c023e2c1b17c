"""A model repository on disk, made of links into the read-only folder of a model, for one Triton to read.

    <folder>/<name>/config.pbtxt    written here
    <folder>/<name>/1               a link to the folder that the model's file is in

A link of the folder, not of the file: a graph finds the weights beside it, and ONNX Runtime, which refuses weights
outside of the graph's own folder, sees them in it. Only a file that did not come with a folder of its own is linked
alone, for Triton looks at everything below a version. Hard links would give the cache's files a second name, which it
does not allow.
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from adapters.triton.model_config import WARM_UP_FOLDER, Wanted, adapted, backend_named, warm_up_file, written
from router.domain.errors import ModelUnavailable
from serving.tensors import DATATYPES, encode_binary
from serving.triton_ports import TriedModel

_CONFIG = "config.pbtxt"
_MAX_CONFIG_BYTES = 1024 * 1024
_PREFIX = "triton-"
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Repository:
    """`name`: the one model in it. `backend`: what Triton needs to serve it."""

    folder: Path
    name: str
    backend: str

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
    try:
        if beside:
            _sweep(Path(beside))
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=beside or None))
        try:
            _fill(folder / wanted.name, source, config)
            if source.root is None and wanted.triton.is_warmed_up:
                _write_sample(folder / wanted.name / WARM_UP_FOLDER, model)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        raise ModelUnavailable(
            f"no model repository can be made for Triton: {error.strerror}: {error.filename}"
        ) from error
    return Repository(folder, wanted.name, backend_named(config))


def _sweep(beside: Path) -> None:
    """Replicas that were killed could not remove theirs."""
    for left in beside.glob(f"{_PREFIX}*-*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not _is_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _source(file: Path, model_folder: str) -> _Source:
    """A file in a numbered folder beside a config.pbtxt is a version of a Triton model."""
    number, root = file.parent.name, file.parent.parent
    is_inside = bool(model_folder) and root.is_relative_to(model_folder)
    if is_inside and _VERSION.fullmatch(number) and (root / _CONFIG).is_file():
        return _Source(file, number, root, is_alone=False)
    return _Source(file, "1", None, is_alone=not model_folder)


def _config(source: _Source, wanted: Wanted, model: TriedModel) -> str:
    if source.root is None:
        return written(wanted, model, source.file.name)
    try:
        own = (source.root / _CONFIG).read_bytes()[: _MAX_CONFIG_BYTES + 1]
        return adapted(own.decode(), wanted, model, source.file.name)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelUnavailable(f"the model's config.pbtxt cannot be read: {error}") from None


def _fill(folder: Path, source: _Source, config: str) -> None:
    folder.mkdir()
    (folder / _CONFIG).write_text(config)
    if source.is_alone:
        (folder / source.number).mkdir()
        (folder / source.number / source.file.name).symlink_to(source.file)
    else:
        (folder / source.number).symlink_to(source.file.parent)
    if source.root is None:
        return
    for entry in source.root.iterdir():  # labels, what its own warm-up reads; no other version
        if entry.name != _CONFIG and not _VERSION.fullmatch(entry.name):
            (folder / entry.name).symlink_to(entry)


def _write_sample(folder: Path, model: TriedModel) -> None:
    folder.mkdir()
    for at, spec in enumerate(model.signature.inputs):
        data = encode_binary(spec.name, DATATYPES[spec.datatype], model.sample[spec.name])
        (folder / warm_up_file(at)).write_bytes(data)
