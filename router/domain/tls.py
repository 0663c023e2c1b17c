"""TLS of a listener: which files it takes its certificates from, what is known of them, and when they run out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from router.domain.errors import CrossfadeError, Invalid

# Before that much of its life is left, an operator should have been told.
EXPIRES_SOON = timedelta(days=30)


class BadCertificate(CrossfadeError):
    """A certificate, key, CA bundle or revocation list that cannot be used. The message names the file and the fault.

    It never quotes the file.
    """


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files: the certificate with its intermediates behind it, and its private key."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """A listener that speaks TLS and nothing else.

    `certificates`: a client gets the one that has the name it asks for (SNI), else the first.
    `client_ca`: a bundle of CA certificates, empty when clients need no certificate. A client that shows one that these
    CAs did not sign is turned away; whether one is needed is each endpoint's own business.
    `client_crl`: revocation lists of these CAs, for every CA one, or empty.
    """

    certificates: tuple[CertificateFiles, ...]
    client_ca: str = ""
    client_crl: str = ""

    def __post_init__(self) -> None:
        if not self.certificates:
            raise Invalid("--tls-certificate", "TLS needs a certificate", "`crossfade tls init` makes one for a start")
        if self.client_crl and not self.client_ca:
            raise Invalid("--tls-client-crl", "revokes certificates of no CA", "give --tls-client-ca as well")

    @property
    def has_client_ca(self) -> bool:
        return bool(self.client_ca)


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What may be told of a certificate. `names`: its DNS names and addresses; `fingerprint`: sha256, in hex."""

    names: tuple[str, ...]
    issuer: str
    not_before: datetime
    not_after: datetime
    fingerprint: str

    def is_expired(self, now: datetime) -> bool:
        return now >= self.not_after

    def warning(self, now: datetime) -> str:
        """In words for an operator; empty while there is nothing to do."""
        if now < self.not_before:
            return f"is not valid before {self.not_before:%Y-%m-%d %H:%M} UTC"
        if self.is_expired(now):
            return f"expired on {self.not_after:%Y-%m-%d %H:%M} UTC: clients refuse it"
        if (left := self.not_after - now) < EXPIRES_SOON:
            return f"expires in {left.days} days" if left.days > 1 else f"expires in {left // timedelta(hours=1)} hours"
        return ""


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """Bytes that no log, error or repr shows."""

    value: bytes

    def __repr__(self) -> str:
        return "Secret(…)"


@dataclass(frozen=True, slots=True)
class CertificatePair:
    """A certificate chain and its key as PEM, checked to belong together. The key is in no repr."""

    chain: bytes
    key: Secret
    facts: CertificateFacts


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """One certificate of the listener. `facts` None: it has not been good since this process began.

    `refused`: why what is in the files now is not in force; empty when it is.
    """

    files: CertificateFiles
    facts: CertificateFacts | None
    refused: str


@dataclass(frozen=True, slots=True)
class ClientTrust:
    """Whose certificates are taken from clients: CA certificates and revocation lists as PEM.

    `revoked`: the serial numbers on these lists.
    """

    authorities: bytes
    revocations: bytes = b""
    revoked: frozenset[int] = frozenset()
