"""Who gets into a replica that listens beyond its host. Sockets and TLS are real."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
import pytest_asyncio

from adapters.certificate_authority import new_authority
from adapters.tls_client import LiveClientContext
from router.domain.routing import TcpAddress
from router.domain.tls import CertificatePair
from router.replica_client import ReplicaClient
from serving.exchange import Cancel, HttpRequest, HttpResponse, Reply
from serving.listener import Listener
from tests.internal_ca import BLUE, certified, client_of, context_of, internal_ca, now, renew, stolen

TOKEN = "the-token"
BLUE_ELSEWHERE = replace(BLUE, ip="127.0.0.2")
WAIT_S = 30.0


class Guarded:
    """A listener as a replica opens it, and what reached it."""

    def __init__(self) -> None:
        self.authority = new_authority("an internal CA", now())
        self.ca = internal_ca(authority=self.authority)
        self.keys = certified(self.ca)
        self.requests: list[HttpRequest] = []
        self.listener = Listener(self._handle, TOKEN.encode(), max_body_bytes=1024)
        self.address = TcpAddress("127.0.0.1", 0)

    async def open(self) -> None:
        self.address = TcpAddress("127.0.0.1", await self.listener.open_tcp("127.0.0.1", tls=self.keys.context))

    def _handle(self, request: HttpRequest, reply: Reply) -> Cancel | None:
        self.requests.append(request)
        reply(HttpResponse(200, [], [b"{}"]))
        return None

    async def asked_with(self, context: ssl.SSLContext) -> int:
        async with ReplicaClient(TOKEN, context).at(self.address, WAIT_S) as client:
            return (await client.get("/")).status_code


@pytest_asyncio.fixture
async def guarded() -> AsyncIterator[Guarded]:
    replica = Guarded()
    await replica.open()
    yield replica
    await replica.listener.close(grace_s=0)


async def test_the_gateway_gets_in_and_its_token_is_asked_for_as_well(guarded: Guarded) -> None:
    assert await guarded.asked_with(context_of(guarded.ca)) == 200
    async with client_of(guarded.ca, "another").at(guarded.address, WAIT_S) as client:
        assert (await client.get("/")).status_code == 403


def another_gateways(guarded: Guarded) -> CertificatePair:
    return internal_ca().for_envoy(now())


def an_old_one(guarded: Guarded) -> CertificatePair:
    return guarded.ca.for_envoy(now() - timedelta(hours=25))


def another_replicas(guarded: Guarded) -> CertificatePair:
    return stolen(guarded.authority, BLUE)


@pytest.mark.parametrize("shown", [another_gateways, an_old_one, another_replicas])
async def test_others_are_turned_away_whatever_token_they_have(guarded: Guarded, shown: object) -> None:
    assert callable(shown)
    with pytest.raises(httpx.TransportError):
        await guarded.asked_with(context_of(guarded.ca, shown(guarded)))
    assert guarded.requests == []


async def test_whoever_shows_no_certificate_is_turned_away(guarded: Guarded) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=guarded.ca.trust.authorities.decode())
    with pytest.raises(httpx.TransportError):
        await guarded.asked_with(context)
    assert guarded.requests == []


async def gone(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_plain_text_gets_no_answer(guarded: Guarded) -> None:
    reader, writer = await asyncio.open_connection(guarded.address.ip, guarded.address.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nx-crossfade-gateway: the-token\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), WAIT_S)
    assert b"HTTP" not in answer
    assert guarded.requests == []
    await gone(writer)


async def test_the_gateway_asks_nobody_else_than_who_is_certified_for_the_address(guarded: Guarded) -> None:
    strange = internal_ca()
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        await guarded.asked_with(context_of(strange))
    renew(guarded.ca, guarded.keys, BLUE_ELSEWHERE)
    with pytest.raises(httpx.ConnectError, match="IP address mismatch"):
        await guarded.asked_with(context_of(guarded.ca))


async def test_a_gateway_without_other_hosts_trusts_nobody(guarded: Guarded) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        await guarded.asked_with(LiveClientContext().context)


async def test_a_new_certificate_is_for_new_connections_and_open_ones_go_on(guarded: Guarded) -> None:
    async def serial() -> str:
        _, writer = await asyncio.open_connection(guarded.address.ip, guarded.address.port, ssl=context_of(guarded.ca))
        found = str(writer.get_extra_info("peercert")["serialNumber"])
        await gone(writer)
        return found

    async with client_of(guarded.ca, TOKEN).at(guarded.address, WAIT_S) as client:
        assert (await client.get("/")).status_code == 200
        before = await serial()
        renew(guarded.ca, guarded.keys, BLUE)
        assert await serial() != before
        assert (await client.get("/")).status_code == 200
