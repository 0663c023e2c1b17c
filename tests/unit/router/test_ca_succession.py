"""One internal CA follows another, and at no moment is anybody refused who was certified in time."""

from __future__ import annotations

import shutil
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from cryptography import x509

from adapters.certificate_authority import CA_DAYS
from adapters.internal_authority import InternalAuthority, replace_authority
from adapters.replica_tls import ReplicaKeys
from adapters.tls_client import LiveClientContext
from router.certificates import certificate_metrics
from router.domain.ca_succession import SIGNS_AFTER, STANDS_ALONE_AFTER
from router.domain.endpoint import EndpointState
from router.domain.errors import Conflict
from router.domain.replica_tls import Certified
from router.domain.tls import BadCertificate
from router.replica_certificates import ReplicaCertificates
from tests.internal_ca import BLUE, GATEWAY, Witnessed, request_of
from tests.unit.router.states import deployed, state

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STATES: dict[str, EndpointState] = {"fraud": state({"blue": 100}, deployed("blue"))}


@dataclass(slots=True)
class Clock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


def is_signed_by_one_of(chain: bytes, authorities: bytes, now: datetime) -> bool:
    certificate = x509.load_pem_x509_certificate(chain)
    for authority in x509.load_pem_x509_certificates(authorities):
        if authority.subject == certificate.issuer:
            certificate.verify_directly_issued_by(authority)
            return authority.not_valid_before_utc <= now < authority.not_valid_after_utc
    return False


@dataclass(slots=True)
class Gateway:
    """The control plane's part, and what Envoy has of it."""

    folder: Path
    clock: Clock
    envoy: Witnessed = field(default_factory=Witnessed)

    def started(self) -> Gateway:
        self.ca = InternalAuthority.in_folder(self.folder, GATEWAY, self.clock())
        self.certificates = ReplicaCertificates(self.ca, (self.envoy,), STATES, self.clock)
        return self

    ca: InternalAuthority = field(init=False)
    certificates: ReplicaCertificates = field(init=False)


@dataclass(slots=True)
class Replica:
    """Renews as serving/certified.py does."""

    certified: Certified | None = None

    def look(self, gateway: Gateway) -> None:
        if self.certified is None or self.certified.is_due(gateway.clock()):
            answer = gateway.certificates.answer(request_of(BLUE))
            assert isinstance(answer, Certified)
            self.certified = answer


def believe_each_other(gateway: Gateway, replica: Replica) -> bool:
    shown, trusted = gateway.envoy.given[-1]
    assert replica.certified is not None
    now = gateway.clock()
    return (
        shown.facts.not_before <= now < shown.facts.not_after
        and replica.certified.not_before <= now < replica.certified.not_after
        and is_signed_by_one_of(shown.chain, replica.certified.authorities, now)
        and is_signed_by_one_of(replica.certified.chain, trusted.authorities, now)
    )


@pytest.mark.parametrize("seed", range(5))
def test_while_one_follows_the_other_everybody_believes_everybody(tmp_path: Path, seed: int) -> None:
    """The control plane is away for up to eleven hours now and then, and is another process afterwards."""
    chance, clock = Random(seed), Clock()
    gateway = Gateway(tmp_path / "ca", clock).started()
    gateway.certificates.look()
    replicas = [Replica() for _ in range(5)]
    for replica in replicas:
        clock.now += chance.random() * 2 * HOUR
        replica.look(gateway)
    before = gateway.ca.trust
    replace_authority(gateway.folder, GATEWAY, clock.now)
    ends = clock.now + STANDS_ALONE_AFTER + 2 * DAY
    back_at = clock.now
    while clock.now < ends:
        clock.now += HOUR / 4
        if chance.random() < 0.02 and clock.now > back_at + 13 * HOUR:
            back_at = clock.now + chance.random() * 11 * HOUR
            gateway.started()
        if clock.now >= back_at:
            gateway.certificates.look()
            for replica in replicas:
                replica.look(gateway)
        assert all(believe_each_other(gateway, replica) for replica in replicas)
    (alone,) = gateway.ca.status
    assert gateway.ca.trust != before
    assert len(list(gateway.folder.iterdir())) == 1  # the old one's key is gone
    assert InternalAuthority.in_folder(gateway.folder, GATEWAY, clock.now).status == (alone,)


