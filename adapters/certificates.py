"""Certificates, keys and revocation lists as files: read, and checked to be what they should be.

For TLS, this file, certificate_authority.py, internal_authority.py, peer_certificates.py and replica_tls.py alone touch
`cryptography`. Its errors can quote what they read, so they are not passed on.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from router.domain.tls import BadCertificate, CertificateFacts, CertificateFiles, CertificatePair, ClientTrust, Secret

_MIN_RSA_BITS = 2048
_MAX_FILE_BYTES = 1024 * 1024


class PemFiles:
    """Implements `router.certificates.Reader`."""

    def pair(self, files: CertificateFiles) -> CertificatePair:
        return read_pair(files)

    def trust(self, authorities: str, revocations: str) -> ClientTrust:
        return read_trust(authorities, revocations)


def read_pair(files: CertificateFiles) -> CertificatePair:
    """Raises `BadCertificate` when either file cannot be used, or they do not belong together."""
    chain, key = _read(files.certificate), _read(files.key)
    certificates = _certificates(files.certificate, chain)
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except TypeError:
        raise BadCertificate(f"{files.key} is encrypted: the gateway needs the key without a passphrase") from None
    except Exception:  # whatever it is; not passed on and not logged, for it can quote the key
        raise BadCertificate(f"{files.key} holds no private key in PEM") from None
    leaf = certificates[0]
    match private:
        case rsa.RSAPrivateKey() if private.key_size < _MIN_RSA_BITS:
            raise BadCertificate(f"{files.key} is too weak: an RSA key needs at least {_MIN_RSA_BITS} bits")
        case rsa.RSAPrivateKey():
            pass
        case ec.EllipticCurvePrivateKey() if private.curve.name in ("secp256r1", "secp384r1", "secp521r1"):
            pass
        case _:
            raise BadCertificate(f"{files.key} is of a kind that Envoy does not take: use RSA, or ECDSA on P-256")
    if _spki(leaf.public_key()) != _spki(private.public_key()):
        raise BadCertificate(f"{files.certificate} and {files.key} do not belong together")
    return CertificatePair(chain, Secret(key), facts_of(leaf))


def read_trust(authorities: str, revocations: str) -> ClientTrust:
    """A CA bundle, and revocation lists of the same CAs (empty: none). Raises `BadCertificate`."""
    bundle = _read(authorities)
    issuers = {certificate.subject for certificate in _certificates(authorities, bundle)}
    if not revocations:
        return ClientTrust(bundle)
    lists = _read(revocations)
    try:
        found = {item.issuer: item for item in map(_revocation_list, _pem_parts(lists, b"X509 CRL"))}
    except ValueError:
        raise BadCertificate(f"{revocations} holds a revocation list that cannot be read") from None
    if missing := issuers - found.keys():
        names = ", ".join(sorted(name.rfc4514_string() for name in missing))
        raise BadCertificate(
            f"{revocations} has no revocation list of {names}: without it, none of its clients gets in"
        )
    revoked = frozenset(entry.serial_number for item in found.values() for entry in item)
    return ClientTrust(bundle, lists, revoked)


def facts_of(certificate: x509.Certificate) -> CertificateFacts:
    return CertificateFacts(
        names=_names(certificate),
        issuer=certificate.issuer.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = names.get_values_for_type(x509.IPAddress)
    return (*names.get_values_for_type(x509.DNSName), *(str(address) for address in addresses))


def _certificates(path: str, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise BadCertificate(f"{path} holds no certificate in PEM, or a broken one") from None


def _revocation_list(pem: bytes) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl(pem)


def _pem_parts(content: bytes, label: bytes) -> list[bytes]:
    """Raises `ValueError` when there is none, or an unfinished one."""
    begin, end = b"-----BEGIN " + label + b"-----", b"-----END " + label + b"-----"
    parts = content.split(begin)[1:]
    if not parts or any(end not in part for part in parts):
        raise ValueError("no complete part")
    return [begin + part.partition(end)[0] + end + b"\n" for part in parts]


def _spki(public: object) -> bytes:
    encoding, kind = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(public.public_bytes(encoding, kind))  # type: ignore[attr-defined]  # every kind of public key has it


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadCertificate(f"{path} cannot be read: {str(error.strerror).lower()}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise BadCertificate(f"{path} is larger than any certificate")
    return content
