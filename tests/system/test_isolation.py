"""A network with a proxy as its only way out, and a whole gateway in it: models come, and nothing else leaves.

The names of the sources mean something to the proxy alone, and everything that is sent anywhere else is seen. The tests
go in this order: the second one closes the way to the proxy.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.payloads import Payload
from router.cli.session import ExitCode
from tests.registries.certificates import Authority
from tests.registries.cloud.stores import BUCKET, SECRET, USER, seaweed
from tests.registries.fake_hub import FakeHub, storage_of
from tests.registries.http_server import file_server, http_server_in_thread
from tests.registries.oci.docker_registry import docker_registry
from tests.registries.processes import free_port, serving
from tests.servers.installing import Debian, ensure
from tests.system.gateway import SETTLE_TIMEOUT_S, deployment, endpoint, write_spec
from tests.system.isolated import PROXY_PORT
from tests.system.isolation import IsolatedGateway, Outside, an_isolated_gateway, skip_without_namespaces

pytestmark = pytest.mark.timeout(600)  # the first time, packages are fetched

TINYPROXY = Debian("tinyproxy", ("tinyproxy-bin",))
PASSWORD = "s3cret"
WEB, HUB, STORE, LARGE, OCI = (f"{name}.models.test" for name in ("web", "hub", "store", "large", "registry"))
# https://www.rfc-editor.org/rfc/rfc5737: nobody's.
NOBODY = "203.0.113.7"


@contextmanager
def tinyproxy(folder: Path, tls_port: int) -> Iterator[int]:
    """Its port. It wants to know who asks, and has a file of names of its own."""
    port = free_port()
    hosts = folder / "hosts"
    hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in (WEB, HUB, STORE, LARGE, OCI)))
    conf = folder / "proxy.conf"
    conf.write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\nConnectPort {tls_port}\n"
        f"BasicAuth ann {PASSWORD}\nLogLevel Critical\n"
    )
    script = 'mount --bind "$1" /etc/hosts && exec "$2" -d -c "$3"'
    program = ensure(TINYPROXY) / "usr/bin/tinyproxy"
    command = ("unshare", "--map-root-user", "--mount", "--", "sh", "-c", script, "sh", hosts, program, conf)
    with serving(command, port, folder / "proxy.log"):
        yield port


def told(model: Path, kind: str) -> bytes:
    """The model, in another file for each source: what one has brought is not fetched from the next."""
    return model.read_bytes() + field_of_no_meaning(kind)


def field_of_no_meaning(text: str) -> bytes:
    """`doc_string` of onnx.proto's ModelProto, field 6, as protobuf writes it; the last one counts."""
    return b"\x32" + bytes([len(text)]) + text.encode()


@dataclass(frozen=True)
class Island:
    """`digests`: reference → the sha256 that it must have."""

    gateway: IsolatedGateway
    outside: Outside
    digests: dict[str, str]


