"""Debian's docker-registry, and a small client that pushes to it by the distribution API."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.environments import Environment
from benchmarks.environments import ensure as ensure_environment
from tests.registries.certificates import Authority
from tests.registries.processes import free_port, serving
from tests.servers.installing import Debian, ensure

_ORAS = Environment("oras", ("oras==0.2.43",))
_PROGRAM = Debian("docker-registry", ("docker-registry",))
USER, PASSWORD = "ada", "correct horse"
_HTPASSWD = "ada:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n"  # bcrypt, the only kind it takes

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
TITLE = "org.opencontainers.image.title"
FILEPATH = "org.cncf.model.filepath"


@dataclass(frozen=True)
class Registry:
    """`host`: with its port. `ca`: the file with its authority, "" when it speaks plain HTTP."""

    host: str
    log: Path
    process: Any
    ca: str = ""
    user: tuple[str, str] | None = None

    def pusher(self, repository: str, authorization: str = "") -> Pusher:
        return Pusher(self, repository, authorization)

    def push_by_oras(self, target: str, folder: Path) -> None:
        """Everything in a folder, as oras itself does it. `target`: repository:tag."""
        client = Path(__file__).with_name("oras_push.py")
        argv = [ensure_environment(_ORAS).python, client, f"{self.host}/{target}", folder]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)


@contextmanager
def docker_registry(
    folder: Path,
    *,
    authority: Authority | None = None,
    is_locked: bool = False,
    upstream: str = "",
    token_auth: dict[str, str] | None = None,
) -> Iterator[Registry]:
    """`upstream`: the URL of the registry that it mirrors."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config: dict[str, Any] = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if authority:
        certificate, key = authority.issued()
        config["http"]["tls"] = {"certificate": certificate, "key": key}
    if is_locked:
        (folder / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    if token_auth:
        config["auth"] = {"token": token_auth}
    if upstream:
        config["proxy"] = {"remoteurl": upstream}
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    program = ensure(_PROGRAM) / "usr" / "bin" / "docker-registry"
    log = folder / "registry.log"
    with serving([program, "serve", folder / "config.yml"], port, log) as process:
        yield Registry(
            f"127.0.0.1:{port}",
            log,
            process,
            authority.bundle if authority else "",
            (USER, PASSWORD) if is_locked else None,
        )


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def descriptor(content: bytes, media_type: str, **annotations: str) -> dict[str, Any]:
    described: dict[str, Any] = {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}
    if annotations:
        described["annotations"] = annotations
    return described


class Pusher:
    """Pushes to one repository, as a client of the distribution API does."""

    def __init__(self, registry: Registry, repository: str, authorization: str = "") -> None:
        scheme = "https" if registry.ca else "http"
        self._base = f"{scheme}://{registry.host}/v2/{repository}"
        verify = ssl.create_default_context(cafile=registry.ca) if registry.ca else True
        headers = {}
        if registry.user:
            pair = base64.b64encode(":".join(registry.user).encode()).decode()
            headers["authorization"] = f"Basic {pair}"
        if authorization:
            headers["authorization"] = authorization
        self._client = httpx.Client(verify=verify, headers=headers, trust_env=False, timeout=30.0)

    def blob(self, content: bytes, media_type: str = "application/octet-stream", **annotations: str) -> dict[str, Any]:
        """Returns the descriptor."""
        begun = self._client.post(f"{self._base}/blobs/uploads/").raise_for_status()
        place = httpx.URL(begun.headers["location"]).copy_merge_params({"digest": digest_of(content)})
        self._client.put(place, content=content).raise_for_status()
        return descriptor(content, media_type, **annotations)

    def manifest(self, document: dict[str, Any], reference: str) -> str:
        """`reference`: a tag, or "" to push by digest alone. Returns the digest."""
        body = json.dumps(document).encode()
        self._client.put(
            f"{self._base}/manifests/{reference or digest_of(body)}",
            content=body,
            headers={"content-type": document["mediaType"]},
        ).raise_for_status()
        return digest_of(body)

    def files(self, tag: str, files: dict[str, bytes], **annotations: str) -> str:
        """As `oras push` does it: one titled layer for each file. Returns the digest."""
        layers = [self.blob(content, **{TITLE: path}) for path, content in files.items()]
        return self.manifest(manifest(self.blob(b"{}", EMPTY_CONFIG), layers, **annotations), tag)

    def image(self, tag: str, layers: Sequence[tuple[bytes, str]]) -> str:
        """`layers`: bytes and media type. Returns the digest."""
        config = self.blob(json.dumps({"architecture": "amd64", "os": "linux"}).encode(), IMAGE_CONFIG)
        return self.manifest(manifest(config, [self.blob(content, kind) for content, kind in layers]), tag)

    def delete(self, digest: str) -> None:
        self._client.delete(f"{self._base}/blobs/{digest}").raise_for_status()

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Pusher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def manifest(config: dict[str, Any], layers: list[dict[str, Any]], **annotations: str) -> dict[str, Any]:
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
    if annotations:
        document["annotations"] = annotations
    return document
