"""What is known of a client's certificate."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from adapters.peer_certificates import PeerCertificates
from router.domain.tls import BadCertificate
from tests.certificates import TestCa

PEERS = PeerCertificates()


def test_names_and_number_are_read_as_envoy_writes_them(tmp_path: Path) -> None:
    ca = TestCa.in_folder(tmp_path)
    names = ["app.example", "spiffe://bank/app?a,b", "192.0.2.7"]
    peer = PEERS.read(quote(ca.chain(ca.client("app", names, serial=77))))
    assert peer.serial == 77
    assert peer.names == {"app.example", "spiffe://bank/app?a,b"}
    assert peer.not_after.tzinfo is not None


def test_who_has_issued_it_is_found_among_others(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    ca, other = TestCa.in_folder(tmp_path), TestCa.in_folder(tmp_path / "other")  # of the same name
    peer = PEERS.read(quote(ca.chain(ca.client("app", ["app.example"]))))
    own, another = PEERS.authorities(ca.file.read_bytes()), PEERS.authorities(other.file.read_bytes())
    assert PEERS.authorities(ca.file.read_bytes() + other.file.read_bytes()) == own | another
    assert PEERS.are_issuers(own | another, peer)
    assert not PEERS.are_issuers(another, peer)
    assert not PEERS.are_issuers((), peer)


def test_what_is_no_certificate_says_so() -> None:
    with pytest.raises(BadCertificate, match="cannot be read"):
        PEERS.read("-----BEGIN%20CERTIFICATE-----")
