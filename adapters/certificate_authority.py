"""Certificate authorities of one's own, and the certificates that they sign: for a start that of `crossfade tls init`,
and the gateway's internal one (internal_authority.py).

ECDSA on P-256 throughout: every client takes it, and a handshake costs the gateway a tenth of what RSA costs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from router.domain.tls import BadCertificate

CA_DAYS = 3650
# Public CAs issue no longer ones (825 days, later 398): some clients refuse more from any CA.
LEAF_DAYS = 397
_CLOCKS_DIFFER = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_authority(common_name: str, now: datetime) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = _builder(name, name, key.public_key(), now, timedelta(days=CA_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    return Authority(builder.sign(key, hashes.SHA256()), key)


def read_authority(certificate: Path, key: Path) -> Authority:
    """Raises `BadCertificate`."""
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    except OSError as error:
        raise BadCertificate(f"the CA cannot be read: {error.filename}: {str(error.strerror).lower()}") from None
    except (ValueError, TypeError):
        raise BadCertificate(f"{certificate} and {key} are not the CA that `crossfade tls init` made") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or loaded.public_key() != private.public_key():
        raise BadCertificate(f"{certificate} and {key} do not belong together")
    return Authority(loaded, private)


def issued(
    authority: Authority,
    names: Sequence[str],
    now: datetime,
    *,
    is_client: bool = False,
    days: int = LEAF_DAYS,
    serial: int = 0,
) -> tuple[bytes, bytes]:
    """A certificate and its key, as PEM. `names`: DNS names, IP addresses, and URIs such as spiffe://bank/app.

    `serial`: its number, which this CA has given to nobody else; 0: a random one.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if is_client else ExtendedKeyUsageOID.SERVER_AUTH
    lives = timedelta(days=days)
    certificate = signed(authority, key.public_key(), names, purpose, now, lives, serial=serial)
    return pem(certificate), key_pem(key)


def signed(
    authority: Authority,
    key: ec.EllipticCurvePublicKey,
    names: Sequence[str],
    purpose: x509.ObjectIdentifier,
    now: datetime,
    lives: timedelta,
    *,
    serial: int = 0,
) -> x509.Certificate:
    """A certificate of a key that somebody else may have. `names` and `serial`: as `issued` takes them."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    builder = _builder(subject, authority.certificate.subject, key, now, lives, serial)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    for extension, is_critical in (
        (x509.SubjectAlternativeName([general_name(name) for name in names]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([purpose]), False),
        (issuer, False),
    ):
        builder = builder.add_extension(extension, critical=is_critical)
    return builder.sign(authority.key, hashes.SHA256())


def revocation_list(authority: Authority, revoked: Sequence[bytes], now: datetime, days: int = 365) -> bytes:
    """The CA's list of the certificates (PEM) that it no longer stands for, as PEM."""
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=authority.certificate.subject,
        last_update=now - _CLOCKS_DIFFER,
        next_update=now + timedelta(days=days),
    )
    for certificate in revoked:
        serial = x509.load_pem_x509_certificate(certificate).serial_number
        builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, now - _CLOCKS_DIFFER).build())
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    lives: timedelta,
    serial: int = 0,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + lives)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def general_name(name: str) -> x509.GeneralName:
    """Of a DNS name, an IP address, or a URI such as spiffe://bank/app."""
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
