"""Clients' certificates, as far as it must be known who had them and which CA stands for them."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from router.domain.begun_streams import PeerCertificate
from router.domain.tls import BadCertificate


class PeerCertificates:
    """Implements `router.xds.doorkeeper.Peers`."""

    def read(self, shown: str) -> PeerCertificate:
        try:
            certificate = x509.load_pem_x509_certificate(unquote_to_bytes(shown))
            return PeerCertificate(
                serial=certificate.serial_number,
                names=_names(certificate),
                not_after=certificate.not_valid_after_utc,
                der=certificate.public_bytes(Encoding.DER),
            )
        except Exception:  # what it cannot read it says by many exceptions, of which some are plain ones
            raise BadCertificate("a client's certificate that Envoy took cannot be read here") from None

    def authorities(self, bundle: bytes) -> frozenset[bytes]:
        return frozenset(one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(bundle))

    def are_issuers(self, authorities: Collection[bytes], certificate: PeerCertificate) -> bool:
        leaf = x509.load_der_x509_certificate(certificate.der)
        return any(_has_issued(_authority(one), leaf) for one in authorities)


@lru_cache(maxsize=256)
def _authority(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def _names(certificate: x509.Certificate) -> frozenset[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return frozenset((*uris, *names.get_values_for_type(x509.DNSName)))


def _has_issued(authority: x509.Certificate, leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (InvalidSignature, TypeError, ValueError):
        return False
    except Exception:  # the names are right, and the signature is none that it can verify
        raise BadCertificate("who has issued a client's certificate that Envoy took cannot be seen here") from None
    return True
