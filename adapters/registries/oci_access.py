"""Asking a registry as somebody: Basic, or a token that another server gives out for one repository.

Protocols: https://distribution.github.io/distribution/spec/auth/token/ and RFC 9110, section 11 (challenges).
"""

from __future__ import annotations

import base64
import json
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from adapters.registries.docker_credentials import DockerCredentials
from adapters.registries.oci_reference import OciReference
from router.domain.errors import Invalid, ModelUnavailable
from router.models.ports import AccessDenied, Credentials, Download, Reply, SourceUnavailable, Transport
from router.models.settings import RegistrySettings, checked_authority

_SCHEME = re.compile(r"(?:^|,)\s*(?P<scheme>[A-Za-z]+)\s+(?=[A-Za-z_]+=)")
_PARAMETER = re.compile(r'(?P<key>[A-Za-z_]+)="(?P<value>[^"]{0,2000})"')
_MAX_CHALLENGE = 8 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_MAX_TOKEN_BYTES = 256 * 1024
_TOKEN = re.compile(r"[!-~]+")
_TOKEN_LASTS_S = 60.0  # when nothing is said; the protocol's default
_TOKEN_RESERVE_S = 10.0
_NO_PASS_NEEDED_S = 300.0
_MAX_PASSES = 1000


@dataclass(frozen=True, slots=True)
class _Pass:
    """What a registry wants to see. `until_s`: by the clock of whoever asks."""

    authorization: str = field(repr=False)
    until_s: float


