"""Who has begun a stream, and who must go when something changes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from router.domain.begun_streams import PeerCertificate, Shown, Terms
from router.domain.callers import Anyone, CertificateHolders, KeyHolders, KeySlot, fingerprint_of
from router.domain.tls import BadCertificate, ClientTrust
from router.xds.doorkeeper import MAX_BEGUN, NOT_ADMITTED, TOO_MANY, Begun, Doorkeeper

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HERE = "192.0.2.7"
OLD, NEW = "ab" * 32, "cd" * 32
BOTH = Terms(KeyHolders(((KeySlot.PRIMARY, OLD), (KeySlot.SECONDARY, NEW))))
ONLY_NEW = Terms(KeyHolders(((KeySlot.SECONDARY, NEW),)))
NAMED = Terms(CertificateHolders(("app",)))


class FakePeers:
    """Certificates are `b"<CA>"`: who has issued them; a bundle names CAs, with blanks between."""

    def read(self, shown: str) -> PeerCertificate:
        return PeerCertificate(1, frozenset({"app"}), NOW, shown.encode())

    def authorities(self, bundle: bytes) -> frozenset[bytes]:
        return frozenset(bundle.split())

    def are_issuers(self, authorities: Collection[bytes], certificate: PeerCertificate) -> bool:
        return certificate.der in authorities


@dataclass(slots=True)
class FakeMemory:
    kept: frozenset[bytes] = frozenset()

    def recall(self) -> frozenset[bytes]:
        return self.kept

    def keep(self, authorities: Collection[bytes]) -> None:
        self.kept = frozenset(authorities)


def by_key(sha256: str, endpoint: str = "fraud") -> Begun:
    return Begun(endpoint, Shown(HERE, key=fingerprint_of(sha256)))


def by_certificate(serial: int = 1, issuer: bytes = b"A", endpoint: str = "fraud") -> Begun:
    certificate = PeerCertificate(serial, frozenset({"app"}), NOW + timedelta(days=1), issuer)
    return Begun(endpoint, Shown(HERE, certificate=certificate))


def doorkeeper(terms: Terms, *begun: Begun, trust: bytes = b"A B", memory: FakeMemory | None = None) -> Doorkeeper:
    keeper = Doorkeeper(FakePeers(), memory or FakeMemory())
    keeper.set_trust(ClientTrust(trust))
    keeper.set_terms("fraud", terms)
    for one in begun:
        assert keeper.enter(one, NOW, is_judged=True) == ""
    return keeper


def test_a_revoked_key_ends_its_streams_and_no_others() -> None:
    old, new = by_key(OLD), by_key(NEW)
    keeper = doorkeeper(BOTH, old, new)
    assert keeper.set_terms("fraud", BOTH) == []
    assert keeper.set_terms("fraud", ONLY_NEW) == [old]
    assert keeper.num_begun == 1
    assert keeper.set_terms("fraud", Terms(KeyHolders())) == [new]
    assert keeper.num_begun == 0


def test_other_endpoints_streams_stay() -> None:
    stream = by_key(OLD)
    keeper = doorkeeper(BOTH, stream)
    assert keeper.set_terms("other", ONLY_NEW) == []
    assert keeper.set_terms("other", None) == []
    assert keeper.num_begun == 1


def test_streams_end_with_their_endpoint() -> None:
    streams = [by_key(OLD), by_key(NEW)]
    keeper = doorkeeper(BOTH, *streams)
    assert set(keeper.set_terms("fraud", None)) == set(streams)
    assert keeper.enter(by_key(OLD), NOW, is_judged=True) == NOT_ADMITTED


def test_an_endpoint_that_is_opened_to_everybody_keeps_its_streams() -> None:
    keeper = doorkeeper(BOTH, by_key(OLD))
    assert keeper.set_terms("fraud", Terms(Anyone())) == []


def test_who_was_let_in_on_older_terms_is_judged_by_those_in_force() -> None:
    keeper = doorkeeper(ONLY_NEW)
    assert keeper.enter(by_key(OLD), NOW, is_judged=False) == NOT_ADMITTED
    assert keeper.enter(by_key(NEW), NOW, is_judged=False) == ""


def test_who_has_left_is_not_told_to_go() -> None:
    stream = by_key(OLD)
    keeper = doorkeeper(BOTH, stream)
    keeper.leave(stream)
    keeper.leave(stream)
    assert keeper.set_terms("fraud", ONLY_NEW) == []


def test_a_revoked_certificate_ends_streams_whatever_their_endpoint_asks_for() -> None:
    gone, stays = by_certificate(1), by_certificate(2)
    with_key_too = by_key(OLD, "keyed")
    with_key_too.shown = replace(with_key_too.shown, certificate=gone.shown.certificate)
    keeper = doorkeeper(NAMED, gone, stays)
    keeper.set_terms("keyed", BOTH)
    assert keeper.enter(with_key_too, NOW, is_judged=True) == ""
    assert set(keeper.set_trust(ClientTrust(b"A B", revoked=frozenset({1})))) == {gone, with_key_too}
    assert keeper.enter(by_certificate(1), NOW, is_judged=True) == NOT_ADMITTED


def test_a_ca_that_comes_ends_nothing_and_one_that_goes_ends_what_no_other_stands_for() -> None:
    of_a, of_b, of_intermediate = by_certificate(1, b"A"), by_certificate(2, b"B"), by_certificate(3, b"between")
    keeper = doorkeeper(NAMED, of_a, of_b, of_intermediate)
    assert keeper.set_trust(ClientTrust(b"A B C")) == []
    assert set(keeper.set_trust(ClientTrust(b"B C"))) == {of_a, of_intermediate}
    # Connections that are older than the bundle may begin another one.
    assert keeper.enter(by_certificate(1, b"A"), NOW, is_judged=True) == NOT_ADMITTED
    assert keeper.enter(by_certificate(3, b"between"), NOW, is_judged=True) == ""
    keeper.set_trust(ClientTrust(b"A B"))
    assert keeper.enter(by_certificate(1, b"A"), NOW, is_judged=True) == ""


def test_cas_that_were_taken_out_stay_out_whatever_becomes_of_the_control_plane() -> None:
    memory = FakeMemory()
    doorkeeper(NAMED, trust=b"A B", memory=memory).set_trust(ClientTrust(b"B C"))
    for trust in (b"B C", b"C D"):  # the next one finds what was in force, and one after it a bundle without B
        keeper = doorkeeper(NAMED, trust=trust, memory=memory)
        assert keeper.enter(by_certificate(1, b"A"), NOW, is_judged=True) == NOT_ADMITTED
    assert keeper.enter(by_certificate(2, b"B"), NOW, is_judged=True) == NOT_ADMITTED
    assert keeper.enter(by_certificate(3, b"C"), NOW, is_judged=True) == ""
    assert doorkeeper(NAMED, trust=b"A", memory=memory).enter(by_certificate(1, b"A"), NOW, is_judged=True) == ""


class BrokenPeers(FakePeers):
    """Who has issued a certificate cannot be seen."""

    def are_issuers(self, authorities: Collection[bytes], certificate: PeerCertificate) -> bool:
        raise BadCertificate("cannot be seen")


def test_a_certificate_whose_issuer_cannot_be_seen_is_not_vouched_for_and_the_others_stay() -> None:
    keeper = Doorkeeper(BrokenPeers(), FakeMemory())
    keeper.set_terms("fraud", BOTH)
    keeper.set_trust(ClientTrust(b"A B"))
    with_key = by_key(OLD)
    assert keeper.enter(with_key, NOW, is_judged=True) == ""
    with pytest.raises(BadCertificate):
        keeper.enter(by_certificate(), NOW, is_judged=True)
    assert keeper.num_begun == 1
    assert keeper.set_trust(ClientTrust(b"B")) == []


def test_of_a_smaller_bundle_each_certificate_is_verified_once_however_many_streams_it_has() -> None:
    verified: list[bytes] = []

    class Counting(FakePeers):
        def are_issuers(self, authorities: Collection[bytes], certificate: PeerCertificate) -> bool:
            verified.append(certificate.der)
            return super().are_issuers(authorities, certificate)

    keeper = Doorkeeper(Counting(), FakeMemory())
    keeper.set_terms("fraud", NAMED)
    keeper.set_trust(ClientTrust(b"A B"))
    streams = [by_certificate(number, issuer) for number in range(3) for issuer in (b"A", b"B")]
    for stream in streams:
        assert keeper.enter(stream, NOW, is_judged=True) == ""
    verified.clear()
    assert len(keeper.set_trust(ClientTrust(b"B"))) == 3
    assert sorted(verified) == [b"A", b"B"]


def test_what_runs_out_ends_when_it_does() -> None:
    mortal = by_certificate()
    keeper = doorkeeper(NAMED, mortal)
    assert keeper.has_mortals
    assert keeper.overdue(NOW + timedelta(hours=23)) == []
    assert keeper.overdue(NOW + timedelta(days=1)) == [mortal]
    assert not keeper.has_mortals
    assert keeper.enter(by_certificate(), NOW + timedelta(days=1), is_judged=True) == NOT_ADMITTED


def test_what_does_not_let_in_any_more_does_not_run_out_either() -> None:
    keeper = doorkeeper(NAMED, by_certificate())
    assert keeper.set_terms("fraud", Terms(Anyone())) == []
    assert not keeper.has_mortals
    keeper.set_terms("fraud", NAMED)
    assert keeper.has_mortals


def test_one_more_than_can_be_watched_is_refused() -> None:
    keeper = doorkeeper(BOTH, *(by_key(OLD) for _ in range(MAX_BEGUN)))
    assert keeper.enter(by_key(NEW), NOW, is_judged=True) == TOO_MANY
    keeper.set_terms("fraud", ONLY_NEW)
    assert keeper.enter(by_key(NEW), NOW, is_judged=True) == ""
