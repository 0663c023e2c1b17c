"""Certificates in force: the files are looked at twice a second, and what is new and good in them goes to Envoy.

A pair whose certificate and key do not belong together, or that is broken, changes nothing: an event says so, and the
one before stays in force. Files are often replaced one after the other, so a fault is told only of files that have
stood still from one look to the next.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from router.domain.tls import (
    BadCertificate,
    CertificateFacts,
    CertificateFiles,
    CertificatePair,
    CertificateStatus,
    ClientTrust,
    ListenerTls,
)
from router.events import EventLog

_LOOK_EVERY_S = 0.4


class Reader(Protocol):
    """Reads and checks the files. Implemented by adapters/certificates.py. Raises `BadCertificate`."""

    def pair(self, files: CertificateFiles) -> CertificatePair: ...

    def trust(self, authorities: str, revocations: str) -> ClientTrust: ...


class Secrets(Protocol):
    """Whoever serves them. Implemented by router/xds/server.py and adapters/tls_server.py.

    Raises `BadCertificate` for what it cannot serve.
    """

    def set_certificate(self, index: int, pair: CertificatePair) -> None: ...

    def set_client_trust(self, trust: ClientTrust) -> None: ...


_Stamp = tuple[tuple[int, int, int], ...]


class WatchedFiles:
    """Some files that belong together: what they were when they were last taken, and last looked at."""

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._taken: _Stamp | None = None
        self._seen: _Stamp | None = None
        self._before: _Stamp | None = None
        self.refused = ""

    def is_new(self) -> bool:
        """Whether they differ from what was last taken, for good or bad."""
        self._before, self._seen = self._seen, tuple(_stamp(path) for path in self._paths)
        return self._seen != self._taken

    @property
    def has_settled(self) -> bool:
        """Whether they are what they were at the look before."""
        return self._before == self._seen

    def take(self, refused: str = "") -> None:
        self._taken, self.refused = self._seen, refused


class Certificates:
    """Belongs to one event loop."""

    def __init__(self, tls: ListenerTls, reader: Reader, secrets: Secrets, events: EventLog) -> None:
        self._tls = tls
        self._reader = reader
        self._secrets = secrets
        self._events = events
        self._pairs = [WatchedFiles(files.certificate, files.key) for files in tls.certificates]
        self._trust = WatchedFiles(*(path for path in (tls.client_ca, tls.client_crl) if path))
        self._facts: list[CertificateFacts | None] = [None] * len(tls.certificates)
        self._client_trust: ClientTrust | None = None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Put in force what is new and good. Reads files, small ones, and only those that changed."""
        for index, watched in enumerate(self._pairs):
            self._look(watched, partial(self._take_pair, index))
        if self._tls.has_client_ca:
            self._look(self._trust, self._take_trust)

    def status(self) -> tuple[CertificateStatus, ...]:
        """Every certificate, and the CAs for clients while they or their revocation lists cannot be put in force."""
        rows = zip(self._tls.certificates, self._facts, self._pairs, strict=True)
        status = [CertificateStatus(files, facts, watched.refused) for files, facts, watched in rows]
        if self._trust.refused:
            status.append(CertificateStatus(CertificateFiles(self._tls.client_ca, ""), None, self._trust.refused))
        return tuple(status)

    def _look(self, watched: WatchedFiles, take: Callable[[], None]) -> None:
        if not watched.is_new():
            return
        try:
            take()
        except BadCertificate as error:
            if watched.has_settled:
                watched.take(str(error))
                self._events.publish("certificate_refused", f"{error}; what was in force before stays")
        else:
            watched.take()

    def _take_pair(self, index: int) -> None:
        pair = self._reader.pair(self._tls.certificates[index])
        now, before = self._events.now(), self._facts[index]
        if before is not None and pair.facts.is_expired(now) and not before.is_expired(now):
            raise BadCertificate(f"{self._tls.certificates[index].certificate} {pair.facts.warning(now)}")
        self._secrets.set_certificate(index, pair)
        self._facts[index] = pair.facts
        if before is not None and before != pair.facts:
            self._events.publish(
                "certificate_changed",
                f"the certificate of {', '.join(pair.facts.names) or 'no name'} was replaced:"
                f" valid until {pair.facts.not_after:%Y-%m-%d}",
            )

    def _take_trust(self) -> None:
        trust = self._reader.trust(self._tls.client_ca, self._tls.client_crl)
        self._secrets.set_client_trust(trust)
        if self._client_trust is not None and self._client_trust != trust:
            self._events.publish(
                "client_trust_changed", f"clients' certificates are now judged by {self._tls.client_ca}"
            )
        self._client_trust = trust


def status_by_file(of_ports: Iterable[Certificates]) -> tuple[CertificateStatus, ...]:
    """Of each file one line, though ports may share it; one that refuses it is the one to know of."""
    found: dict[CertificateFiles, CertificateStatus] = {}
    for status in (status for certificates in of_ports for status in certificates.status()):
        if status.files not in found or status.refused:
            found[status.files] = status
    return tuple(found.values())


def certificate_metrics(statuses: Iterable[CertificateStatus]) -> str:
    """When each certificate in force runs out, and whether its files hold what could not be taken."""
    expiries, refusals = [], []
    for status in statuses:
        label = f'file="{_escaped(status.files.certificate)}"'
        refusals.append(f"crossfade_certificate_refused{{{label}}} {int(bool(status.refused))}")
        if status.facts is not None:
            expiry = int(status.facts.not_after.timestamp())
            expiries.append(f"crossfade_certificate_expiry_timestamp_seconds{{{label}}} {expiry}")
    if not refusals:
        return ""
    lines = [
        "# HELP crossfade_certificate_expiry_timestamp_seconds When the certificate in force runs out.",
        "# TYPE crossfade_certificate_expiry_timestamp_seconds gauge",
        *expiries,
        "# HELP crossfade_certificate_refused Whether its files hold what could not be put in force.",
        "# TYPE crossfade_certificate_refused gauge",
        *refusals,
    ]
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _stamp(path: str) -> tuple[int, int, int]:
    """What changes when a file is written or replaced, also behind a symbolic link. Zeros: it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
