"""A replica's side of TLS between hosts: keys that are in this process's memory and nowhere else, and servers that let
nobody in but the gateway. Implements `serving.certified.Keys`.
"""

from __future__ import annotations

import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from adapters.certificate_authority import general_name, key_pem
from adapters.certificates import facts_of
from adapters.tls_server import LiveContext
from router.domain.replica_tls import Certified, ReplicaName
from router.domain.tls import BadCertificate, CertificatePair, ClientTrust, Secret

_SHOWN = "the certificate that the control plane gave"


class ReplicaKeys:
    def __init__(self) -> None:
        self._http1 = LiveContext(_SHOWN, verifies_clients=True)
        self._http2 = LiveContext(_SHOWN, verifies_clients=True, protocols=("h2",))
        self._key: ec.EllipticCurvePrivateKey | None = None

    @property
    def context(self) -> ssl.SSLContext:
        return self._http1.context

    @property
    def http2_context(self) -> ssl.SSLContext:
        return self._http2.context

    def request(self, name: ReplicaName) -> bytes:
        self._key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([general_name(name.uri), general_name(name.ip)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        signed = builder.add_extension(names, critical=True).sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def take(self, certified: Certified) -> None:
        if self._key is None:
            raise BadCertificate("a certificate that was not asked for")
        try:
            facts = facts_of(x509.load_pem_x509_certificate(certified.chain))
        except ValueError:
            raise BadCertificate(f"{_SHOWN} is none") from None
        pair = CertificatePair(certified.chain, Secret(key_pem(self._key)), facts)
        for live in (self._http1, self._http2):
            live.set_client_trust(ClientTrust(certified.authorities))
            live.set_certificate(0, pair)
