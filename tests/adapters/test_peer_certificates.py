"""What is known of a client's certificate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from adapters.certificate_authority import pem
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


# Names that cryptography has no type for (RFC 5280, 4.2.1.6), each after the DNS name app.example.
_APP = b"\x82\x0bapp.example"
_EDI_PARTY_NAME = b"\xa5\x09\xa1\x07\x0c\x05party"
_X400_ADDRESS = b"\xa3\x02\x30\x00"


def with_names(der: bytes) -> str:
    """As Envoy shows it. `der`: GeneralNames, without what says how long they are."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "app")])
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, now, now + timedelta(days=1))
    raw = x509.UnrecognizedExtension(x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, bytes((0x30, len(der))) + der)
    return quote(pem(builder.add_extension(raw, critical=False).sign(key, hashes.SHA256())))


def test_names_of_a_kind_that_cannot_be_read_make_a_bad_certificate() -> None:
    assert PEERS.read(with_names(_APP)).names == {"app.example"}
    for other in (_EDI_PARTY_NAME, _X400_ADDRESS):
        with pytest.raises(BadCertificate, match="cannot be read"):
            PEERS.read(with_names(_APP + other))
