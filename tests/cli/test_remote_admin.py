"""The admin API over TLS and by its socket: who gets in, with what, and what the command line says to the others."""

from __future__ import annotations

import asyncio
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from adapters.certificate_authority import issued
from router.admin_server import AdminServer
from router.api import create_app
from router.assembly import live_tls
from router.certificates import Certificates
from router.config import GatewayConfig, OwnPort, Ports
from router.domain.tls import CertificateFiles, ListenerTls
from router.events import EventLog
from router.private_files import write_private
from tests.certificates import TestCa
from tests.cli.conftest import Ran, Terminal
from tests.envoy.data_plane import free_ports, listening
from tests.fake_rollouts import TwoPairs
from tests.fakes import TOKEN, Bench, FixedGateway, FixedLogs

PATIENCE_S = 30.0


@dataclass
class RemoteAdmin:
    """An admin API that speaks TLS, in a thread of its own, and a command line that reaches it."""

    config: GatewayConfig
    terminal: Terminal
    ca: TestCa
    loop: asyncio.AbstractEventLoop
    certificates: Certificates

    @property
    def url(self) -> str:
        return self.config.admin_url

    def run(self, *arguments: str, url: str = "", ca: str | None = None) -> Ran:
        """`ca`: the file of the CA that is believed; left out, the right one's; empty: none is named."""
        trusting = ("--ca", ca or str(self.ca.file)) if ca != "" else ()
        return self.terminal.run(*arguments, "--admin-url", url or self.url, *trusting)

    def look(self) -> None:
        """What is in the files now is in force, or refused, when this returns."""

        async def look() -> None:
            for _ in range(3):
                self.certificates.look()

        asyncio.run_coroutine_threadsafe(look(), self.loop).result(PATIENCE_S)


@pytest.fixture
def ca(tmp_path: Path) -> TestCa:
    folder = tmp_path / "ca"
    folder.mkdir()
    return TestCa.in_folder(folder)


def _running(tmp_path: Path, ca: TestCa, tls: ListenerTls) -> Iterator[RemoteAdmin]:
    run_dir = Path(tempfile.mkdtemp(prefix="cf-"))  # paths of sockets are short
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "admin.token").write_text(TOKEN)
    admin_port = free_ports(1)[0]
    config = GatewayConfig(
        gateway_id="cf",
        data_dir=str(data_dir),
        run_dir=str(run_dir),
        bind="127.0.0.1",
        ports=Ports(admin=admin_port),
        ray_address="127.0.0.1:1",
        is_ray_ours=True,
        admin=OwnPort("admin", "127.0.0.1", tls),
    )
    bench = Bench()
    live = live_tls(config.admin, EventLog(lambda: datetime.now(UTC)))
    (certificates,) = live.certificates
    certificates.look()
    app = create_app(bench.services(FixedGateway(), FixedLogs(), TwoPairs()))
    server = AdminServer(app, config, live.context)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve()))
    thread.start()
    asyncio.run(listening(admin_port))
    terminal = Terminal(config.admin_url, data_dir, bench, FixedGateway())
    try:
        yield RemoteAdmin(config, terminal, ca, loop, certificates)
    finally:
        loop.call_soon_threadsafe(server.stop)
        thread.join()
        loop.close()
        shutil.rmtree(run_dir)


@pytest.fixture
def remote(tmp_path: Path, ca: TestCa) -> Iterator[RemoteAdmin]:
    yield from _running(tmp_path, ca, ListenerTls((ca.server("admin"),)))


@pytest.fixture
def mutual(tmp_path: Path, ca: TestCa) -> Iterator[RemoteAdmin]:
    yield from _running(tmp_path, ca, ListenerTls((ca.server("admin"),), str(ca.file), str(ca.revoke())))


def test_a_command_reaches_the_control_plane_over_tls_when_it_knows_the_ca(remote: RemoteAdmin) -> None:
    ran = remote.run("status")
    assert ran.code == 0, ran.err
    remote.terminal.env["CROSSFADE_ADMIN_CA"] = str(remote.ca.file)
    assert remote.run("status", ca="").code == 0


