"""Where a model comes from, as the user wrote it, and what it turned out to be."""

from __future__ import annotations

import re
from dataclasses import dataclass

from router.domain.errors import Invalid

SCHEMES = ("package", "file", "models", "oci", "hf", "https", "http", "s3", "gs", "az", "abfss")

_WITHOUT_SLASHES = ("file", "models")  # MLflow writes models:/name/3

_REFERENCE = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*):(?://)?(?P<rest>.+)")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A reference as written, such as `package://magika/models/m.onnx` or `file:/srv/models/fraud.onnx`."""

    scheme: str
    location: str

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise Invalid("model", f"{text!r} is not a model reference", f"begin with {_known_schemes()}")
        scheme, rest = match["scheme"], match["rest"]
        if scheme not in SCHEMES:
            raise Invalid("model", f"the scheme {scheme!r} is not supported", f"begin with {_known_schemes()}")
        return cls(scheme, rest)

    def __str__(self) -> str:
        return f"{self.scheme}:{'' if self.scheme in _WITHOUT_SLASHES else '//'}{self.location}"


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """An immutable model: a file on this machine and the sha256 (64 hex digits) of its content."""

    path: str
    sha256: str

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.sha256):
            raise Invalid("model", f"{self.sha256!r} is not a sha256 digest")

    @property
    def short_digest(self) -> str:
        return self.sha256[:12]


def _known_schemes() -> str:
    *others, last = (f"{scheme}:{'' if scheme in _WITHOUT_SLASHES else '//'}" for scheme in SCHEMES)
    return f"{', '.join(others)} or {last}"
