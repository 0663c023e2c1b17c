"""CAs that were trusted are known to the next process."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.known_authorities import KnownAuthorities
from adapters.peer_certificates import PeerCertificates
from router.domain.tls import BadCertificate
from tests.certificates import TestCa


def test_what_was_kept_last_is_recalled_as_bundles_are_read(tmp_path: Path) -> None:
    path = tmp_path / "known.pem"
    assert KnownAuthorities(path).recall() == frozenset()
    bundle = TestCa.in_folder(tmp_path).file.read_bytes() + TestCa.in_folder(tmp_path, "another").file.read_bytes()
    authorities = PeerCertificates().authorities(bundle)
    KnownAuthorities(path).keep(authorities)
    assert KnownAuthorities(path).recall() == authorities
    KnownAuthorities(path).keep(sorted(authorities)[:1])
    assert KnownAuthorities(path).recall() == {min(authorities)}


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_broken_file_is_not_taken_for_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "known.pem"
    path.write_bytes(content)
    with pytest.raises(BadCertificate, match="start it again"):
        KnownAuthorities(path).recall()


def test_where_it_cannot_be_kept_the_gateway_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    KnownAuthorities(tmp_path / "nowhere" / "known.pem").keep(frozenset())
    assert [record.message for record in caplog.records] == ["CAs not kept"]
