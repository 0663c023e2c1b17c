"""What a signature over a model says, and whether it says it of these files. Pure; the cryptography is an adapter's.

The format is OpenSSF Model Signing 1.0 (https://github.com/ossf/model-signing-spec): a Sigstore bundle as JSON, in it a
DSSE envelope (https://github.com/secure-systems-lab/dsse) around an in-toto statement that lists every file's sha256.
Nothing in a payload is read before a signature over it has been verified.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from posixpath import basename
from typing import Any, Protocol

from router.domain.model_tree import ModelTree
from router.models.formats import Kind, kind_of
from router.models.ports import AdmissionRefused
from router.models.trial import Check

MAX_BUNDLE_BYTES = 16 * 1024 * 1024

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_WHOLE_MODEL = "."  # the name of the only file when a file was signed, not a folder


class SignaturePolicy(StrEnum):
    """`WARN` lets a model in whose signature is missing or wrong, and says so."""

    REQUIRE = "require"
    WARN = "warn"
    OFF = "off"


class NotSigned(Exception):
    """The text is not a signature that counts; says why."""


@dataclass(frozen=True, slots=True)
class Signed:
    """Whose key it was, and what they signed: path → sha256 of every file."""

    signer: str
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Envelope:
    """`signed_bytes`: what the signatures are over."""

    payload: bytes
    signed_bytes: bytes
    signatures: tuple[bytes, ...]


class Verifier(Protocol):
    """Implemented by adapters/model_signatures.py."""

    def verify(self, bundle: bytes) -> Signed:
        """Raises `NotSigned`: by none of the keys that may sign."""


def signature_files(tree: ModelTree) -> tuple[str, ...]:
    """The signatures in the model's own folder, `model.sig` first. Those further down are files like any other."""
    found = [file.path for file in tree.files if "/" not in file.path and kind_of(file.path) is Kind.SIGNATURE]
    return tuple(sorted(found, key=lambda path: (path != "model.sig", path)))


def envelope_of(bundle: bytes) -> Envelope:
    """Raises `NotSigned`."""
    try:
        document = json.loads(bundle)
        envelope = document["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        payload_type = envelope["payloadType"]
        signatures = tuple(base64.b64decode(each["sig"], validate=True) for each in envelope["signatures"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NotSigned("it is no Sigstore bundle with a DSSE envelope") from None
    if payload_type != PAYLOAD_TYPE:
        raise NotSigned(f"it signs {str(payload_type)[:80]!r}, not {PAYLOAD_TYPE!r}")
    kind = PAYLOAD_TYPE.encode()
    return Envelope(payload, b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload), signatures)


def files_of(payload: bytes) -> dict[str, str]:
    """Path → sha256, of a payload whose signature is good. Raises `NotSigned`."""
    try:
        return _files_of(json.loads(payload))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NotSigned("its statement is not one about a model") from None


def check_signed(signed: Signed, tree: ModelTree) -> None:
    """Raises `AdmissionRefused` unless exactly the files of the tree are signed, besides the signatures."""
    beside = set(signature_files(tree))
    found = {file.path: file.sha256 for file in tree.files if file.path not in beside}
    wanted = dict(signed.files)
    if wanted.keys() == {_WHOLE_MODEL} and len(found) == 1:
        wanted = dict.fromkeys(found, wanted[_WHOLE_MODEL])
    for path in sorted(wanted.keys() - found.keys()):
        raise _refused(f"{path[:200]!r} is signed by {signed.signer} and is missing", "publish the model whole")
    for path in sorted(found.keys() - wanted.keys()):
        raise _refused(
            f"{path!r} is not among the files that {signed.signer} signed", "remove it, or sign the model again"
        )
    for path in sorted(found):
        if found[path] != wanted[path]:
            raise _refused(
                f"{path!r} is not the file that {signed.signer} signed", "publish the signed file, or sign again"
            )


def _files_of(statement: Any) -> dict[str, str]:
    if (statement["_type"], statement["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise NotSigned(f"its statement is a {str(statement['predicateType'])[:80]!r}, not {PREDICATE_TYPE!r}")
    predicate = statement["predicate"]
    method = predicate["serialization"]["method"]
    if method != "files":
        raise NotSigned(f"it lists {str(method)[:40]!r}, not files")
    files: dict[str, str] = {}
    all_digests = hashlib.sha256()
    for resource in predicate["resources"]:
        path, algorithm, digest = resource["name"], resource["algorithm"], resource["digest"]
        if algorithm != "sha256":
            raise NotSigned(f"it lists digests of {str(algorithm)[:40]!r}, not of sha256")
        if path in files:
            raise NotSigned(f"it lists {str(path)[:80]!r} twice")
        files[path] = digest
        all_digests.update(bytes.fromhex(digest))
    (subject,) = statement["subject"]
    if subject["digest"]["sha256"] != all_digests.hexdigest():
        raise NotSigned("the files that it lists are not those of its own subject")
    return files


def key_name(path: str, fingerprint: str) -> str:
    """How a signer is called: by the key's file and the beginning of its digest."""
    return f"{basename(path)} (sha256:{fingerprint[:12]})"


def _refused(found: str, to_do: str) -> AdmissionRefused:
    return AdmissionRefused(Check.SIGNATURE, found, to_do)
