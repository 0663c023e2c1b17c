"""A repository of Triton's that came as one model: folders beside each other, of which an ensemble leads a request
through others. Which of them answers, and which must be there for it.

    fraud/config.pbtxt               platform: "ensemble", with steps that name the two below
    features/1/model.onnx            with or without a config.pbtxt
    score/config.pbtxt
    score/3/model.onnx

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/ensemble_models.md
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from posixpath import basename, dirname, join

from router.domain.errors import Invalid
from router.domain.triton import TRITON_MODEL_PATTERN

ONNX = "onnxruntime"
ENSEMBLE = "ensemble"
CONFIG = "config.pbtxt"
MAX_CONFIG_BYTES = 1024 * 1024
MAX_NESTING = 16  # ensembles of ensembles

_DEFAULT_FILE = "model.onnx"
_WITHOUT_CONFIG = re.compile(rf"(?P<folder>.+)/[1-9][0-9]{{0,17}}/{re.escape(_DEFAULT_FILE)}")
_VERSION = re.compile("[1-9][0-9]{0,17}")
_BACKEND_OF_PLATFORM = {"": ONNX, "onnxruntime_onnx": ONNX}
_NAME = re.compile(TRITON_MODEL_PATTERN)
_MANY = 10


@dataclass(frozen=True, slots=True)
class Step:
    """A model that an ensemble asks. `version` 0: the newest that there is."""

    model: str
    version: int = 0


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's config.pbtxt says of it. `steps`: of an ensemble. `file`: in the folder of a version."""

    backend: str = ONNX
    file: str = _DEFAULT_FILE
    steps: tuple[Step, ...] = ()


def backend_meant(backend: str, platform: str) -> str:
    """The backend that a config.pbtxt with these two words means. `platform`, the older one, counts without `backend`
    alone, as in Triton."""
    return backend or _BACKEND_OF_PLATFORM.get(platform, platform)


def facts_meant(backend: str, platform: str, file: str, steps: tuple[Step, ...]) -> ModelFacts:
    """What a config.pbtxt with these words says. `file`: empty when it names none."""
    return ModelFacts(backend_meant(backend, platform), file or _DEFAULT_FILE, steps)


def is_version(name: str) -> bool:
    """Whether a folder of that name is a version of the model that it lies in."""
    return _VERSION.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Member:
    """One model of a repository, in the version that is served. `folder`: its path, whose last part is its name."""

    folder: str
    version: int
    facts: ModelFacts

    @property
    def name(self) -> str:
        return basename(self.folder)

    @property
    def is_ensemble(self) -> bool:
        return self.facts.backend == ENSEMBLE

    @property
    def graph(self) -> str:
        """The path of its ONNX file. Not to be asked of an ensemble, which has none."""
        return f"{self.folder}/{self.version}/{self.facts.file}"


@dataclass(frozen=True, slots=True)
class Served:
    """`top` answers. `parts`: what it leads to, each once, and after whatever it leads to itself."""

    top: Member
    parts: tuple[Member, ...] = ()

    @property
    def graphs(self) -> tuple[str, ...]:
        """The ONNX files that run."""
        return tuple(member.graph for member in (*self.parts, self.top) if not member.is_ensemble)