@pytest.mark.parametrize("left", [26 * HOUR, 20 * HOUR, 2 * HOUR, HOUR / 6])
def test_a_gateway_that_was_off_until_its_ca_has_almost_ended_is_believed_all_the_same(
    tmp_path: Path, left: timedelta
) -> None:
    clock = Clock()
    gateway = Gateway(tmp_path / "ca", clock).started()
    ends = NOW + timedelta(days=CA_DAYS)
    clock.now = ends - left
    gateway.started()
    replicas = [Replica() for _ in range(3)]
    while clock.now < ends + DAY:
        gateway.certificates.look()
        for replica in replicas:
            replica.look(gateway)
        assert all(believe_each_other(gateway, replica) for replica in replicas)
        clock.now += min(left / 50, HOUR / 4) if clock.now < ends + left else HOUR / 4
    assert len(gateway.ca.status) == 1


@pytest.mark.parametrize("seed", range(3))
def test_where_no_successor_could_be_made_until_the_last_hours_everybody_still_believes_everybody(
    tmp_path: Path, seed: int
) -> None:
    chance, clock = Random(seed), Clock()
    gateway = Gateway(tmp_path / "ca", clock).started()
    ends = NOW + timedelta(days=CA_DAYS)
    key, elsewhere = gateway.folder / "ca.key", tmp_path / "elsewhere"
    key.rename(elsewhere)
    clock.now = ends - 2 * DAY
    gateway.certificates.look()
    assert "missing" in gateway.ca.status[0].refused
    replicas = [Replica() for _ in range(5)]
    for replica in replicas:
        clock.now += chance.random() * 2 * HOUR
        replica.look(gateway)
    while clock.now < ends + DAY:
        if elsewhere.exists() and ends - clock.now <= 3 * HOUR:
            elsewhere.rename(key)
        gateway.certificates.look()
        for replica in replicas:
            replica.look(gateway)
        assert all(believe_each_other(gateway, replica) for replica in replicas)
        clock.now += HOUR / 10


def test_one_that_has_ended_and_cannot_be_followed_certifies_nobody_and_breaks_nothing(tmp_path: Path) -> None:
    clock = Clock()
    gateway = Gateway(tmp_path, clock).started()
    key, elsewhere = gateway.folder / "ca.key", tmp_path.with_name("elsewhere")
    key.rename(elsewhere)
    clock.now = NOW + timedelta(days=CA_DAYS) + HOUR
    gateway.certificates.look()
    replica = Replica()
    replica.look(gateway)
    assert not believe_each_other(gateway, replica)
    elsewhere.rename(key)
    gateway.certificates.look()
    replica.look(gateway)
    assert believe_each_other(gateway, replica)


def test_whoever_brings_another_ca_back_gets_certificates_of_that_at_once(tmp_path: Path) -> None:
    clock = Clock()
    gateway = Gateway(tmp_path / "ca", clock).started()
    gateway.certificates.look()
    InternalAuthority.in_folder(tmp_path / "backup", GATEWAY, NOW - DAY)
    shutil.rmtree(gateway.folder)
    (tmp_path / "backup").rename(gateway.folder)
    gateway.certificates.look()
    replica = Replica()
    replica.look(gateway)
    assert believe_each_other(gateway, replica)


def test_a_key_of_a_removal_or_a_making_that_was_killed_does_not_stay(tmp_path: Path) -> None:
    ca = InternalAuthority.in_folder(tmp_path, GATEWAY, NOW)
    killed, under_way = (tmp_path / f"{at:%Y%m%dT%H%M%S}.making" for at in (NOW - 3 * DAY, NOW))
    for folder in (killed, under_way):
        folder.mkdir()
        (folder / "ca.key").write_text("a key")
    assert ca.look(NOW + HOUR / 60) == ""
    assert (killed.exists(), under_way.exists()) == (False, True)  # whoever replaces it is another process
    assert ca.look(NOW + DAY) == ""
    assert not under_way.exists()


