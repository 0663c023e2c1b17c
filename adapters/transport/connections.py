"""Connections, kept open for a while: to each host with its own certificates, over the proxy or not.

Nothing comes from the environment: no proxy, no certificates, no netrc.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from router.models.ports import Credentials, SourceUnavailable
from router.models.settings import Host, RegistrySettings, authority_of

_LIMITS = httpx.Limits(max_connections=32, max_keepalive_connections=4, keepalive_expiry=30.0)


@dataclass(frozen=True, slots=True)
class Trust:
    """Files, each with a mark that changes with its content."""

    ca_bundle: tuple[str, int]
    certificate: tuple[str, int]
    key: tuple[str, int]


@dataclass(frozen=True, slots=True)
class Route:
    """What two requests must have in common to share connections. `proxy` "": none."""

    trust: Trust
    proxy: str = ""
    proxy_trust: Trust | None = None
    proxy_credentials: Credentials = field(default_factory=Credentials)


@dataclass(slots=True)
class _Pool:
    route: Route
    transport: httpx.AsyncHTTPTransport
    users: int = 0
    is_retired: bool = False


class Connections:
    """One pool for each host. When its files or secrets have changed it is replaced, and ends with its last user.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._pools: dict[str, _Pool] = {}
        # Its DEBUG lines hold the headers of answers, such as a Location with the signature of a cloud's storage.
        logging.getLogger("httpcore").setLevel(logging.INFO)

    @asynccontextmanager
    async def lease(self, asked: str, route: Route) -> AsyncIterator[httpx.AsyncHTTPTransport]:
        """`asked`: the authority that the route leads to. Raises `SourceUnavailable` for a file that is no certificate.

        httpx's client is not used, only its transport: the client would write whole URLs into the log, keep cookies,
        and add credentials from the environment.
        """
        pool = self._pools.get(asked)
        if pool is None or pool.route != route:
            made = _Pool(route, _transport(route))
            self._pools[asked] = made
            if pool is not None:
                pool.is_retired = True
                await self._end_unused(pool)
            pool = made
        pool.users += 1
        try:
            yield pool.transport
        finally:
            pool.users -= 1
            await self._end_unused(pool)

    async def close(self) -> None:
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.transport.aclose()

    async def _end_unused(self, pool: _Pool) -> None:
        if pool.is_retired and pool.users == 0:
            await pool.transport.aclose()


def route_for(settings: RegistrySettings, asked: str, name: str, proxy_credentials: Credentials) -> Route:
    """How `asked` (an authority, `name` without its port) is reached. Raises `SourceUnavailable` for missing files."""
    trust = _trust(settings.host(asked), settings.ca_bundle)
    proxy = settings.proxy_for(name)
    if not proxy:
        return Route(trust)
    return Route(trust, proxy, _trust(settings.host(authority_of(proxy)), settings.ca_bundle), proxy_credentials)


def _trust(host: Host, ca_bundle: str) -> Trust:
    authorities = host.ca_bundle or ca_bundle
    return Trust(_marked(authorities), _marked(host.client_certificate), _marked(host.client_key))


def _marked(path: str) -> tuple[str, int]:
    try:
        return path, os.stat(path).st_mtime_ns if path else 0
    except OSError as error:
        raise SourceUnavailable(f"{path}: {error.strerror}; registries.yaml names it") from None


def _transport(route: Route) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(verify=_context(route.trust), trust_env=False, limits=_LIMITS, proxy=_proxy(route))


def _proxy(route: Route) -> httpx.Proxy | None:
    if route.proxy_trust is None:
        return None
    given = route.proxy_credentials
    auth = (given.username, given.password) if given.username else None
    is_https = route.proxy.startswith("https:")
    return httpx.Proxy(route.proxy, ssl_context=_context(route.proxy_trust) if is_https else None, auth=auth)


def _context(trust: Trust) -> ssl.SSLContext:
    authorities, certificate, key = trust.ca_bundle[0], trust.certificate[0], trust.key[0]
    if not authorities:
        context = httpx.create_ssl_context(trust_env=False)  # the public ones, as certifi has them
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _loaded(authorities, "holds no certificates (PEM)", lambda: context.load_verify_locations(authorities))
    if certificate:
        words = "is not a certificate with its key (PEM)"
        _loaded(certificate, words, lambda: context.load_cert_chain(certificate, key or None, ""))
    return context


def _loaded(path: str, words: str, load: Callable[[], object]) -> None:
    try:
        load()
    except (OSError, ValueError):  # ssl.SSLError is an OSError; ValueError: the key has a passphrase
        raise SourceUnavailable(f"{path}: {words}; registries.yaml names it") from None
