"""`crossfade tls`: what it makes, and what `crossfade up` says about files that it cannot use."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path

from adapters.certificates import read_pair
from adapters.internal_authority import InternalAuthority
from router.tls_folder import TlsFolder
from tests.cli.conftest import Terminal


def test_init_makes_a_ca_and_a_certificate_whose_keys_only_this_user_may_read(
    terminal: Terminal, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    ran = terminal.run("tls", "init", "--name", "scoring.example", "--data-dir", str(data_dir), "-o", "json")
    assert ran.code == 0, ran.err

    folder = TlsFolder.of(data_dir)
    assert {"scoring.example", "localhost", "127.0.0.1", "::1"} <= set(ran.json["names"])
    for key in (folder.authority_key, Path(folder.server.key)):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    ssl.create_default_context(cafile=folder.authority).load_cert_chain(folder.server.certificate, folder.server.key)
    assert "PRIVATE" not in ran.out + ran.err


def test_init_keeps_what_is_there_and_renews_the_certificate_when_asked(terminal: Terminal, tmp_path: Path) -> None:
    terminal.run("tls", "init", "--data-dir", str(tmp_path))
    folder = TlsFolder.of(tmp_path)
    authority, before = folder.authority.read_bytes(), read_pair(folder.server).facts

    again = terminal.run("tls", "init", "--data-dir", str(tmp_path))
    assert (again.code, "--renew" in again.err) == (1, True)
    assert read_pair(folder.server).facts == before

    renewed = terminal.run("tls", "init", "--renew", "--data-dir", str(tmp_path))
    assert renewed.code == 0, renewed.err
    assert folder.authority.read_bytes() == authority
    assert read_pair(folder.server).facts.fingerprint != before.fingerprint


def test_what_init_prints_tells_clients_what_to_do(terminal: Terminal, tmp_path: Path) -> None:
    ran = terminal.run("tls", "init", "--name", "a.example", "--data-dir", str(tmp_path))
    assert f"curl --cacert {TlsFolder.of(tmp_path).authority} https://a.example:8000" in ran.out
    assert "keep to yourself" in ran.out


def test_a_client_gets_a_certificate_for_its_name(terminal: Terminal, tmp_path: Path) -> None:
    refused = terminal.run("tls", "client", "app.example", "--data-dir", str(tmp_path))
    assert (refused.code, "crossfade tls init" in refused.err) == (1, True)

    terminal.run("tls", "init", "--data-dir", str(tmp_path))
    ran = terminal.run("tls", "client", "spiffe://bank/app", "--data-dir", str(tmp_path), "-o", "json")
    assert ran.code == 0, ran.err
    assert stat.S_IMODE(Path(ran.json["key"]).stat().st_mode) == 0o600


def test_the_ca_between_hosts_is_given_a_successor_where_there_is_one(terminal: Terminal, tmp_path: Path) -> None:
    nowhere = terminal.run("tls", "replace-internal-ca", "--data-dir", str(tmp_path))
    assert (nowhere.code, "no data directory of a gateway" in nowhere.err) == (1, True)
    (tmp_path / "gateway.id").write_text("cf0a1b2c\n")
    without = terminal.run("tls", "replace-internal-ca", "--data-dir", str(tmp_path))
    assert (without.code, "holds no internal CA" in without.err) == (1, True)

    ca = InternalAuthority.in_folder(tmp_path / "internal-ca", "cf0a1b2c", datetime.now(UTC))
    ran = terminal.run("tls", "replace-internal-ca", "--data-dir", str(tmp_path), "-o", "json")
    assert ran.code == 0, ran.err
    assert (
        datetime.now(UTC)
        < datetime.fromisoformat(ran.json["signs_from"])
        < datetime.fromisoformat(ran.json["alone_from"])
    )
    assert ca.look(datetime.now(UTC)) == ""
    assert len(ca.status) == 2
    again = terminal.run("tls", "replace-internal-ca", "--data-dir", str(tmp_path))
    assert (again.code, "being replaced already" in again.err) == (1, True)


def test_up_refuses_files_that_it_cannot_use_before_it_starts_anything(terminal: Terminal, tmp_path: Path) -> None:
    terminal.run("tls", "init", "--data-dir", str(tmp_path / "one"))
    terminal.run("tls", "init", "--data-dir", str(tmp_path / "other"))
    one, other = TlsFolder.of(tmp_path / "one"), TlsFolder.of(tmp_path / "other")
    for options, words in (
        (["--tls-certificate", one.server.certificate], "come in pairs"),
        (["--tls-certificate", one.server.certificate, "--tls-key", other.server.key], "do not belong together"),
        (["--tls-certificate", "none.pem", "--tls-key", "none.key"], "none.pem cannot be read: no such file"),
        (["--tls-client-ca", str(one.authority)], "TLS needs a certificate"),
        (["--redirect-http-port", "8080"], "no TLS to send clients to"),
    ):
        ran = terminal.run("up", "--data-dir", str(tmp_path / "gateway"), *options)
        assert (ran.code, words in ran.err) == (2, True), ran.err
    assert not (tmp_path / "gateway").exists()
