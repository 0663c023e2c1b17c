"""TLS to Tritons: the files that deployments name are looked at whenever Tritons are asked, and what is new and good in
them goes to Envoy. What is broken changes nothing, as with the listener's own (certificates.py), and an event says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from router.certificates import Reader, WatchedFiles
from router.domain.tls import (
    BadCertificate,
    CertificateFacts,
    CertificateFiles,
    CertificatePair,
    CertificateStatus,
    ClientTrust,
)
from router.domain.triton_tls import TritonTls
from router.events import EventLog


class Secrets(Protocol):
    """Whoever serves them. Implemented by router/xds/server.py."""

    def set_triton_certificate(self, tls: TritonTls, pair: CertificatePair) -> None: ...

    def set_triton_trust(self, tls: TritonTls, trust: ClientTrust) -> None: ...

    def keep_triton_secrets(self, wanted: Iterable[TritonTls]) -> None:
        """Forget those of all others."""


@dataclass(slots=True)
class _Kept:
    """What is known of the files of one `TritonTls`. `is_good`: they were, at least once."""

    pair: WatchedFiles
    trust: WatchedFiles
    is_pair_good: bool = False
    is_trust_good: bool = False
    facts: CertificateFacts | None = None

    def trouble(self, tls: TritonTls) -> str:
        if not self.is_trust_good:
            return self.trust.refused or f"{tls.ca} is not read yet"
        if tls.shown and not self.is_pair_good:
            return self.pair.refused or f"{tls.certificate} is not read yet"
        return ""


class TritonCertificates:
    """Belongs to one event loop."""

    def __init__(self, reader: Reader, secrets: Secrets, events: EventLog) -> None:
        self._reader = reader
        self._secrets = secrets
        self._events = events
        self._kept: dict[TritonTls, _Kept] = {}

    def look(self, wanted: Iterable[TritonTls]) -> None:
        """Put in force what is new and good in their files, and forget all others. Reads small files."""
        before, self._kept = self._kept, {}
        for tls in wanted:
            kept = before.get(tls) or _Kept(WatchedFiles(tls.certificate, tls.key), WatchedFiles(tls.ca))
            self._kept[tls] = kept
            self._take(kept.trust, kept.is_trust_good, partial(self._take_trust, tls, kept))
            if tls.shown:
                self._take(kept.pair, kept.is_pair_good, partial(self._take_pair, tls, kept))
        self._secrets.keep_triton_secrets(self._kept)

    def trouble(self, tls: TritonTls) -> str:
        """Why nobody can be reached with it: its files were never good. Empty when somebody can."""
        kept = self._kept.get(tls)
        return kept.trouble(tls) if kept else f"{tls.ca} is not read yet"

    def status(self) -> tuple[CertificateStatus, ...]:
        """What is shown to Tritons, and the CAs while they cannot be put in force."""
        rows = {
            tls.shown: CertificateStatus(tls.shown, kept.facts, kept.pair.refused)
            for tls, kept in self._kept.items()
            if tls.shown
        }
        rows |= {
            (files := CertificateFiles(tls.ca, "")): CertificateStatus(files, None, kept.trust.refused)
            for tls, kept in self._kept.items()
            if kept.trust.refused
        }
        return tuple(rows.values())

    def _take(self, watched: WatchedFiles, was_good: bool, take: Callable[[], None]) -> None:
        if not watched.is_new():
            return
        try:
            take()
        except BadCertificate as error:
            if was_good and not watched.has_settled:
                return  # one of two files that are being replaced
            watched.take(str(error))
            self._events.publish("certificate_refused", f"{error}; towards Triton, what was in force before stays")
        else:
            watched.take()

    def _take_trust(self, tls: TritonTls, kept: _Kept) -> None:
        self._secrets.set_triton_trust(tls, self._reader.trust(tls.ca, ""))
        kept.is_trust_good = True

    def _take_pair(self, tls: TritonTls, kept: _Kept) -> None:
        assert tls.shown is not None
        pair = self._reader.pair(tls.shown)
        self._secrets.set_triton_certificate(tls, pair)
        kept.is_pair_good, kept.facts = True, pair.facts
