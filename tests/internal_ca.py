"""The gateway's internal CA for tests, and replicas and gateways that have its certificates."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from adapters.certificate_authority import Authority, issued, new_authority
from adapters.certificates import facts_of
from adapters.internal_authority import InternalAuthority, KeptAuthority
from adapters.replica_tls import ReplicaKeys
from adapters.tls_client import LiveClientContext
from router.domain.replica_tls import CertificateRequest, Certified, ReplicaName
from router.domain.tls import CertificatePair, ClientTrust, Secret
from router.replica_client import ReplicaClient

GATEWAY = "cf0a1b2c"
BLUE = ReplicaName(GATEWAY, "fraud", "blue", "00ab", "127.0.0.1")


def now() -> datetime:
    return datetime.now(UTC)


def internal_ca(gateway: str = GATEWAY, authority: Authority | None = None) -> InternalAuthority:
    """One that is in no file, with a key of its own unless it is given one."""
    kept = KeptAuthority(authority or new_authority("an internal CA", now()), Path("/nowhere"))
    return InternalAuthority(gateway, [kept], kept.folder)


def request_of(name: ReplicaName, keys: ReplicaKeys | None = None) -> CertificateRequest:
    return CertificateRequest(name, (keys or ReplicaKeys()).request(name))


def certified(ca: InternalAuthority, name: ReplicaName = BLUE, at: datetime | None = None) -> ReplicaKeys:
    """A replica's keys, with a certificate. `at`: when it was made; now, when that is left out."""
    keys = ReplicaKeys()
    keys.take(ca.for_replica(request_of(name, keys), at or now()))
    return keys


def renew(ca: InternalAuthority, keys: ReplicaKeys, name: ReplicaName) -> Certified:
    got = ca.for_replica(request_of(name, keys), now())
    keys.take(got)
    return got


def context_of(ca: InternalAuthority, pair: CertificatePair | None = None) -> ssl.SSLContext:
    """The gateway's own, as the control plane has it; `pair`: shown instead."""
    live = LiveClientContext()
    live.set_replica_tls(pair or ca.for_envoy(now()), ca.trust)
    return live.context


def stolen(authority: Authority, name: ReplicaName) -> CertificatePair:
    """A replica's certificate and its key, as whoever has broken into it has them."""
    chain, key = issued(authority, [name.uri, name.ip], now())
    return CertificatePair(chain, Secret(key), facts_of(x509.load_pem_x509_certificate(chain)))


def client_of(ca: InternalAuthority, token: str) -> ReplicaClient:
    return ReplicaClient(token, context_of(ca))


def client_without_tls(token: str) -> ReplicaClient:
    """Of a gateway whose replicas are all on its host."""
    return ReplicaClient(token, LiveClientContext().context)


@dataclass(frozen=True, slots=True)
class Witnessed:
    """Implements `router.replica_certificates.Secrets`: remembers what it was given."""

    given: list[tuple[CertificatePair, ClientTrust]] = field(default_factory=list)

    def set_replica_tls(self, pair: CertificatePair, trust: ClientTrust) -> None:
        self.given.append((pair, trust))
