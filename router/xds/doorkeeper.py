"""Doorkeeper: who has begun a stream, and who of them must go when it changes whom an endpoint lets in.

Envoy judges a request when it begins. What it judged by may change while a stream goes on: so the callers of streams to
endpoints that do not let in everybody are kept here, and judged again whenever keys, names, rules, lists or CAs change.
The changes come on the way on which Envoy gets them for what begins later (server.py). No socket, no clock.

The event loop stands still meanwhile, and streams that Envoy tells of then wait. Measured (2-core machine, not idle):
10,000 streams are judged in 0.06 s by keys and a list of 1,000 networks, in 0.1 s by two lists.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from router.domain.begun_streams import PeerCertificate, Shown, Terms, are_met, runs_out_at
from router.domain.tls import BadCertificate, ClientTrust

# Each costs memory, here and in Envoy. One more is refused: unwatched, it could not be ended.
MAX_BEGUN = 10_000

NOT_ADMITTED = "what this stream was opened with is no longer valid here"
TOO_MANY = "too many streams are open, try again later"


class Peers(Protocol):
    """Reads clients' certificates. Implemented by adapters/peer_certificates.py."""

    def read(self, shown: str) -> PeerCertificate:
        """From PEM in percent-encoding. Raises `BadCertificate`."""

    def authorities(self, bundle: bytes) -> frozenset[bytes]:
        """The certificates of a bundle in PEM, each in one spelling."""

    def are_issuers(self, authorities: Collection[bytes], certificate: PeerCertificate) -> bool:
        """Whether one of them has issued it, without another in between. Raises `BadCertificate` where that cannot be
        seen."""


class Memory(Protocol):
    """What another control plane must know that comes after this one. Implemented by adapters/known_authorities.py."""

    def recall(self) -> frozenset[bytes]:
        """What was kept last; nothing at first. Raises `BadCertificate`."""

    def keep(self, authorities: Collection[bytes]) -> None: ...


@dataclass(slots=True, eq=False)
class Begun:
    """A stream. `ends_at`: when what it was opened with runs out; None: never by itself."""

    endpoint: str
    shown: Shown
    ends_at: datetime | None = None


class Doorkeeper:
    """Methods that change what is in force return the streams that must end.

    Raises `BadCertificate` where it is not known whom an earlier one trusted: its clients' connections may be open.
    """

    def __init__(self, peers: Peers, memory: Memory) -> None:
        self._peers = peers
        self._memory = memory
        self._terms: dict[str, Terms] = {}
        self._begun: dict[str, set[Begun]] = {}
        self._mortal: set[Begun] = set()
        self._trust = ClientTrust(b"")
        self._authorities = memory.recall()
        self._retired: frozenset[bytes] = frozenset()  # CAs that were trusted once, and are not any more

    @property
    def num_begun(self) -> int:
        return sum(map(len, self._begun.values()))

    @property
    def has_mortals(self) -> bool:
        """Whether something runs out by itself, so that `overdue` must be asked."""
        return bool(self._mortal)

    def terms(self, endpoint: str) -> Terms | None:
        return self._terms.get(endpoint)

    def enter(self, begun: Begun, now: datetime, *, is_judged: bool) -> str:
        """Why the stream may not begin; empty, and it is known from now on. Raises `BadCertificate`.

        `is_judged`: Envoy let it in on the very terms that are in force. Otherwise these are newer, and count.
        """
        terms = self._terms.get(begun.endpoint)
        if terms is None or not (is_judged or are_met(terms, begun.shown)):
            return NOT_ADMITTED
        if self._is_revoked(begun.shown) or self._is_of_retired(begun.shown):
            return NOT_ADMITTED
        begun.ends_at = runs_out_at(terms, begun.shown)
        if _is_over(begun, now):
            return NOT_ADMITTED
        if self.num_begun >= MAX_BEGUN:
            return TOO_MANY
        self._begun.setdefault(begun.endpoint, set()).add(begun)
        if begun.ends_at is not None:
            self._mortal.add(begun)
        return ""

    def leave(self, begun: Begun) -> None:
        """It has ended. Idempotent."""
        streams = self._begun.get(begun.endpoint, set())
        streams.discard(begun)
        self._mortal.discard(begun)
        if not streams:
            self._begun.pop(begun.endpoint, None)

    def set_terms(self, endpoint: str, terms: Terms | None) -> list[Begun]:
        """None: the endpoint is gone."""
        if self._terms.get(endpoint) == terms:
            return []
        if terms is None:
            del self._terms[endpoint]
            return self._dismissed(self._begun.get(endpoint, ()))
        self._terms[endpoint] = terms
        streams = self._begun.get(endpoint, set())
        gone = self._dismissed(begun for begun in streams if not are_met(terms, begun.shown))
        for begun in streams:
            self._mortal.discard(begun)
            begun.ends_at = runs_out_at(terms, begun.shown)
            if begun.ends_at is not None:
                self._mortal.add(begun)
        return gone

    def set_trust(self, trust: ClientTrust) -> list[Begun]:
        """Of a CA bundle from which one was taken, streams stay whose certificate another in it has issued itself: what
        was in between is not known here any more."""
        before, self._trust = self._authorities, trust
        self._authorities = self._peers.authorities(trust.authorities)
        self._retired = (self._retired | before) - self._authorities
        self._memory.keep(self._retired | self._authorities)
        is_smaller = bool(before - self._authorities)
        begun = [one for streams in self._begun.values() for one in streams]
        unvouched = self._unvouched(begun) if is_smaller else set()
        return self._dismissed(one for one in begun if self._is_revoked(one.shown) or _der_of(one.shown) in unvouched)

    def overdue(self, now: datetime) -> list[Begun]:
        return self._dismissed(begun for begun in self._mortal if _is_over(begun, now))

    def _is_revoked(self, shown: Shown) -> bool:
        return shown.certificate is not None and shown.certificate.serial in self._trust.revoked

    def _is_of_retired(self, shown: Shown) -> bool:
        """Its connection is older than the CA bundle, which has not the CA of its certificate any more."""
        return (
            shown.certificate is not None
            and self._peers.are_issuers(self._retired, shown.certificate)
            and not self._is_vouched_for(shown.certificate)
        )

    def _unvouched(self, begun: Iterable[Begun]) -> set[bytes]:
        """The certificates for which no CA stands any more. A client has many streams, and a signature is verified
        once: it takes 0.1 ms."""
        certificates = {one.shown.certificate.der: one.shown.certificate for one in begun if one.shown.certificate}
        return {der for der, certificate in certificates.items() if not self._is_vouched_for(certificate)}

    def _is_vouched_for(self, certificate: PeerCertificate) -> bool:
        try:
            return self._peers.are_issuers(self._authorities, certificate)
        except BadCertificate:
            return False

    def _dismissed(self, streams: Iterable[Begun]) -> list[Begun]:
        gone = list(streams)
        for begun in gone:
            self.leave(begun)
        return gone


def _is_over(begun: Begun, now: datetime) -> bool:
    return begun.ends_at is not None and begun.ends_at <= now


def _der_of(shown: Shown) -> bytes | None:
    return shown.certificate.der if shown.certificate is not None else None