def test_a_real_handshake_takes_certificates_of_both(tmp_path: Path) -> None:
    """OpenSSL looks for an issuer by its name."""
    clock = Clock(datetime.now(UTC) - SIGNS_AFTER - HOUR)
    old = InternalAuthority.in_folder(tmp_path, GATEWAY, clock.now)
    replace_authority(tmp_path, GATEWAY, clock.now)
    clock.now = datetime.now(UTC)
    both = InternalAuthority.in_folder(tmp_path, GATEWAY, clock.now)
    assert len(both.status) == 2
    for server_ca, client_ca in ((old, both), (both, old), (both, both)):
        keys, live = ReplicaKeys(), LiveClientContext()
        certified = server_ca.for_replica(request_of(BLUE, keys), clock.now)
        keys.take(Certified(certified.chain, both.trust.authorities, certified.not_before, certified.not_after))
        live.set_replica_tls(client_ca.for_envoy(clock.now), both.trust)
        assert shake_hands(live.context, keys.context)


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> bool:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=BLUE.ip),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for side in tuple(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            sides.remove(side)
    return not sides


def test_one_that_nears_its_end_is_followed_by_itself_long_before_anybody_is_warned(tmp_path: Path) -> None:
    clock, secrets = Clock(), Witnessed()
    ca = InternalAuthority.in_folder(tmp_path, GATEWAY, NOW)
    certificates = ReplicaCertificates(ca, (secrets,), STATES, clock)
    clock.now = NOW + timedelta(days=CA_DAYS - 91)
    certificates.look()
    assert len(ca.status) == 1
    clock.now += 2 * DAY
    certificates.look()
    old, new = ca.status
    assert old.facts is not None
    assert new.facts is not None
    assert old.facts.warning(clock.now) == ""
    assert new.facts.not_after > old.facts.not_after
    assert secrets.given[-1][1] == ca.trust
    assert f'{{file="{new.files.certificate}"}}' in certificate_metrics(ca.status)
    clock.now += STANDS_ALONE_AFTER
    certificates.look()
    assert ca.status == (new,)


def test_one_that_cannot_be_followed_warns_in_time(tmp_path: Path) -> None:
    ca = InternalAuthority.in_folder(tmp_path, GATEWAY, NOW)
    (tmp_path / "ca.key").unlink()
    late = NOW + timedelta(days=CA_DAYS - 20)
    assert "missing" in ca.look(late)
    (status,) = ca.status
    assert status.facts is not None
    assert status.facts.warning(late) == "expires in 20 days"


def test_where_all_have_expired_a_new_one_begins(tmp_path: Path) -> None:
    InternalAuthority.in_folder(tmp_path, GATEWAY, NOW)
    late = NOW + timedelta(days=CA_DAYS + 100)
    ca = InternalAuthority.in_folder(tmp_path, GATEWAY, late)
    assert is_signed_by_one_of(ca.for_envoy(late).chain, ca.trust.authorities, late)
    ca.look(late)
    (status,) = ca.status
    assert status.facts is not None
    assert not status.facts.is_expired(late)


def test_a_removal_that_was_broken_off_is_finished(tmp_path: Path) -> None:
    InternalAuthority.in_folder(tmp_path, GATEWAY, NOW)
    replace_authority(tmp_path, GATEWAY, NOW)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(BadCertificate, match="is missing"):  # while the old one is needed
        InternalAuthority.in_folder(tmp_path, GATEWAY, NOW + DAY)
    assert len(InternalAuthority.in_folder(tmp_path, GATEWAY, NOW + STANDS_ALONE_AFTER).status) == 1
    assert not (tmp_path / "ca.pem").exists()


def test_a_second_replacement_waits_for_the_first(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="holds no internal CA"):
        replace_authority(tmp_path / "none", GATEWAY, NOW)
    InternalAuthority.in_folder(tmp_path, GATEWAY, NOW)
    replace_authority(tmp_path, GATEWAY, NOW)
    with pytest.raises(Conflict, match="being replaced already"):
        replace_authority(tmp_path, GATEWAY, NOW + DAY)
    InternalAuthority.in_folder(tmp_path, GATEWAY, NOW + STANDS_ALONE_AFTER)
    replace_authority(tmp_path, GATEWAY, NOW + STANDS_ALONE_AFTER)
