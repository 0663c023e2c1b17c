"""Models at plain URLs: `https://host/path/model.onnx#sha256=…`.

With a sha256 the content is fixed. Without one, the server's ETag or Last-Modified tells whether it has changed, and
the digest of the first use is what is served.
"""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from adapters.registry_http import Located, checked, exact_etag, located_file, size_of, words
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_ref import ModelRef
from router.domain.model_tree import checked_path
from router.models.ports import Download, RemoteFile, Reply, Resolution, Transport

_FRAGMENT = re.compile(r"sha256=([0-9a-f]{64})")
# A server that knows no HEAD, or signed the URL for GET only.
_NO_HEAD = frozenset({400, 403, 405, 501})


@dataclass(frozen=True, slots=True)
class _Asked:
    """`shown`: the URL without its query, which may hold a signature."""

    url: str
    shown: str
    name: str
    sha256: str


class HttpModels:
    """Implements `Source`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def resolve(self, ref: ModelRef) -> Resolution:
        asked = _parsed(ref)
        reply = await self._transport.request("HEAD", asked.url)
        size, etag = -1, ""
        if not (asked.sha256 and reply.status in _NO_HEAD):
            checked(reply, asked.shown)
            size, etag = size_of(reply.headers.get("content-length")), exact_etag(reply)
        file = RemoteFile(asked.name, size, asked.sha256, str(Located(asked.url, etag)))
        revision = asked.sha256 or _revision(asked, reply)
        # Without a digest no reference names this content for good, so what is pinned is told in words.
        pinned = str(ref) if asked.sha256 else f"{revision} of {asked.url}"
        lineage = {"modified": words(reply.headers["last-modified"])} if "last-modified" in reply.headers else {}
        return Resolution(ref, pinned, revision, (file,), lineage=lineage)

    def read(self, resolution: Resolution, file: RemoteFile, offset: int) -> AbstractAsyncContextManager[Download]:
        return located_file(self._transport, file.locator, offset)

    async def has_moved(self, ref: ModelRef, revision: str) -> bool:
        asked = _parsed(ref)
        if asked.sha256:
            return False
        reply = await self._transport.request("HEAD", asked.url)
        return _revision(asked, checked(reply, asked.shown)) != revision


def _parsed(ref: ModelRef) -> _Asked:
    url, separator, fragment = str(ref).partition("#")
    match = _FRAGMENT.fullmatch(fragment)
    shown = url.partition("?")[0]
    if separator and match is None:
        raise ModelUnavailable(f"{shown}: after '#' comes sha256= and 64 hex digits in lower case")
    if ref.scheme == "http" and match is None:
        raise ModelUnavailable(f"{shown}: without TLS anybody may change the file: add #sha256= and its digest")
    try:
        name = unquote(urlsplit(url).path).rpartition("/")[2]
        checked_path(name)
    except (Invalid, ValueError):
        raise ModelUnavailable(f"{shown}: does not end with a file's name, such as /model.onnx") from None
    return _Asked(url, shown, name, match[1] if match else "")


def _revision(asked: _Asked, reply: Reply) -> str:
    """What changes with the content, as far as the server tells. Raises `ModelUnavailable` when it tells nothing."""
    if etag := reply.headers.get("etag"):
        return f"etag {words(etag)}"
    if modified := reply.headers.get("last-modified"):
        return f"modified {words(modified)}, {words(reply.headers.get('content-length'))} bytes"
    hint = "add #sha256= and its digest"
    raise ModelUnavailable(
        f"{asked.shown}: the server tells neither ETag nor Last-Modified, so changes are not seen; {hint}"
    )