def test_the_ca_of_the_data_directory_is_believed_by_itself(remote: RemoteAdmin) -> None:
    tls = remote.terminal.data_dir / "tls"
    tls.mkdir()
    (tls / "ca.pem").write_bytes(remote.ca.file.read_bytes())
    assert remote.run("status", ca="").code == 0


def test_a_certificate_that_nobody_vouches_for_is_told_with_what_to_do(remote: RemoteAdmin, tmp_path: Path) -> None:
    other = TestCa.in_folder(tmp_path, "another CA")
    for ca in ("", str(other.file)):
        ran = remote.run("status", ca=ca)
        assert (ran.code, "its certificate is not trusted" in ran.err) == (5, True), ran.err
        assert "name the CA that signed it" in ran.err


def test_a_certificate_for_another_name_is_told(remote: RemoteAdmin) -> None:
    remote.ca.server("admin", ["elsewhere.example"])
    remote.look()
    for url in (remote.url, remote.url.replace("127.0.0.1", "localhost")):
        ran = remote.run("status", url=url)
        assert (ran.code, "its certificate is for another name" in ran.err) == (5, True), ran.err


def test_a_certificate_that_has_expired_is_told(tmp_path: Path, ca: TestCa) -> None:
    past = datetime.now(UTC) - timedelta(days=40)
    chain, key = issued(ca.authority, ["127.0.0.1"], past, days=30)
    files = ca.files("old")
    Path(files.certificate).write_bytes(chain)
    write_private(Path(files.key), key)
    for remote in _running(tmp_path, ca, ListenerTls((files,))):
        ran = remote.run("status")
        assert (ran.code, "its certificate has expired" in ran.err) == (5, True), ran.err


def test_plain_text_and_tls_that_miss_each_other_are_told(remote: RemoteAdmin, terminal: Terminal) -> None:
    spoken = remote.run("status", url=remote.url.replace("https", "http"), ca="")
    assert (spoken.code, "cannot be reached" in spoken.err) == (5, True), spoken.err
    ran = terminal.run("status", "--admin-url", terminal.url.replace("http", "https"))
    assert (ran.code, "does not speak TLS" in ran.err) == (5, True), ran.err


@pytest.mark.parametrize("url", ["http://10.0.0.7:8003", "HTTP://scoring.example:8003"])
def test_a_token_is_never_sent_in_clear_over_a_network(terminal: Terminal, url: str) -> None:
    ran = terminal.run("status", "--admin-url", url)
    assert (ran.code, "would carry the token in clear" in ran.err, "https://" in ran.err) == (2, True, True), ran.err


def test_a_new_certificate_is_shown_without_a_restart_and_open_connections_go_on(remote: RemoteAdmin) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=remote.url, headers=headers, verify=remote.ca.trusting()) as kept:
        assert kept.get("/api/v1/status").status_code == 200
        shown = set()
        for _ in range(5):
            remote.ca.server("admin")
            remote.look()
            with (
                httpx.Client(base_url=remote.url, headers=headers, verify=remote.ca.trusting()) as fresh,
                fresh.stream("GET", "/api/v1/live") as reply,
            ):
                spoken = reply.extensions["network_stream"].get_extra_info("ssl_object")
                assert spoken.version() == "TLSv1.3"
                shown.add(spoken.getpeercert(True))
            with kept.stream("GET", "/api/v1/status") as reply:
                assert reply.status_code == 200
        assert len(shown) == 5


def test_a_pair_that_does_not_fit_changes_nothing(remote: RemoteAdmin) -> None:
    remote.ca.server("other")
    remote.ca.copy("other", "admin")
    remote.look()
    assert "do not belong together" in remote.certificates.status()[0].refused
    assert remote.run("status").code == 0


def shows(client: CertificateFiles) -> tuple[str, str, str, str]:
    return ("--client-certificate", client.certificate, "--client-key", client.key)


def test_with_a_client_ca_nobody_gets_in_without_a_certificate_of_it(mutual: RemoteAdmin, tmp_path: Path) -> None:
    operator = mutual.ca.client("ann", ["ann.example"])
    assert mutual.run("status", *shows(operator)).code == 0
    mutual.terminal.env |= {"CROSSFADE_ADMIN_CERTIFICATE": operator.certificate}
    assert mutual.run("status").code == 0  # the key stands beside it
    mutual.terminal.env.clear()

    stranger = TestCa.in_folder(tmp_path, "another CA").client("ann", ["ann.example"])
    for shown in ((), shows(stranger), shows(mutual.ca.server("a-server"))):
        ran = mutual.run("status", *shown)
        assert ran.code == 5
        assert "--client-certificate" in ran.err or "client's certificate" in ran.err


