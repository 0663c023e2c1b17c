"""Access: who may call an endpoint, and the keys that let a caller in. No key is here, only what it is known by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from router.domain.endpoint import AuthMode, Endpoint
from router.domain.tokens import TokenRules


class KeySlot(StrEnum):
    """An endpoint has two keys, so that callers can move to a new one before the old one goes."""

    PRIMARY = "primary"
    SECONDARY = "secondary"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept.

    `sha256`: of the key, in hex. A plain hash is enough: a key is 256 random bits, so there is no dictionary to try and
    nothing that a salt or a slow hash would make harder; and it can be checked at every request.
    """

    slot: KeySlot
    sha256: str
    created_at: datetime
    created_by: str

    @property
    def fingerprint(self) -> str:
        """What may be shown of it, to tell it from others."""
        return fingerprint_of(self.sha256)


@dataclass(frozen=True, slots=True)
class Anyone:
    """Whoever reaches the port."""


@dataclass(frozen=True, slots=True)
class KeyHolders:
    """Whoever shows one of these: slot and sha256, sorted. Nobody while there is none."""

    keys: tuple[tuple[KeySlot, str], ...] = ()


@dataclass(frozen=True, slots=True)
class CertificateHolders:
    """Whoever shows a certificate, signed by a CA that the listener trusts, with one of these names (SAN); sorted."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenHolders:
    """Whoever shows a token after `rules` that one of these keys has signed.

    `key_set`: a JWKS as JSON, public keys only. Nobody while it is empty, for then the keys are not known.
    """

    rules: TokenRules
    key_set: str = ""


Access = Anyone | KeyHolders | CertificateHolders | TokenHolders


def fingerprint_of(sha256: str) -> str:
    return sha256[:12]


def access_of(endpoint: Endpoint, keys: Iterable[ApiKey], key_set: str = "") -> Access:
    """`keys`: those of the endpoint; `key_set`: its identity provider's."""
    match endpoint.auth_mode:
        case AuthMode.NONE:
            return Anyone()
        case AuthMode.KEY:
            return KeyHolders(tuple(sorted((key.slot, key.sha256) for key in keys)))
        case AuthMode.MTLS:
            return CertificateHolders(tuple(sorted(set(endpoint.client_names))))
        case AuthMode.JWT:
            assert endpoint.jwt is not None  # Endpoint sees to it
            return TokenHolders(endpoint.jwt, key_set)
