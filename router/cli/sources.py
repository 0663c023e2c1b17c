"""Spec files as the command line names them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from router.domain.errors import Invalid

if TYPE_CHECKING:
    from router.spec import SpecSource


def spec_source(file: str, option: str = "--file") -> SpecSource:
    """Raises `Invalid` for `option` when the file cannot be read."""
    from router.spec import SpecSource

    if file == "-":
        return SpecSource("<stdin>", sys.stdin.buffer.read(), os.getcwd())
    try:
        return SpecSource(file, Path(file).read_bytes(), str(Path(file).resolve().parent))
    except OSError as error:
        raise Invalid(option, f"{file}: {error.strerror}", "name a spec file, or - for stdin") from None
