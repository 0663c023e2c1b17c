"""One connection to one control plane: requests, streams and archives over HTTP, and what went wrong in words."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from router.client_errors import LocalFile, Refused, Unreachable
from router.domain.errors import CrossfadeError
from router.trust import tls_fault
from router.urls import UNIX, is_https, is_loopback

_CONNECT_TIMEOUT_S = 5.0
_REPLY_TIMEOUT_S = 120.0  # applying hashes the models first
_STREAM_TIMEOUT = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)  # large models are hashed; events come when they come
_STREAM_BYTES = 1024 * 1024

Json = dict[str, Any]


class AdminConnection:
    """Knows no path of the API. Raises `Unreachable` and `Refused`."""

    def __init__(self, url: str, token: str, by: str, trust: ssl.SSLContext | None) -> None:
        """As `AdminClient` takes them."""
        self._url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}", **({"x-crossfade-by": by} if by else {})}
        timeout = httpx.Timeout(_REPLY_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        try:
            if url.startswith(UNIX):
                here = httpx.HTTPTransport(uds=url.removeprefix(UNIX))
                self._http = httpx.Client(base_url="http://admin", headers=headers, timeout=timeout, transport=here)
            else:
                self._http = httpx.Client(
                    base_url=self._url,
                    headers=headers,
                    timeout=timeout,
                    trust_env=not is_loopback(url),
                    verify=trust or True,
                )
        except httpx.InvalidURL as error:
            raise Unreachable(f"{url} is not a URL: {error}") from None

    def close(self) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        query: Mapping[str, str] | None = None,
        revision: int | None = None,
        timeout_s: float = _REPLY_TIMEOUT_S,
    ) -> Json:
        """`revision`: refused unless the endpoint is still at it."""
        headers = {} if revision is None else {"if-match": f'"{revision}"'}
        try:
            timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S)
            reply = self._http.request(method, path, json=body, params=query, headers=headers, timeout=timeout)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if reply.is_success:
            return _decoded(reply)
        raise _refusal(reply)

    def lines(self, path: str, query: Mapping[str, str]) -> Iterator[Json]:
        """The values of a stream as they come; ends when the control plane closes it."""
        try:
            with self._http.stream("GET", path, params=query, timeout=_STREAM_TIMEOUT) as reply:
                if reply.status_code != 200:
                    reply.read()
                    raise _refusal(reply)
                for line in reply.iter_lines():
                    yield json.loads(line)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def download(self, path: str, query: Mapping[str, Sequence[str]], target: Path, told: Callable[[int], None]) -> int:
        """Write what is there to `target`, which appears when it is whole. Returns its size. Raises `LocalFile`.

        `told`: called with the size of every piece.
        """
        part = target.with_name(f".{target.name}.part")
        try:
            with self._http.stream("GET", path, params=query, timeout=_STREAM_TIMEOUT) as reply:
                if reply.status_code != 200:
                    reply.read()
                    raise _refusal(reply)
                with part.open("wb") as file:
                    for chunk in reply.iter_raw():
                        file.write(chunk)
                        told(len(chunk))
                    file.flush()
                    os.fsync(file.fileno())
            part.replace(target)
            return target.stat().st_size
        except httpx.RemoteProtocolError as error:
            raise LocalFile(f"the export ended early ({error}): the gateway's log tells why") from None
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        except OSError as error:
            raise LocalFile(f"{target} cannot be written: {error.strerror or error}") from None
        finally:
            part.unlink(missing_ok=True)

    def upload(self, path: str, query: Mapping[str, str], source: Path, told: Callable[[int], None]) -> Json:
        """Send an archive (tar). Raises `LocalFile`. `told`: as in `download`."""
        try:
            with source.open("rb") as file:
                reply = self._http.post(
                    path,
                    params=query,
                    content=_pieces(file, told),
                    headers={"content-length": str(source.stat().st_size), "content-type": "application/x-tar"},
                    timeout=_STREAM_TIMEOUT,
                )
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        except OSError as error:
            raise LocalFile(f"{source} cannot be read: {error.strerror or error}") from None
        if not reply.is_success:
            raise _refusal(reply)
        return _decoded(reply)

    def _unreachable(self, error: Exception) -> Unreachable:
        if fault := tls_fault(error):
            return Unreachable(f"the control plane at {self._url}: {fault}")
        if is_https(self._url) and isinstance(error, httpx.ReadError | httpx.RemoteProtocolError):
            # TLS 1.3: the client has finished its handshake when the server turns its certificate down.
            return Unreachable(
                f"the control plane at {self._url} hung up ({error or type(error).__name__}). It may want a certificate"
                " of yours, or refuse the one it was shown: --client-certificate"
            )
        return Unreachable(
            f"the control plane at {self._url} cannot be reached ({error or type(error).__name__}). "
            "Is `crossfade up` running? --admin-url or CROSSFADE_ADMIN_URL names another one"
        )


def _decoded(reply: httpx.Response) -> Json:
    try:
        value = reply.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Unreachable(f"{reply.url} answers, but it is not a Crossfade control plane")
    return value


def _refusal(reply: httpx.Response) -> CrossfadeError:
    facts = _decoded(reply).get("error")
    if not isinstance(facts, dict):
        return Unreachable(f"{reply.url} answers, but it is not a Crossfade control plane")
    return Refused(reply.status_code, facts)


def _pieces(file: BinaryIO, told: Callable[[int], None]) -> Iterator[bytes]:
    while piece := file.read(_STREAM_BYTES):
        yield piece
        told(len(piece))