class RegistryAccess:
    """Requests to registries, signed in where they ask for it. `clock`: monotonic, in seconds."""

    def __init__(
        self,
        transport: Transport,
        settings: RegistrySettings,
        docker: DockerCredentials,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._docker = docker
        self._clock = clock
        self._passes: dict[tuple[str, str], _Pass] = {}

    async def request(
        self,
        method: str,
        reference: OciReference,
        path: str,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = 4 * 1024 * 1024,
    ) -> Reply:
        """`path`: below the repository. Any status is returned but 401. Raises as `Transport` does."""
        url = self._url(reference, path)
        for is_last in (False, True):
            asked = {**(headers or {}), **self._authorization(reference)}
            reply = await self._transport.request(
                method, url, headers=asked, max_bytes=max_bytes, with_credentials=False
            )
            if reply.status != 401:
                if self._pass(reference) is None:
                    self._keep(reference, _Pass("", self._clock() + _NO_PASS_NEEDED_S))
                return reply
            self._passes.pop(_key(reference), None)
            if not is_last:
                await self._sign_in(reference, reply.headers.get("www-authenticate", ""))
        raise _denied(reference, 401, "")

    @asynccontextmanager
    async def stream(self, reference: OciReference, digest: str, offset: int) -> AsyncIterator[Download]:
        """A blob's bytes. Raises as `Transport.stream` does."""
        path = f"blobs/sha256:{digest}"
        if self._pass(reference) is None:
            await self._knock(reference, path)
        async with AsyncExitStack() as stack:
            try:
                download = await stack.enter_async_context(self._opened(reference, path, offset))
            except AccessDenied:  # a token may have ended before its time
                self._passes.pop(_key(reference), None)
                await self._knock(reference, path)
                download = await stack.enter_async_context(self._opened(reference, path, offset))
            yield download

    def _opened(self, reference: OciReference, path: str, offset: int) -> AbstractAsyncContextManager[Download]:
        return self._transport.stream(self._url(reference, path), offset=offset, headers=self._authorization(reference))

    async def _knock(self, reference: OciReference, path: str) -> None:
        """Ask for nothing, to learn what the registry wants to see, and get it."""
        check(await self.request("HEAD", reference, path), reference)

    async def _sign_in(self, reference: OciReference, challenge: str) -> None:
        wanted = _challenges(challenge)
        given = await self._given(reference)
        if "bearer" in wanted and given.token:
            made = _Pass(f"Bearer {given.token}", math.inf)
        elif "bearer" in wanted:
            made = await self._token(reference, wanted["bearer"], given)
        elif "basic" in wanted and given.username:
            made = _Pass(_basic(given), math.inf)
        else:
            raise _denied(reference, 401, f"it asks for {', '.join(wanted) or 'something unknown'}")
        self._keep(reference, made)

    async def _given(self, reference: OciReference) -> Credentials:
        """The operator's settings first, then what `docker login` left."""
        given = await self._transport.credentials(_authority(reference))
        return given if given != Credentials() else await self._docker.credentials(reference.host)

    async def _token(self, reference: OciReference, wanted: Mapping[str, str], given: Credentials) -> _Pass:
        """Asks for reading this one repository, whatever else the registry would like to have asked for."""
        realm = urlsplit(wanted.get("realm", ""))
        if realm.scheme != "https" and not (realm.scheme == "http" and self._is_plain(reference)):
            raise AccessDenied(
                f"{reference.host}: sends us to {realm.geturl()[:100]!r} for a token, which is not https"
            )
        query = [*parse_qsl(realm.query), ("scope", f"repository:{reference.repository}:pull")]
        if service := wanted.get("service"):
            query.append(("service", service))
        url = urlunsplit((realm.scheme, realm.netloc, realm.path, urlencode(query), ""))
        headers = {"authorization": _basic(given)} if given.username else {}
        asked_at_s = self._clock()
        reply = await self._transport.request(
            "GET", url, headers=headers, max_bytes=_MAX_TOKEN_BYTES, with_credentials=False
        )
        check(reply, reference)
        said = reply.json()
        token = (said.get("token") or said.get("access_token")) if isinstance(said, dict) else None
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise ModelUnavailable(f"{realm.netloc}: answered without a token for {reference.host}")
        lasts_s = said.get("expires_in")
        is_said = isinstance(lasts_s, int | float) and lasts_s > 0
        lasts_s = float(lasts_s) if is_said else _TOKEN_LASTS_S
        return _Pass(f"Bearer {token}", asked_at_s + max(lasts_s - _TOKEN_RESERVE_S, lasts_s / 2))

    def _pass(self, reference: OciReference) -> _Pass | None:
        held = self._passes.get(_key(reference))
        return held if held is not None and held.until_s > self._clock() else None

    def _keep(self, reference: OciReference, made: _Pass) -> None:
        if len(self._passes) >= _MAX_PASSES:
            self._passes.clear()
        self._passes[_key(reference)] = made

    def _authorization(self, reference: OciReference) -> dict[str, str]:
        held = self._pass(reference)
        return {"authorization": held.authorization} if held is not None and held.authorization else {}

    def _url(self, reference: OciReference, path: str) -> str:
        scheme = "http" if self._is_plain(reference) else "https"
        return f"{scheme}://{reference.api_host}/v2/{reference.repository}/{path}"

    def _is_plain(self, reference: OciReference) -> bool:
        return self._settings.host(_authority(reference)).is_plain_http


def check(reply: Reply, reference: OciReference) -> None:
    """Raise for a status that brings nothing, with what the registry says about it."""
    words = _words(reply.body)
    match reply.status:
        case 200 | 304:
            return
        case 401 | 403:
            raise _denied(reference, reply.status, words)
        case 404:
            place = f"{reference.host}/{reference.repository}"
            raise ModelUnavailable(f"{place}: has no {reference.target[:80]!r}{words and f' ({words})'}")
        case 429 | 500 | 502 | 503 | 504:
            pause = reply.headers.get("retry-after", "")
            pause_s = float(pause) if pause.isdecimal() and len(pause) < 6 else 0.0
            trouble = "gets too many requests" if reply.status == 429 else "has trouble"
            reason = f"{reply.status}, {words}" if words else str(reply.status)
            when = f"in {pause_s:g} s" if pause_s else "later"
            raise SourceUnavailable(f"{reference.host}: {trouble} ({reason}): try again {when}", pause_s)
    raise ModelUnavailable(f"{reference.host}: answers with {reply.status} {words}: is it a registry?")


def _denied(reference: OciReference, status: int, words: str) -> AccessDenied:
    reason = f"{status}, {words}" if words else str(status)
    return AccessDenied(
        f"{reference.host}: does not let us read {reference.repository} ({reason}): give username and password under "
        f"hosts.{_authority(reference)} in registries.yaml, or use `docker login {reference.host}`"
    )


def _words(body: bytes) -> str:
    """https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes"""
    try:
        error = json.loads(body[:_MAX_ERROR_BYTES])["errors"][0]
        words = f"{error['code']}: {error.get('message', '')}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    return words[:200] if words.isprintable() else ""


def _challenges(header: str) -> dict[str, dict[str, str]]:
    """`WWW-Authenticate` → scheme in lower case → its parameters."""
    header = header[:_MAX_CHALLENGE]
    found = list(_SCHEME.finditer(header))
    borders = [*(match.start() for match in found), len(header)]
    return {
        match["scheme"].lower(): {
            parameter["key"].lower(): parameter["value"] for parameter in _PARAMETER.finditer(header[match.end() : end])
        }
        for match, (_, end) in zip(found, pairwise(borders), strict=True)
    }


def _key(reference: OciReference) -> tuple[str, str]:
    return reference.api_host, reference.repository


def _authority(reference: OciReference) -> str:
    try:
        return checked_authority("host", reference.api_host)
    except Invalid as error:
        raise ModelUnavailable(f"{reference.host}: {error}") from None


def _basic(given: Credentials) -> str:
    return f"Basic {base64.b64encode(f'{given.username}:{given.password}'.encode()).decode()}"
