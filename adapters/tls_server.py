"""TLS of the ports that Python itself listens on: the admin API, the metrics, and replicas on other hosts.

The server holds one context for good. In each handshake it gives way to the newest one, so a new certificate or
revocation list needs no restart, and open connections keep what they began with.

TLS 1.3 and nothing older: every client that operators use speaks it, all of its suites are good, and it renegotiates
nothing. No session is resumed, for a resumed one would not show its certificate again.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from router.domain.tls import BadCertificate, CertificatePair, ClientTrust


class LiveContext:
    """Implements `router.certificates.Secrets` for a port with one certificate. `context` is for its server.

    `shown`: what the certificate is called in errors. With `verifies_clients`, a client without a certificate of a CA
    that is trusted is turned away, and with `checks_revocations` one whose certificate is on its list; a server's
    certificate is none for a client (RFC 5280, extended key usage). Until there is a certificate to show, and somebody
    to trust where that is asked for, every handshake fails.
    """

    def __init__(
        self,
        shown: str,
        *,
        verifies_clients: bool,
        checks_revocations: bool = False,
        protocols: Sequence[str] = ("http/1.1",),
    ) -> None:
        self._shown = shown
        self._verifies_clients = verifies_clients
        self._protocols = protocols
        self._pair: CertificatePair | None = None
        self._trust: ClientTrust | None = None
        self._newest: ssl.SSLContext | None = None
        self.context = _server_context(protocols)
        # A connection has these from the context that it begins with; certificates and CAs come from the newest.
        if verifies_clients:
            self.context.verify_mode = ssl.CERT_REQUIRED
        if checks_revocations:
            self.context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        self.context.sni_callback = self._give_way

    def set_certificate(self, index: int, pair: CertificatePair) -> None:
        """Raises `BadCertificate` when OpenSSL does not take it; what was in force stays."""
        self._newest = self._built(pair, self._trust)
        self._pair = pair

    def set_client_trust(self, trust: ClientTrust) -> None:
        """Raises `BadCertificate` when OpenSSL does not take it; what was in force stays."""
        self._newest = self._built(self._pair, trust)
        self._trust = trust

    def _built(self, pair: CertificatePair | None, trust: ClientTrust | None) -> ssl.SSLContext | None:
        if pair is None or (self._verifies_clients and trust is None):
            return None
        context = _server_context(self._protocols)
        try:
            with as_file(pair.chain + b"\n" + pair.key.value) as path:
                context.load_cert_chain(path)
            if trust is not None:
                with as_file(trust.authorities + b"\n" + trust.revocations) as path:
                    context.load_verify_locations(path)
        except (ssl.SSLError, OSError) as error:
            # OpenSSL's errors name what is wrong, and quote nothing.
            reason = getattr(error, "reason", None) or type(error).__name__
            raise BadCertificate(f"{self._shown} cannot be used: {reason}") from None
        return context

    def _give_way(self, connection: ssl.SSLObject, name: str | None, beginning: ssl.SSLContext) -> int | None:
        """Called in every handshake, also when the client asks for no name."""
        if self._newest is None:
            return int(ssl.ALERT_DESCRIPTION_INTERNAL_ERROR)
        connection.context = self._newest
        return None


def _server_context(protocols: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(list(protocols))
    return context


@contextmanager
def as_file(content: bytes) -> Iterator[str]:
    """A path that holds exactly what was checked, and is in memory only: OpenSSL reads chains and lists from files."""
    descriptor = os.memfd_create("crossfade-tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
