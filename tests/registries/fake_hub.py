"""A Hugging Face hub with one repository: what its API says of a commit, and its files, large ones on another host."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from tests.registries.http_server import Asked, Behaviour, reply


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class FakeHub:
    """`files`: path → content. `storage`: the URL of a `storage_of` this hub, for files of 100 bytes and more.

    `lies`: path → what is sent instead of its content. Lists two files a page.
    """

    files: dict[str, bytes]
    storage: str = ""
    commit: str = "c" * 40
    revisions: tuple[str, ...] = ("main", "refs%2Fpr%2F1")
    token: str = ""
    lies: dict[str, bytes] = field(default_factory=dict)
    repository: str = "org/repo"

    async def behave(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(self._answer(asked))

    def _answer(self, asked: Asked) -> bytes:
        if self.token and asked.headers.get("authorization") != f"Bearer {self.token}":
            return reply(401, b'{"error":"Invalid username or password."}')
        path, _, query = asked.target.partition("?")
        for revision in (*self.revisions, self.commit):
            if path == f"/api/models/{self.repository}/revision/{revision}":
                card = {"license": "apache-2.0"}
                told = {
                    "sha": self.commit,
                    "author": "org",
                    "lastModified": "2026-01-02T12:00:00.000Z",
                    "cardData": card,
                }
                return reply(200, json.dumps(told).encode())
        if path == f"/api/models/{self.repository}/tree/{self.commit}":
            return self._page(path, int(query.partition("cursor=")[2] or 0))
        file = path.removeprefix(f"/{self.repository}/resolve/{self.commit}/")
        if file not in self.files:
            return reply(404, b'{"error":"Entry not found"}')
        if is_large(self.files[file]):
            return reply(302, location=f"{self.storage}/{file}?X-Amz-Signature=s1gnature")
        return reply(200, self.lies.get(file, self.files[file]))

    def _page(self, path: str, begin: int) -> bytes:
        names = sorted(self.files)
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "onnx", "oid": "d" * 40, "size": 0}]
        for name in names[begin : begin + 2]:
            content = self.files[name]
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": git_digest(content)}
            if is_large(content):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 135}
            entries.append(entry)
        more = {"link": f'<{path}?recursive=true&cursor={begin + 2}>; rel="next"'} if begin + 2 < len(names) else {}
        return reply(200, json.dumps(entries).encode(), **more)


def storage_of(hub: FakeHub) -> Behaviour:
    """Where the large files are: it refuses what carries credentials, as cloud storage does with signed URLs."""

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if "authorization" in asked.headers:
            writer.write(reply(400, b"Only one auth mechanism allowed"))
            return
        content = hub.files[asked.target.partition("?")[0].lstrip("/")]
        part = content[asked.offset :]
        headers = {"content_range": f"bytes {asked.offset}-{len(content) - 1}/{len(content)}"} if asked.offset else {}
        writer.write(reply(206 if asked.offset else 200, part, **headers))

    return behave


def is_large(content: bytes) -> bool:
    return len(content) >= 100
