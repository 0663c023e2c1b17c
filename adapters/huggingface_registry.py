"""Models on the Hugging Face hub, or a server that speaks its API: `hf://org/repo`, `hf://org/repo@revision/path`.

A revision (a branch, a tag, `refs/pr/1` with its slashes written %2F; `main` if none) becomes a commit. The hub lists
the sha256 of large files and git's own digest of small ones, so every byte is checked against the commit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote, urljoin

from adapters.registry_http import checked, mapping, size_of, words
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_ref import ModelRef
from router.domain.model_tree import checked_digest, checked_path
from router.models.layout import layout_of
from router.models.ports import Download, RemoteFile, Resolution, Transport
from router.models.settings import RegistrySettings

_GIT_DIGEST = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,96}")
_NEXT_PAGE = re.compile(r'<([^>]+)>;\s*rel="next"')
_MAX_PAGES = 100
_VERSION_DIGITS = 12


@dataclass(frozen=True, slots=True)
class _Asked:
    repository: str
    revision: str
    inside: str


class HuggingFaceModels:
    """Implements `Source`. A file's locator: git's digest of it ("-" when there is a sha256), a space, the URL."""

    def __init__(self, transport: Transport, settings: RegistrySettings) -> None:
        self._transport = transport
        self._settings = settings

    async def resolve(self, ref: ModelRef) -> Resolution:
        asked = _parsed(ref)
        told = await self._told(ref, asked)
        commit = _commit(ref, told)
        listed = {file.path: file for file in await self._listed(ref, asked.repository, commit)}
        try:
            layout = layout_of(listed, asked.inside)
        except ModelUnavailable as error:
            raise ModelUnavailable(f"{ref}: {error}") from None
        files = tuple(replace(listed[path], path=layout.name(path)) for path in layout.paths)
        pinned = f"hf://{asked.repository}@{commit}" + (f"/{asked.inside}" if asked.inside else "")
        return Resolution(ref, pinned, commit, files, commit[:_VERSION_DIGITS], _lineage(told, commit))

    def read(self, resolution: Resolution, file: RemoteFile, offset: int) -> AbstractAsyncContextManager[Download]:
        git_digest, _, url = file.locator.partition(" ")
        if git_digest == "-":
            return self._transport.stream(url, offset=offset)
        return self._small(file, git_digest, url)

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        asked = _parsed(ref)
        if _GIT_DIGEST.fullmatch(asked.revision):
            return False
        return _commit(ref, await self._told(ref, asked)) != revision

    async def _told(self, ref: ModelRef, asked: _Asked) -> dict[str, Any]:
        url = self._url("api/models", asked.repository, "revision", quote(asked.revision, safe=""))
        return mapping(checked(await self._transport.request("GET", url), str(ref)).json(), str(ref))

    async def _listed(self, ref: ModelRef, repository: str, commit: str) -> list[RemoteFile]:
        url = self._url("api/models", repository, "tree", commit) + "?recursive=true"
        files: list[RemoteFile] = []
        for _ in range(_MAX_PAGES):
            reply = checked(await self._transport.request("GET", url), str(ref))
            entries = reply.json()
            if not isinstance(entries, list):
                raise ModelUnavailable(f"{ref}: the answer is not what the hub says: is it another server?")
            files += [
                self._file(ref, repository, commit, entry)
                for entry in (mapping(entry, str(ref)) for entry in entries)
                if entry.get("type") == "file"
            ]
            following = _NEXT_PAGE.search(reply.headers.get("link", ""))
            if following is None:
                return files
            url = urljoin(url, following[1])
        raise ModelUnavailable(f"{ref}: has too many files: use a repository that holds the model alone")

    def _file(self, ref: ModelRef, repository: str, commit: str, entry: dict[str, Any]) -> RemoteFile:
        try:
            path = checked_path(str(entry.get("path")))
            large = entry.get("lfs")
            sha256 = checked_digest(str(large.get("oid"))) if isinstance(large, dict) else ""
        except Invalid as error:
            raise ModelUnavailable(f"{ref}: the hub lists a file that cannot be: {error}") from None
        git_digest = "-" if sha256 else str(entry.get("oid"))
        if not sha256 and not _GIT_DIGEST.fullmatch(git_digest):
            raise ModelUnavailable(f"{ref}: the hub lists {path!r} without a digest")
        url = self._url(repository, "resolve", commit, quote(path))
        return RemoteFile(path, size_of(entry.get("size")), sha256, f"{git_digest} {url}")

    def _url(self, *parts: str) -> str:
        return f"{self._settings.huggingface_endpoint}/{'/'.join(parts)}"

    @asynccontextmanager
    async def _small(self, file: RemoteFile, git_digest: str, url: str) -> AsyncIterator[Download]:
        """Git's digest is of the whole file, so it is always read from its beginning."""
        async with self._transport.stream(url) as download:
            yield Download(0, _verified(download.chunks, file, git_digest))


async def _verified(chunks: AsyncIterator[bytes], file: RemoteFile, git_digest: str) -> AsyncIterator[bytes]:
    digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    async for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != git_digest:
        raise ModelUnavailable(f"{file.path}: is not the file that the commit holds: it was changed on the way")


def _parsed(ref: ModelRef) -> _Asked:
    organisation, _, rest = ref.location.partition("/")
    name, _, inside = rest.partition("/")
    name, is_pinned, revision = name.partition("@")
    is_named = _NAME.fullmatch(organisation) and _NAME.fullmatch(name) and (revision or not is_pinned)
    if not is_named or ".." in (organisation, name):
        raise ModelUnavailable(f"{ref}: write hf://organisation/repository, then perhaps @revision and /path")
    try:
        revision = checked_path(unquote(revision)) if revision else "main"
        return _Asked(f"{organisation}/{name}", revision, checked_path(inside.rstrip("/")) if inside else "")
    except Invalid as error:
        raise ModelUnavailable(f"{ref}: {error.message}") from None


def _commit(ref: ModelRef, told: dict[str, Any]) -> str:
    commit = told.get("sha")
    if not isinstance(commit, str) or not _GIT_DIGEST.fullmatch(commit):
        raise ModelUnavailable(f"{ref}: the hub does not say which commit this is")
    return commit


def _lineage(told: dict[str, Any], commit: str) -> dict[str, str]:
    card = told.get("cardData")
    known = {
        "commit": commit,
        "author": words(told.get("author")),
        "created": words(told.get("lastModified")),
        "license": words(card.get("license")) if isinstance(card, dict) else "",
    }
    return {name: value for name, value in known.items() if value}
