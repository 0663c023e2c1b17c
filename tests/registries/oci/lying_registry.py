"""A registry that says what the test wants, however wrong."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from tests.registries.http_server import Asked, reply
from tests.registries.oci.docker_registry import MANIFEST, descriptor, digest_of, manifest


@dataclass
class LyingRegistry:
    """One repository. `manifests`: by tag or digest, with their types; `blobs`: by digest, whatever their content."""

    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    announced: str = ""  # Docker-Content-Digest, when it is not left out
    has_ranges: bool = True

    def tag(self, document: Any, media_type: str = MANIFEST) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.manifests["1"] = body, media_type

    def tag_layers(self, *layers: dict[str, Any], config: str = "application/vnd.oci.empty.v1+json") -> None:
        self.tag(manifest(descriptor(b"{}", config), list(layers)))

    def blob(self, content: bytes, media_type: str, **annotations: str) -> dict[str, Any]:
        self.blobs[digest_of(content)] = content
        return descriptor(content, media_type, **annotations)

    async def behave(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        kind, _, name = asked.target.removeprefix("/v2/m/").partition("/")
        headers = {"docker_content_digest": self.announced} if self.announced else {}
        if kind == "manifests" and name in self.manifests:
            body, media_type = self.manifests[name]
            writer.write(reply(200, body, content_type=media_type, **headers))
        elif kind == "blobs" and name in self.blobs:
            offset = asked.offset if self.has_ranges else 0
            body = b"" if asked.method == "HEAD" else self.blobs[name][offset:]
            if offset:
                whole = len(self.blobs[name])
                headers["content_range"] = f"bytes {offset}-{whole - 1}/{whole}"
            writer.write(reply(206 if offset else 200, body, content_type="application/octet-stream", **headers))
        else:
            writer.write(reply(404, b"{}"))
