"""The files of TLS to Tritons: read when they are wanted, put in force when they are good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapters.certificates import PemFiles
from router.certificates import certificate_metrics
from router.domain.tls import CertificatePair, ClientTrust
from router.domain.triton_tls import TritonTls
from router.events import EventLog
from router.triton_certificates import TritonCertificates
from tests.certificates import TestCa


@dataclass
class Kept:
    """Implements `Secrets`: what was put in force for whom, in turn."""

    pairs: list[tuple[str, bytes]] = field(default_factory=list)
    trusts: list[tuple[str, bytes]] = field(default_factory=list)
    wanted: list[TritonTls] = field(default_factory=list)

    def set_triton_certificate(self, tls: TritonTls, pair: CertificatePair) -> None:
        self.pairs.append((tls.certificate, pair.chain))

    def set_triton_trust(self, tls: TritonTls, trust: ClientTrust) -> None:
        self.trusts.append((tls.ca, trust.authorities))

    def keep_triton_secrets(self, wanted: Iterable[TritonTls]) -> None:
        self.wanted = list(wanted)


class World:
    def __init__(self, folder: Path) -> None:
        self.ca = TestCa.in_folder(folder)
        files = self.ca.client("gateway", ["gateway.example.com"])
        self.tls = TritonTls(str(self.ca.file), files.certificate, files.key, "triton.example.com")
        self.kept, self.events = Kept(), EventLog(lambda: datetime.now(UTC))
        self.certificates = TritonCertificates(PemFiles(), self.kept, self.events)

    def told(self) -> list[str]:
        return [event.message for event in self.events.after(0)]


@pytest.fixture
def it(tmp_path: Path) -> World:
    return World(tmp_path)


def test_good_files_are_put_in_force_once(it: World) -> None:
    for _ in range(3):
        it.certificates.look([it.tls])

    assert [path for path, _ in it.kept.pairs] == [it.tls.certificate]
    assert it.kept.trusts == [(it.tls.ca, it.ca.file.read_bytes())]
    assert it.kept.wanted == [it.tls]
    assert it.certificates.trouble(it.tls) == ""
    assert f'crossfade_certificate_refused{{file="{it.tls.certificate}"}} 0' in certificate_metrics(
        it.certificates.status()
    )


def test_files_that_were_never_good_are_a_trouble_until_they_are(it: World) -> None:
    it.ca.file.rename(it.ca.folder / "away")
    it.certificates.look([it.tls])
    assert it.certificates.trouble(it.tls) == f"{it.tls.ca} cannot be read: no such file or directory"
    assert not it.kept.trusts

    (it.ca.folder / "away").rename(it.ca.file)
    it.certificates.look([it.tls])
    assert it.certificates.trouble(it.tls) == ""


def test_a_new_certificate_is_put_in_force_and_a_broken_one_changes_nothing(it: World) -> None:
    it.certificates.look([it.tls])
    it.ca.client("gateway", ["renewed.example.com"])
    it.certificates.look([it.tls])
    assert len(it.kept.pairs) == 2

    Path(it.tls.key).write_text("not a key")
    it.certificates.look([it.tls])
    assert not it.told()  # one of two files that are being replaced
    it.certificates.look([it.tls])
    it.certificates.look([it.tls])

    assert len(it.kept.pairs) == 2
    assert it.certificates.trouble(it.tls) == ""
    (message,) = it.told()
    assert "no private key in PEM" in message
    assert [status.refused != "" for status in it.certificates.status()] == [True]


def test_what_nobody_wants_any_more_is_forgotten(it: World) -> None:
    it.certificates.look([it.tls])
    it.certificates.look([])
    assert it.kept.wanted == []
    assert it.certificates.status() == ()
    assert it.certificates.trouble(it.tls)


def test_where_no_certificate_is_shown_the_ca_suffices(it: World) -> None:
    tls = TritonTls(it.tls.ca, server_name="triton.example.com")
    it.certificates.look([tls])
    assert (it.certificates.trouble(tls), it.kept.pairs) == ("", [])