@pytest.fixture(scope="module")
def island(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Island]:
    skip_without_namespaces()
    folder = tmp_path_factory.mktemp("island")
    model, authority = models / "mlp.onnx", Authority(folder)
    with ExitStack() as stack:
        enter = stack.enter_context
        web = enter(http_server_in_thread(file_server(told(model, "web")), authority.server(WEB)))
        hub = FakeHub({"model.onnx": told(model, "hub")})
        large = enter(http_server_in_thread(storage_of(hub)))
        hub_server = enter(http_server_in_thread(hub.behave))
        store = enter(seaweed(folder))
        store.put("mlp.onnx", told(model, "store"))
        registry = enter(docker_registry(folder / "registry"))
        with registry.pusher("mlp") as pusher:
            pusher.files("1", {"mlp.onnx": told(model, "oci")})

        def at(name: str, host: str) -> str:
            return f"{name}:{host.rpartition(':')[2]}"

        hub.storage = f"http://{at(LARGE, large.host)}"
        plain = {"plain_http": True}
        (folder / "key").write_text(SECRET)
        settings: dict[str, Any] = {
            "proxy": f"http://127.0.0.1:{PROXY_PORT}",
            "ca_bundle": authority.bundle,
            "allowed_hosts": ["*.models.test"],
            "hosts": {
                f"127.0.0.1:{PROXY_PORT}": {"username": {"env": "PROXY_USER"}, "password": {"env": "PROXY_PASSWORD"}},
                at(WEB, web.host): {},
                at(HUB, hub_server.host): plain,
                at(LARGE, large.host): plain,
                at(STORE, store.host): {
                    **plain,
                    "username": {"env": "STORE_USER"},
                    "password": {"file": str(folder / "key")},
                },
                at(OCI, registry.host): plain,
            },
            "huggingface": {"endpoint": f"http://{at(HUB, hub_server.host)}"},
            "s3": {"endpoint": f"http://{at(STORE, store.host)}", "region": "us-east-1"},
        }
        (folder / "registries.yaml").write_text(json.dumps(settings))  # JSON is YAML
        digests = {kind: hashlib.sha256(told(model, kind)).hexdigest() for kind in ("web", "hub", "store", "oci")}
        port = enter(tinyproxy(folder, int(web.host.rpartition(":")[2])))
        options = ("--registries", str(folder / "registries.yaml"))
        environment = {"PROXY_USER": "ann", "PROXY_PASSWORD": PASSWORD, "STORE_USER": USER}
        gateway, outside = enter(an_isolated_gateway(folder, port, options, environment))
        gateway.start()
        yield Island(
            gateway,
            outside,
            {
                f"https://{at(WEB, web.host)}/mlp.onnx#sha256={digests['web']}": digests["web"],
                "hf://org/repo": digests["hub"],
                f"s3://{BUCKET}/mlp.onnx": digests["store"],
                f"oci://{at(OCI, registry.host)}/mlp:1": digests["oci"],
            },
        )


def test_models_come_through_the_proxy_are_served_and_nothing_else_leaves(
    island: Island, payload: Payload, tmp_path: Path
) -> None:
    gateway, outside = island.gateway, island.outside
    for reference, digest in island.digests.items():
        pulled = gateway.run("model", "pull", reference, "-o", "json")
        assert pulled.returncode == ExitCode.DONE, pulled.stderr
        assert json.loads(pulled.stdout)["digest"] == digest
    reference = next(iter(island.digests))
    documents = [endpoint("mlp", {"only": 100}), {**deployment("mlp", "only", tmp_path), "model": reference}]
    applied = gateway.run("apply", "-f", str(write_spec(tmp_path / "spec.yaml", documents)), timeout_s=SETTLE_TIMEOUT_S)
    assert applied.returncode == ExitCode.DONE, applied.stderr
    (tmp_path / "request.json").write_bytes(payload.json.body)
    invoked = gateway.run("endpoint", "invoke", "mlp", "--request-file", str(tmp_path / "request.json"))
    assert (invoked.returncode, "answered by only" in invoked.stderr) == (ExitCode.DONE, True), invoked.stderr
    assert (outside.packets(), outside.questions()) == ([], 0)


def test_without_the_proxy_no_other_way_is_tried(island: Island) -> None:
    gateway, outside = island.gateway, island.outside
    outside.close_way()
    for reference in (f"https://{WEB}/other.onnx", "hf://org/other", f"s3://{BUCKET}/other", f"oci://{OCI}/other:1"):
        pulled = gateway.run("model", "pull", reference)
        assert (reference, pulled.returncode) == (reference, ExitCode.FAILED)
        assert "proxy" in pulled.stderr
    assert (outside.packets(), outside.questions()) == ([], 0)


def test_what_is_sent_elsewhere_and_every_question_for_a_name_is_seen(island: Island) -> None:
    """Or the tests above would prove nothing."""
    script = (
        "import socket; probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        f"probe.sendto(b'x', ('{NOBODY}', 443)); probe.sendto(b'x', ('127.0.0.53', 53))"
    )
    sent = island.gateway.inside(sys.executable, "-S", "-c", script)
    assert sent.returncode == 0, sent.stderr
    assert f"{NOBODY}, protocol 17, port 443" in island.outside.packets()
    assert island.outside.questions() >= 1
