"""A network in which a proxy (tinyproxy, which wants to know who asks) is the only way out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.registries.certificates import Authority
from tests.servers.installing import Debian, ensure

pytestmark = pytest.mark.timeout(600)  # the first time, packages are fetched

TINYPROXY = Debian("tinyproxy", ("tinyproxy-bin",))
REPOSITORY = Path(__file__).parent.parent.parent

# https://www.rfc-editor.org/rfc/rfc2544: for tests, nobody's. The inside has a way to the proxy alone.
INSIDE, PROXY, OUTSIDE = "198.18.7.2", "198.18.7.1", "198.19.7.1"
PROXY_CONF = f"""
Port 3128
Listen {PROXY}
Timeout 60
MaxClients 20
Allow 198.18.7.0/24
ConnectPort 8443
BasicAuth ann s3cret
LogLevel Critical
"""


@dataclass(frozen=True)
class Network:
    """`inside`: the name of the namespace from which only the proxy can be reached. `authority` vouches for outside."""

    inside: str
    authority: Authority
    folder: Path

    def told(self, *tasks: tuple[str, str]) -> list[str]:
        """What comes of fetching each URL with the settings before it."""
        done = subprocess.run(
            ("ip", "netns", "exec", self.inside, sys.executable, "-m", "tests.registries.fetching"),
            input=json.dumps(tasks),
            env={**os.environ, "PROXY_USER": "ann", "PROXY_PASSWORD": "s3cret"},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        told: list[str] = json.loads(done.stdout)
        return told

    def settings(self, more: str, proxy: str = f"http://{PROXY}:3128") -> str:
        return f"""
proxy: {proxy}
ca_bundle: {self.authority.bundle}
timeouts: {{connect: 30s}}
allowed_hosts: ["*"]
hosts:
  {PROXY}:3128: {{username: {{env: PROXY_USER}}, password: {{env: PROXY_PASSWORD}}}}
  {OUTSIDE}:8080: {{plain_http: true}}
  {PROXY}:8080: {{plain_http: true}}
{more}"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    inside, outside = f"crossfade-in-{os.getpid()}", f"crossfade-out-{os.getpid()}"
    folder = tmp_path_factory.mktemp("network")
    authority = Authority(folder)
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the program `ip` (Debian: iproute2)")
    with contextlib.ExitStack() as stack:
        for name in (inside, outside):
            made = subprocess.run(("ip", "netns", "add", name), capture_output=True, text=True, check=False)
            if made.returncode != 0:
                pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
            stack.callback(subprocess.run, ("ip", "netns", "delete", name), check=True)
        for command in (
            f"link add inner netns {inside} type veth peer name outer netns {outside}",
            f"-n {inside} address add {INSIDE}/24 dev inner",
            f"-n {inside} link set inner up",
            f"-n {inside} link set lo up",
            f"-n {outside} address add {PROXY}/24 dev outer",
            f"-n {outside} address add {OUTSIDE}/32 dev lo",
            f"-n {outside} link set outer up",
            f"-n {outside} link set lo up",
        ):
            subprocess.run(("ip", *command.split()), check=True)
        (folder / "model.onnx").write_text("the model")
        (folder / "proxy.conf").write_text(PROXY_CONF)
        proxy = str(ensure(TINYPROXY) / "usr/bin/tinyproxy")
        server = Path(__file__).with_name("web_server.py")
        started = (
            (proxy, "-d", "-c", str(folder / "proxy.conf")),
            (sys.executable, str(server), *authority.issued(OUTSIDE)),
        )
        for command in started:
            process = subprocess.Popen(
                ("ip", "netns", "exec", outside, *command),
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        wait_for_proxy(inside)
        yield Network(inside, authority, folder)


def wait_for_proxy(inside: str) -> None:
    probe = f"import socket; socket.create_connection(('{PROXY}', 3128), 5)"
    for _ in range(100):
        tried = subprocess.run(
            ("ip", "netns", "exec", inside, sys.executable, "-S", "-c", probe), capture_output=True, check=False
        )
        if tried.returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError("tinyproxy did not start")


def test_the_proxy_and_no_proxy_decide_how_every_host_is_reached(network: Network) -> None:
    secure, plain = f"https://{OUTSIDE}:8443/model.onnx", f"http://{OUTSIDE}:8080/model.onnx"
    through = network.settings("")
    stranger = through.replace("username: {env: PROXY_USER}, password: {env: PROXY_PASSWORD}", "")
    over_tls, over_http, bypassed, near, refused, wrong, unknown, unknown_plainly, dead = network.told(
        (through, secure),
        (through, plain),
        (network.settings("no_proxy: [198.19.0.0/16]"), secure),
        (network.settings("no_proxy: [198.18.0.0/16]", proxy="http://127.0.0.1:1"), f"http://{PROXY}:8080/model.onnx"),
        (through, f"https://{OUTSIDE}:9443/model.onnx"),
        (through.replace("PROXY_PASSWORD", "PROXY_USER"), secure),
        (stranger, secure),
        (stranger, plain),
        (network.settings("", proxy="http://127.0.0.1:1"), secure),
    )
    assert over_tls == over_http == near == "the model"
    assert "Network is unreachable" in bypassed  # asked directly, as its network is named, and there is no way
    assert "the proxy refuses to connect to it (403 " in refused
    for told in (wrong, unknown):
        assert f"the proxy wants to know who asks: give username and password under hosts, for {PROXY}:3128" in told
        assert "s3cret" not in told
    assert "the proxy wants to know who asks" in unknown_plainly
    assert "the proxy refuses connections" in dead