def model_folders(paths: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Folder → its versions, ascending, of every model in a repository; empty when it is none, but a model's own folder
    or something else."""
    paths = tuple(paths)
    folders = {dirname(path) for path in paths if basename(path) == CONFIG}
    folders |= {match["folder"] for path in paths if (match := _WITHOUT_CONFIG.fullmatch(path))}
    if "" in folders:
        return {}
    found: dict[str, set[int]] = {folder: set() for folder in sorted(folders)}
    for path in paths:
        inside = dirname(path)
        while inside:
            folder, number = dirname(inside), basename(inside)
            if folder in found and is_version(number):
                found[folder].add(int(number))
            inside = folder
    return {folder: tuple(sorted(versions)) for folder, versions in found.items()}


def served_of(paths: Collection[str], facts: Mapping[str, ModelFacts], named: str) -> Served | None:
    """What is served of the model with these files. `facts`: folder → what its config.pbtxt says. `named`: the model
    that a deployment asks for; empty: the ensemble that is no part of another one.

    None when it has no ensemble, and none of its models is asked for: one graph is served, whichever that is.
    Raises `Invalid` for one that cannot be served whole.
    """
    repository = _Repository(
        {
            folder: _Found(folder, versions, facts.get(folder, ModelFacts()))
            for folder, versions in model_folders(paths).items()
        }
    )
    top = repository.named(named) if named else repository.topmost()
    if top is None:
        return None
    served = Served(_member(top, 0, ""), repository.parts_of(top))
    for graph in served.graphs:
        if graph not in paths or not graph.lower().endswith(".onnx"):
            raise Invalid(
                "", f"{graph!r} is no .onnx file of it", "a model of a repository is one in the folder of its version"
            )
    return served


@dataclass(frozen=True, slots=True)
class _Found:
    folder: str
    versions: tuple[int, ...]
    facts: ModelFacts

    @property
    def name(self) -> str:
        return basename(self.folder)

    def beside(self, name: str) -> str:
        return join(dirname(self.folder), name)


class _Repository:
    def __init__(self, models: Mapping[str, _Found]) -> None:
        self._models = models

    def named(self, name: str) -> _Found:
        found = [model for model in self._models.values() if model.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            places = ", ".join(model.folder for model in found)
            raise Invalid("triton.model", f"there are {len(found)} models {name!r}: {places}", "publish one of them")
        has = f"it has {_listed(self._models.values())}" if self._models else "it is no repository of several models"
        raise Invalid("triton.model", f"there is no model {name!r}", has)

    def topmost(self) -> _Found | None:
        ensembles = [model for model in self._models.values() if model.facts.backend == ENSEMBLE]
        parts = {model.beside(step.model) for model in ensembles for step in model.facts.steps}
        # When each is a part of another one, that is told of the first.
        tops = [model for model in ensembles if model.folder not in parts] or ensembles[:1]
        if len(tops) > 1:
            raise Invalid(
                "triton.model",
                f"there are {len(tops)} ensembles, of which none is a part of another: {_listed(tops)}",
                f"choose one, such as triton: {{mode: managed, model: {tops[0].name}}}",
            )
        return tops[0] if tops else None

    def parts_of(self, top: _Found) -> tuple[Member, ...]:
        parts: dict[str, Member] = {}
        asked: dict[str, int] = {}
        self._collect(top, (top.name,), parts, asked)
        return tuple(parts.values())

    def _collect(self, model: _Found, way: tuple[str, ...], parts: dict[str, Member], asked: dict[str, int]) -> None:
        """`way`: the ensembles that lead here, this one last. `parts`: those that are complete."""
        if model.facts.backend != ENSEMBLE:
            return
        if not model.facts.steps:
            raise Invalid("", f"the ensemble {model.name!r} has no steps", "name the models that it leads to")
        if len(way) > MAX_NESTING:
            raise Invalid("", f"more than {MAX_NESTING} ensembles lead from one to the next: {_way(way)}")
        for step in model.facts.steps:
            part = self._models.get(model.beside(step.model))
            if part is None:
                raise Invalid(
                    "",
                    f"the ensemble {model.name!r} leads to {step.model[:200]!r}, and no such model is beside it",
                    f"there are {_listed(self._models.values())}",
                )
            if part.name in way:
                raise Invalid("", f"ensembles lead to themselves: {_way((*way, part.name))}", "remove one of the steps")
            member = _member(part, step.version, model.name)
            if asked.setdefault(part.name, member.version) != member.version:
                raise Invalid(
                    "",
                    f"{part.name!r} is asked for in versions {asked[part.name]} and {member.version}",
                    "give one of them a folder and a name of its own",
                )
            if part.name not in parts:
                self._collect(part, (*way, part.name), parts, asked)
                parts[part.name] = member


def _member(model: _Found, version: int, asked_by: str) -> Member:
    """Raises `Invalid` for one that is not served."""
    if not _NAME.fullmatch(model.name):
        raise Invalid(
            "",
            f"the model {model.name[:200]!r} has a name that cannot stand in a path",
            "use 1 to 200 letters, digits, '.', '_' and '-', beginning with a letter, a digit or '_'",
        )
    if model.facts.backend not in (ONNX, ENSEMBLE):
        raise Invalid(
            "",
            f"the model {model.name!r} is for Triton's backend {model.facts.backend!r}, and of a repository only ONNX "
            "models and ensembles of them are served: a model's own code never runs",
            "export it to ONNX, or let a Triton that runs already serve it, with triton: {mode: direct}",
        )
    # Of an ensemble there is nothing to lie in a version's folder.
    versions = model.versions or ((1,) if model.facts.backend == ENSEMBLE else ())
    if not versions:
        raise Invalid("", f"the model {model.name!r} has no version", f"put it at {model.folder}/1/{model.facts.file}")
    number = version or versions[-1]
    if number not in versions:
        raise Invalid(
            "",
            f"the ensemble {asked_by!r} asks for version {version} of {model.name!r}",
            f"it has {', '.join(map(str, versions[-_MANY:]))}",
        )
    return Member(model.folder, number, model.facts)


def _listed(models: Iterable[_Found]) -> str:
    names = sorted(model.name for model in models)
    return ", ".join(names[:_MANY]) + (f" and {len(names) - _MANY} more" if len(names) > _MANY else "")


def _way(names: Iterable[str]) -> str:
    return " → ".join(names)
