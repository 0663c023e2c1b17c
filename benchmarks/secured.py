"""A gateway with TLS, and an endpoint with a key, as an operator sets them up."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.crossfade import ENDPOINT, PATH_KINDS
from benchmarks.payloads import Payload
from benchmarks.processes import Child, DidNotStart, free_port
from benchmarks.servers import START_TIMEOUT_S, Server
from router.client import AdminClient
from router.tls_folder import TlsFolder

CROSSFADE = str(Path(sys.executable).with_name("crossfade"))


@dataclass(frozen=True, slots=True)
class Secured:
    """`host`: where it scores, with the port. `key`: the endpoint's primary one."""

    server: Server
    data_dir: Path
    host: str
    admin_url: str
    key: str

    @property
    def url(self) -> str:
        return f"https://{self.host}/v2/models/{ENDPOINT}/infer"

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=TlsFolder.of(self.data_dir).authority)

    def admin(self) -> AdminClient:
        return AdminClient(self.admin_url, (self.data_dir / "admin.token").read_text().strip())


@contextmanager
def secured(folder: Path, documents: list[dict[str, object]], payload: Payload) -> Iterator[Secured]:
    """`crossfade up` with a certificate of its own, and its endpoint's key."""
    data_dir, spec = folder / "data", folder / "spec.yaml"
    spec.write_text("\n---\n".join(json.dumps(document) for document in documents))
    subprocess.run([CROSSFADE, "tls", "init", "--data-dir", str(data_dir)], check=True, capture_output=True)
    ports = {name: free_port() for name in ("http", "grpc", "metrics", "admin")}
    options = [f"--{name}-port={port}" for name, port in ports.items()]
    command = [CROSSFADE, "up", "-f", str(spec), "--data-dir", str(data_dir), *options]
    log = folder / "crossfade.log"
    child = Child("crossfade with TLS", command, log)
    try:
        started_in_s = child.wait_until(lambda: "Ctrl-C stops" in log.read_text(), START_TIMEOUT_S)
        host, admin_url = f"127.0.0.1:{ports['http']}", f"http://127.0.0.1:{ports['admin']}"
        with AdminClient(admin_url, (data_dir / "admin.token").read_text().strip()) as admin:
            key = str(admin.create_key(ENDPOINT)["key"])
        made = Secured(Server(child, PATH_KINDS, started_in_s), data_dir, host, admin_url, key)
        answer = httpx.post(made.url, content=payload.body, headers={"x-api-key": key}, verify=made.trust)
        if answer.status_code != 200:
            raise DidNotStart(f"{made.url} answers {answer.status_code}: {answer.text}")
        payload.check_json(answer.content)
        yield made
    finally:
        child.stop()
