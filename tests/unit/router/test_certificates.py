"""Which certificates are put in force, and which are refused while the ones before stay."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from adapters.certificate_authority import key_pem
from adapters.certificates import PemFiles, read_pair, read_trust
from router.certificates import Certificates, certificate_metrics, status_by_file
from router.domain.errors import Invalid
from router.domain.tls import (
    BadCertificate,
    CertificateFacts,
    CertificateFiles,
    CertificatePair,
    ClientTrust,
    ListenerTls,
)
from router.events import EventLog
from router.private_files import write_private
from tests.certificates import TestCa


class Kept:
    """Keeps what it is told to serve, as router/xds/server.py does."""

    def __init__(self) -> None:
        self.pairs: dict[int, CertificatePair] = {}
        self.trust: ClientTrust | None = None

    def set_certificate(self, index: int, pair: CertificatePair) -> None:
        self.pairs[index] = pair

    def set_client_trust(self, trust: ClientTrust) -> None:
        self.trust = trust


class Bench:
    def __init__(self, tls: ListenerTls) -> None:
        self.now = datetime.now(UTC)
        self.kept = Kept()
        self.events = EventLog(lambda: self.now)
        self.certificates = Certificates(tls, PemFiles(), self.kept, self.events)
        self.certificates.look()

    def look_until_settled(self) -> None:
        for _ in range(3):
            self.certificates.look()

    def told(self) -> list[str]:
        return [event.kind for event in self.events.after(0)]


@pytest.fixture
def ca(tmp_path: Path) -> TestCa:
    return TestCa.in_folder(tmp_path)


def test_a_pair_is_served_from_the_first_look_and_again_when_its_files_change(ca: TestCa) -> None:
    files = ca.server("a")
    bench = Bench(ListenerTls((files,)))
    before = bench.kept.pairs[0]

    bench.certificates.look()
    assert bench.kept.pairs[0] is before
    assert bench.told() == []

    ca.server("a", ["api.example"])
    bench.certificates.look()
    assert bench.kept.pairs[0].facts.names == ("api.example",)
    assert bench.told() == ["certificate_changed"]


def test_a_pair_that_does_not_match_is_refused_once_and_the_one_before_stays(ca: TestCa) -> None:
    files = ca.server("a")
    bench = Bench(ListenerTls((files,)))
    before = bench.kept.pairs[0]
    other = ca.server("b")

    Path(files.certificate).write_bytes(Path(other.certificate).read_bytes())
    bench.certificates.look()
    assert bench.told() == [], "the key may be on its way"
    bench.look_until_settled()

    assert bench.kept.pairs[0] is before
    assert bench.told() == ["certificate_refused"]
    assert "do not belong together" in bench.certificates.status()[0].refused

    write_private(Path(files.key), Path(other.key).read_bytes())
    bench.certificates.look()
    assert bench.kept.pairs[0] != before
    assert bench.certificates.status()[0].refused == ""


def test_the_target_of_a_link_may_be_swapped(ca: TestCa, tmp_path: Path) -> None:
    """As Kubernetes swaps a mounted secret."""
    first, second = ca.server("first"), ca.server("second", ["second.example"])
    for kind, files in (("pem", first.certificate), ("key", first.key)):
        os.symlink(files, tmp_path / f"tls.{kind}")
    bench = Bench(ListenerTls((CertificateFiles(str(tmp_path / "tls.pem"), str(tmp_path / "tls.key")),)))

    for kind, files in (("pem", second.certificate), ("key", second.key)):
        os.symlink(files, tmp_path / "next")
        os.replace(tmp_path / "next", tmp_path / f"tls.{kind}")
    bench.certificates.look()

    assert bench.kept.pairs[0].facts.names == ("second.example",)


def test_files_that_vanish_or_break_change_nothing(ca: TestCa) -> None:
    files = ca.server("a")
    bench = Bench(ListenerTls((files,)))
    before = bench.kept.pairs[0]

    Path(files.certificate).write_bytes(Path(files.certificate).read_bytes()[:100])
    bench.look_until_settled()
    Path(files.certificate).unlink()
    bench.look_until_settled()

    assert bench.kept.pairs[0] is before
    assert bench.told() == ["certificate_refused", "certificate_refused"]


def test_an_expired_certificate_does_not_replace_one_that_is_valid(ca: TestCa) -> None:
    files = ca.server("a")
    bench = Bench(ListenerTls((files,)))
    ca.server("a", days=1)
    bench.now += timedelta(days=2)
    bench.look_until_settled()

    assert bench.told() == ["certificate_refused"]
    assert "expired" in bench.certificates.status()[0].refused


def test_a_control_plane_that_starts_with_bad_files_waits_for_good_ones(ca: TestCa) -> None:
    files = ca.files("a")
    bench = Bench(ListenerTls((files,)))
    bench.look_until_settled()
    assert not bench.kept.pairs
    assert bench.certificates.status()[0].facts is None

    ca.server("a")
    bench.certificates.look()
    assert bench.kept.pairs


def test_whom_clients_certificates_are_judged_by_is_watched_as_well(ca: TestCa) -> None:
    ca.client("app", ["app.example"])
    crl = ca.revoke()
    bench = Bench(ListenerTls((ca.server("a"),), str(ca.file), str(crl)))
    before = bench.kept.trust

    ca.revoke("app")
    bench.certificates.look()

    assert before is not None
    assert bench.kept.trust != before
    assert bench.told() == ["client_trust_changed"]


def test_a_revocation_list_of_another_ca_is_refused(ca: TestCa, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = TestCa.in_folder(tmp_path / "other", "another CA").revoke()
    with pytest.raises(BadCertificate, match="no revocation list of CN=a test's CA"):
        read_trust(str(ca.file), str(other))
    with pytest.raises(BadCertificate, match="cannot be read"):
        read_trust(str(ca.file), str(ca.file))


def test_keys_that_cannot_be_used_are_refused_in_words(ca: TestCa) -> None:
    files = ca.server("a")
    secret = ca.authority.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    edwards = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content, words in (
        (secret, "is encrypted"),
        (edwards, "of a kind that Envoy does not take"),
        (_weak_rsa(), "at least 2048 bits"),
        (key_pem(ca.authority.key), "do not belong together"),
        (b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", "holds no private key in PEM"),
    ):
        Path(files.key).write_bytes(content)
        with pytest.raises(BadCertificate, match=words) as refusal:
            read_pair(files)
        assert "c2VjcmV0" not in str(refusal.value)


def test_metrics_tell_when_a_certificate_runs_out_and_what_was_refused(ca: TestCa) -> None:
    bench = Bench(ListenerTls((ca.server("a"), ca.files("missing"))))
    bench.look_until_settled()

    page = certificate_metrics(bench.certificates.status())

    facts = bench.certificates.status()[0].facts
    assert facts is not None
    label = f'file="{ca.files("a").certificate}"'
    assert f"expiry_timestamp_seconds{{{label}}} {int(facts.not_after.timestamp())}\n" in page
    assert f"refused{{{label}}} 0\n" in page
    assert f'refused{{file="{ca.files("missing").certificate}"}} 1\n' in page
    assert certificate_metrics(()) == ""


def test_a_file_that_ports_share_is_told_of_once_and_by_the_port_that_refuses_it(ca: TestCa) -> None:
    shared, other = ca.server("shared"), ca.server("other")
    early, late = Bench(ListenerTls((shared, other))), Bench(ListenerTls((shared,)))
    early.look_until_settled()
    Path(shared.key).write_bytes(b"broken")
    late.look_until_settled()  # whose first look already finds it so

    told = status_by_file((early.certificates, late.certificates))

    assert [(status.files, bool(status.refused)) for status in told] == [(shared, True), (other, False)]


def test_no_repr_shows_a_key(ca: TestCa) -> None:
    pair = read_pair(ca.server("a"))
    assert b"PRIVATE" in pair.key.value
    assert "PRIVATE" not in repr(pair)


def test_an_operator_is_warned_before_a_certificate_runs_out() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    facts = CertificateFacts(("a",), "CN=ca", start, start + timedelta(days=90), "00")
    warned = {days: facts.warning(start + timedelta(days=days)) for days in (-1, 0, 60, 61, 89, 90)}
    assert warned == {
        -1: "is not valid before 2026-01-01 00:00 UTC",
        0: "",
        60: "",
        61: "expires in 29 days",
        89: "expires in 24 hours",
        90: "expired on 2026-04-01 00:00 UTC: clients refuse it",
    }


def test_tls_without_a_certificate_and_a_list_without_its_ca_cannot_be() -> None:
    with pytest.raises(Invalid, match="TLS needs a certificate"):
        ListenerTls(())
    with pytest.raises(Invalid, match="of no CA"):
        ListenerTls((CertificateFiles("a", "b"),), client_crl="crl.pem")


def _weak_rsa() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
