"""The gateway's internal CA: made once, kept in the data directory, and trusted by its Envoy and its replicas alone."""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.certificate_authority import Authority, key_pem, new_authority, pem, read_authority, signed
from adapters.certificates import facts_of
from router.domain.errors import Invalid
from router.domain.replica_tls import CERTIFICATE_LIVES, CertificateRequest, Certified, envoy_uri
from router.domain.tls import (
    BadCertificate,
    CertificateFacts,
    CertificateFiles,
    CertificatePair,
    CertificateStatus,
    ClientTrust,
    Secret,
)
from router.private_files import write_private

_MAX_REQUEST_BYTES = 8192


class InternalAuthority:
    """Implements `router.replica_certificates.Authority`. `gateway`: its id, which is in all names.

    `lives`: for how long its certificates are good. The CA's own is good for ten years: a gateway that becomes older
    is given a new one by removing the folder, and its replicas are started again.
    """

    def __init__(self, gateway: str, authority: Authority, file: Path, lives: timedelta = CERTIFICATE_LIVES) -> None:
        self._gateway = gateway
        self._authority = authority
        self._file = file
        self._lives = lives

    @classmethod
    def in_folder(cls, folder: Path, gateway: str, now: datetime) -> InternalAuthority:
        """The one that is kept there, else a new one. Raises `BadCertificate` when what is there is broken: a new one
        in its place would lock out the replicas that run."""
        certificate, key = folder / "ca.pem", folder / "ca.key"
        if not certificate.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            made = new_authority(f"Crossfade internal CA of {gateway}", now)
            write_private(key, key_pem(made.key))
            write_private(certificate, pem(made.certificate))  # last: it says that both are there
        try:
            return cls(gateway, read_authority(certificate, key), certificate)
        except BadCertificate as error:
            raise BadCertificate(
                f"{error}; bring {folder} back from a backup, or remove it and start the gateway's replicas again"
            ) from None

    @property
    def trust(self) -> ClientTrust:
        return ClientTrust(pem(self._authority.certificate))

    @property
    def status(self) -> CertificateStatus:
        return CertificateStatus(CertificateFiles(str(self._file), ""), facts_of(self._authority.certificate), "")

    def for_envoy(self, now: datetime) -> CertificatePair:
        """A client's, with a key of its own, which goes to Envoy and into no file."""
        key = ec.generate_private_key(ec.SECP256R1())
        name, purpose = envoy_uri(self._gateway), ExtendedKeyUsageOID.CLIENT_AUTH
        certificate = signed(self._authority, key.public_key(), [name], purpose, now, self._lives)
        return CertificatePair(pem(certificate), Secret(key_pem(key)), facts_of(certificate))

    def for_replica(self, request: CertificateRequest, now: datetime) -> Certified:
        """A server's, for that name and address and for nothing else that the request may ask for.

        Raises `BadCertificate` when the request is malformed, not signed with its own key, or of somebody else.
        """
        name = request.name
        try:
            name.check()
        except Invalid as error:
            raise BadCertificate(f"the request is malformed: {error}") from None
        if name.gateway != self._gateway:
            raise BadCertificate(f"the request is for a replica of the gateway {name.gateway}, not {self._gateway}")
        key = _key_of(request.signing_request, [name.uri, name.ip])
        names, purpose = [name.uri, name.ip], ExtendedKeyUsageOID.SERVER_AUTH
        certificate = signed(self._authority, key, names, purpose, now, self._lives)
        facts: CertificateFacts = facts_of(certificate)
        return Certified(pem(certificate), self.trust.authorities, facts.not_before, facts.not_after)


def _key_of(signing_request: bytes, names: list[str]) -> ec.EllipticCurvePublicKey:
    """The key that is asked to be certified for `names`, a URI and an address, and for no other."""
    if len(signing_request) > _MAX_REQUEST_BYTES:
        raise BadCertificate("the request is larger than any")
    try:
        parsed = x509.load_pem_x509_csr(signing_request)
        is_signed = parsed.is_signature_valid
        key, asked = parsed.public_key(), _names_in(parsed)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        raise BadCertificate("the request is malformed") from None
    except Exception as error:  # of cryptography's own kinds: an algorithm that it does not know, a doubled extension
        raise BadCertificate(f"the request is malformed ({type(error).__name__})") from None
    if not is_signed:
        raise BadCertificate("the request is not signed with the key that it is for")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadCertificate("the request's key is not ECDSA on P-256")
    if asked != names:
        raise BadCertificate(f"the request of {', '.join(names)} is for {', '.join(asked) or 'nobody'}")
    return key


def _names_in(parsed: x509.CertificateSigningRequest) -> list[str]:
    found = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [_written(name) for name in found]


def _written(name: x509.GeneralName) -> str:
    """As `ReplicaName` has it."""
    match name.value:
        case str(text):
            return text
        case ipaddress.IPv4Address() | ipaddress.IPv6Address() as address:
            return str(address)
        case _:
            return type(name).__name__
