"""Where a model comes from, as the user wrote it, and what it turned out to be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from router.domain.errors import Invalid
from router.domain.model_tree import checked_digest, checked_path

SCHEMES = ("package", "file", "models", "oci", "hf", "https", "http", "s3", "gs", "az", "abfss")

_ASKED_BY_HOST = ("oci", "https", "http", "s3", "gs", "az", "abfss")
_WITHOUT_SLASHES = ("file", "models")  # MLflow writes models:/name/3

_REFERENCE = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*):(?://)?(?P<rest>.+)")
_HOW_TO_SIGN_IN = (
    "say in registries.yaml where they are: hosts: {HOST: {username: {env: NAME}, password: {file: PATH}}}"
)
# What sources write behind a '#' to name one moment is no choice of a file: https://host/m.onnx#sha256=…
_PINS = ("sha256=", "etag=", "listing=")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A reference as written, such as `package://magika/models/m.onnx` or `file:/srv/models/fraud.onnx`.

    Of a model of many files, `#onnx/model.onnx` at its end chooses the one that is loaded, also behind a pin
    (`s3://bucket/model/#listing=…#onnx/model.onnx`).
    """

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
        if scheme in _ASKED_BY_HOST and _has_password(scheme, rest):
            raise Invalid("model", "the reference holds a user or a password", _HOW_TO_SIGN_IN)
        ref = cls(scheme, rest)
        if ref.entry:
            checked_path(ref.entry)
        return ref

    @property
    def entry(self) -> str:
        """The chosen file, relative to the model's folder; empty when the reference chooses none."""
        _, mark, fragment = self.location.rpartition("#")
        is_generation = self.scheme == "gs" and fragment.isdecimal()
        return "" if not mark or is_generation or fragment.startswith(_PINS) else fragment

    @property
    def whole(self) -> ModelRef:
        """The reference without the choice of a file: what its source knows."""
        return ModelRef(self.scheme, self.location.rpartition("#")[0]) if self.entry else self

    def __str__(self) -> str:
        return f"{self.scheme}:{'' if self.scheme in _WITHOUT_SLASHES else '//'}{self.location}"


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """An immutable model on this machine, known by its digest (64 hex digits; see `ModelTree.digest`).

    `path` is what a backend is given: a file, or the model's folder when no file of it stands for all.
    """

    path: str
    sha256: str

    def __post_init__(self) -> None:
        checked_digest(self.sha256, "model")

    @property
    def folder(self) -> str:
        """The model's folder in the cache, which is named for the digest; empty for a file that lies elsewhere."""
        parts = PurePosixPath(self.path).parts
        return str(PurePosixPath(*parts[: parts.index(self.sha256) + 1])) if self.sha256 in parts else ""

    @property
    def short_digest(self) -> str:
        return self.sha256[:12]


def _has_password(scheme: str, rest: str) -> bool:
    """A container stands before an account (abfss://container@account) without a colon; a user, before a host."""
    before = rest.partition("/")[0].rpartition("@")[0]
    return bool(before) and (scheme in ("http", "https") or ":" in before)


def _known_schemes() -> str:
    *others, last = (f"{scheme}:{'' if scheme in _WITHOUT_SLASHES else '//'}" for scheme in SCHEMES)
    return f"{', '.join(others)} or {last}"
