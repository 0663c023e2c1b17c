"""ONNX Runtime's errors in words that a client or an operator may read: no status prefix, no source file, no folder."""

from __future__ import annotations

import re
from pathlib import Path

from serving.errors import BadRequest, ModelFailed, ScoringError

_SOURCE_LOCATION = re.compile(r"\S*/\S+\.(?:cc|cpp|h|cu|cuh)(?::\d+)?(?: [^\[\n]*?\))? ?")
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")


def scoring_error(error: Exception) -> ScoringError:
    """What a failed run means for whoever sent the inputs."""
    words = plain_words(error)
    # ONNX Runtime says INVALID_ARGUMENT for inputs that do not fit, but also for what a node finds wrong while it runs.
    if type(error).__name__ == "InvalidArgument" and "while running" not in words:
        return BadRequest(words)
    return ModelFailed(words)


def plain_words(error: Exception, path: Path | None = None) -> str:
    """`path`: the model's file, whose folder is not to be told."""
    words = _SOURCE_LOCATION.sub("", _STATUS.sub("", str(error)))
    if path is not None:
        words = words.replace(str(path), path.name).replace(f"{path.parent}/", "")
    return " ".join(words.split()) or type(error).__name__