def test_a_certificate_without_a_token_opens_nothing(mutual: RemoteAdmin) -> None:
    operator = mutual.ca.client("ann", ["ann.example"])
    with httpx.Client(base_url=mutual.url, verify=mutual.ca.trusting(operator)) as client:
        assert client.get("/api/v1/status").status_code == 401


def test_a_revoked_certificate_gets_in_no_more(mutual: RemoteAdmin) -> None:
    leaver, stayer = (mutual.ca.client(name, [f"{name}.example"]) for name in ("leaver", "stayer"))
    assert mutual.run("status", *shows(leaver)).code == 0
    mutual.ca.revoke("leaver")
    mutual.look()
    assert mutual.run("status", *shows(leaver)).code == 5
    assert mutual.run("status", *shows(stayer)).code == 0


def test_files_that_cannot_be_shown_are_told(mutual: RemoteAdmin, tmp_path: Path) -> None:
    client = mutual.ca.client("ann", ["ann.example"])
    other = mutual.ca.client("ben", ["ben.example"])
    for options, words in (
        (("--client-certificate", "none.pem"), "no such file"),
        (("--client-certificate", client.certificate, "--client-key", other.key), "do not fit together"),
        (("--client-key", client.key), "a key alone is not shown"),
        (("--ca", str(tmp_path / "none")), "no such file"),
    ):
        ran = mutual.terminal.run("status", "--admin-url", mutual.url, *options)
        assert (ran.code, words in ran.err) == (2, True), ran.err


def test_the_socket_lets_this_user_in_with_the_token_whatever_the_port_asks_for(mutual: RemoteAdmin) -> None:
    path = mutual.config.admin_socket
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert mutual.terminal.run("status", "--admin-url", f"unix:{path}").code == 0
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://admin") as client:
        assert client.get("/api/v1/status").status_code == 401


def test_nobody_chooses_the_address_that_the_audit_log_shows(remote: RemoteAdmin) -> None:
    forged = {"x-forwarded-for": "203.0.113.9", "forwarded": "for=203.0.113.9", "x-real-ip": "203.0.113.9"}
    with httpx.Client(base_url=remote.url, verify=remote.ca.trusting(), headers=forged) as client:
        for _ in range(12):
            last = client.get("/api/v1/status", headers={"authorization": "Bearer guessed"})
        assert (last.status_code, int(last.headers["retry-after"]) > 0) == (429, True)
        right = client.get("/api/v1/audit", headers={"authorization": f"Bearer {TOKEN}"})
    assert right.status_code == 200
    assert [line["actor"] for line in right.json()["lines"]] == ["127.0.0.1"]


def test_up_keeps_the_admin_api_and_metrics_on_loopback_unless_they_speak_tls(
    terminal: Terminal, tmp_path: Path
) -> None:
    for name in ("admin", "metrics"):
        for bind in ("0.0.0.0", "10.1.2.3", "::"):
            ran = terminal.run("up", "--data-dir", str(tmp_path / "gateway"), f"--{name}-bind", bind)
            assert (ran.code, f"--{name}-tls-certificate" in ran.err) == (2, True), ran.err
            assert "crossfade tls init" in ran.err
        ran = terminal.run("up", "--data-dir", str(tmp_path / "gateway"), f"--{name}-bind", "localhost")
        assert (ran.code, "is not an IP address" in ran.err) == (2, True), ran.err
        ran = terminal.run("up", "--data-dir", str(tmp_path / "gateway"), f"--{name}-tls-client-ca", "ca.pem")
        assert (ran.code, f"--{name}-tls-certificate: TLS needs a certificate" in ran.err) == (2, True), ran.err
    assert not (tmp_path / "gateway").exists()


def test_urls_of_ipv6_addresses_have_brackets() -> None:
    assert OwnPort("admin", "::1").url(8003) == "http://[::1]:8003"
