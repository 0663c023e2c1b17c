"""Which of a registry's many files are the model: found by their names, before anything is fetched. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from posixpath import basename, dirname

from router.domain.errors import ModelUnavailable
from router.models.formats import Kind, kind_of

_TRITON = re.compile(r"(.*/)?(config\.pbtxt|[0-9]+/model\.(onnx|plan|pt|graphdef|savedmodel))")
_MANY = 5


@dataclass(frozen=True, slots=True)
class Layout:
    """`paths` lie under `folder` ("" for the root), which is not part of the model's own names."""

    folder: str
    paths: tuple[str, ...]

    def name(self, path: str) -> str:
        return path[len(self.folder) + 1 :] if self.folder else path


def layout_of(paths: Iterable[str], inside: str = "") -> Layout:
    """The model among `paths`. `inside`: the file or folder that was asked for, "" for everything.

    It is the one ONNX file with what is named after it (external data: `model.onnx_data`), or all of a Triton model
    repository, or all of a folder that is signed: who signed it vouches for the whole. Raises `ModelUnavailable` when
    there is none, or more than one.
    """
    every = sorted(paths)
    if inside in every:
        return _around(every, inside)
    below = below_folder(every, inside)
    if not below:
        raise ModelUnavailable(f"there is no {inside!r} in it" if inside else "it holds no files")
    if any(_TRITON.fullmatch(path) for path in below):
        return Layout(inside, below)
    return _around(every, the_onnx(below))


def _around(paths: Sequence[str], model: str) -> Layout:
    folder = dirname(model)
    return Layout(folder, below_folder(paths, folder) if is_signed(paths, folder) else with_data(paths, model))


def is_signed(paths: Iterable[str], folder: str) -> bool:
    return any(dirname(path) == folder and kind_of(path) is Kind.SIGNATURE for path in paths)


def below_folder(paths: Iterable[str], folder: str) -> tuple[str, ...]:
    return tuple(sorted(path for path in paths if not folder or path.startswith(f"{folder}/")))


def the_onnx(paths: Sequence[str]) -> str:
    """The only ONNX file of `paths`. Raises `ModelUnavailable`."""
    models = [path for path in paths if path.lower().endswith(".onnx")]
    if len(models) == 1:
        return models[0]
    if models:
        names = ", ".join(models[:_MANY]) + (", …" if len(models) > _MANY else "")
        raise ModelUnavailable(f"it holds {len(models)} ONNX files: name one, with /{models[0]} at the end ({names})")
    raise ModelUnavailable(f"none of its {len(paths)} files is an ONNX file: export the model to ONNX")


def with_data(paths: Iterable[str], model: str) -> tuple[str, ...]:
    """`model`, and what lies beside it and is named after it."""
    stem = model.removesuffix(".onnx")
    begins = (f"{model}.", f"{model}_", f"{stem}.data")
    beside = (path for path in paths if dirname(path) == dirname(model) and basename(model).endswith(".onnx"))
    return tuple(sorted({model, *(path for path in beside if path.startswith(begins))}))
