"""What a Triton configuration that came with a model may say. Pure.

A config.pbtxt is text, and yet it can make Triton load a library, run Python or read any file on its machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.models.ports import AdmissionRefused
from router.models.trial import Check

MAX_CONFIG_BYTES = 1024 * 1024
CONFIG_SUFFIX = ".pbtxt"

_BACKENDS = ("", "onnxruntime")
_ENSEMBLE = "ensemble"
_PLATFORMS = ("", "onnxruntime_onnx", _ENSEMBLE)
_PYTHON = "python"


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """The part of it that decides what is loaded.

    `files`: names of files that it gives. `loads`: the fields in it that load code.
    """

    backend: str = ""
    platform: str = ""
    files: tuple[str, ...] = ()
    loads: tuple[str, ...] = ()


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
    for name in config.files:
        if "/" in name or "\\" in name or name == "..":
            raise _refused(f"{path!r} names the file {name[:200]!r}, which lies elsewhere", "name a file beside it")


def check_no_ensemble(configs: Mapping[str, TritonConfig]) -> None:
    """Where none of several graphs was chosen. Raises `AdmissionRefused`."""
    for path, config in configs.items():
        if config.platform == _ENSEMBLE:
            raise _refused(
                f"{path!r} is an ensemble of other models, and a deployment serves one model",
                "choose one of them after a '#' in the reference; ensembles are served by Tritons that run already, "
                "with triton: {mode: direct}",
            )


def _refused(found: str, to_do: str) -> AdmissionRefused:
    return AdmissionRefused(Check.FORMATS, found, to_do)
