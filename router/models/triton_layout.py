"""What a Triton configuration that came with a model may say. Pure.

A config.pbtxt is text, and yet it can make Triton load a library, run Python or read any file on its machine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from posixpath import basename, dirname

from router.domain.errors import Invalid
from router.domain.triton_repository import (
    CONFIG,
    ENSEMBLE,
    ONNX,
    ModelFacts,
    Served,
    Step,
    backend_meant,
    facts_meant,
    served_of,
)
from router.models.ports import AdmissionRefused
from router.models.trial import Check
from serving.signature import Signature

CONFIG_SUFFIX = ".pbtxt"

_BACKENDS = ("", ONNX)
_PLATFORMS = ("", "onnxruntime_onnx", ENSEMBLE)
_PYTHON = "python"


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """The part of it that decides what is loaded.

    `files`: names of files that it gives. `loads`: the fields in it that load code. `file`: of the model itself, when
    it is not called as Triton expects. Of an ensemble: its `steps`, and its `signature`.
    """

    backend: str = ""
    platform: str = ""
    files: tuple[str, ...] = ()
    loads: tuple[str, ...] = ()
    file: str = ""
    steps: tuple[Step, ...] = ()
    signature: Signature | None = None

    @property
    def facts(self) -> ModelFacts:
        return facts_meant(self.backend, self.platform, self.file, self.steps)


def check_config(path: str, config: TritonConfig, may_bring_code: bool) -> None:
    """`may_bring_code`: see `check_formats`. Raises `AdmissionRefused`."""
    if config.loads:
        raise _refused(f"{path!r} loads code: {', '.join(config.loads)}", "remove it")
    backends = (*_BACKENDS, _PYTHON) if may_bring_code else _BACKENDS
    if config.backend not in backends or config.platform not in _PLATFORMS:
        raise _refused(
            f"{path!r} asks for {config.backend or config.platform!r}, and only ONNX and ensembles come from elsewhere",
            "export the model to ONNX",
        )
    if config.backend and config.platform and config.backend != backend_meant("", config.platform):
        raise _refused(
            f"{path!r} says backend {config.backend!r} and platform {config.platform!r}, which are two things",
            "remove one of the two",
        )
    for name in config.files:
        if "/" in name or "\\" in name or name == "..":
            raise _refused(f"{path!r} names the file {name[:200]!r}, which lies elsewhere", "name a file beside it")


def check_no_ensemble(configs: Mapping[str, TritonConfig]) -> None:
    """Where none of several graphs was chosen. Raises `AdmissionRefused`."""
    for path, config in configs.items():
        if config.facts.backend == ENSEMBLE:
            raise _refused(
                f"{path!r} is an ensemble of other models, and this deployment serves one model",
                "choose one of them after a '#' in the reference; ensembles are served by Tritons, which are run for "
                "them (triton: {mode: managed}) or run already (mode: direct)",
            )


def check_served(paths: Collection[str], configs: Mapping[str, TritonConfig], named: str) -> Served | None:
    """What a Triton of our own serves of these files, if they are a repository of several models: see `served_of`.

    Raises `AdmissionRefused`.
    """
    facts = {dirname(path): config.facts for path, config in configs.items() if basename(path) == CONFIG}
    try:
        return served_of(paths, facts, named)
    except Invalid as error:
        raise _refused(error.message, error.hint) from None


def _refused(found: str, to_do: str) -> AdmissionRefused:
    return AdmissionRefused(Check.FORMATS, found, to_do)
