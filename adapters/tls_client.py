"""TLS of the connections that the control plane itself opens to replicas on other hosts."""

from __future__ import annotations

import ssl

from adapters.tls_server import as_file
from router.domain.tls import CertificatePair, ClientTrust


class LiveClientContext:
    """Implements `router.replica_certificates.Secrets`. `context` shows and trusts what it was given last, and before
    that nobody: every handshake fails. Open connections keep what they began with.
    """

    def __init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3

    def set_replica_tls(self, pair: CertificatePair, trust: ClientTrust) -> None:
        self.context.load_verify_locations(cadata=trust.authorities.decode())
        with as_file(pair.chain + b"\n" + pair.key.value) as path:
            self.context.load_cert_chain(path)
