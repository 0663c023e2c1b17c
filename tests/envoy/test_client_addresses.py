"""Whose requests are taken, by their address, and who is believed about it."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.listening import DEFAULT, Clients, Offer
from tests.envoy.data_plane import DataPlane, free_ports, upstream
from tests.envoy.replica import Replica
from tests.envoy.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE, OTHER, PROXY = "127.0.0.1", "127.0.0.2", "127.0.0.9"
CLIENT, STRANGER = "203.0.113.7", "198.51.100.9"
INFER = "/v2/models/guarded/infer"
REFUSED = "access denied: requests from this address are not taken here"
EVERYBODY = Clients()
TESTERS = Clients(allow=("203.0.113.0/24",))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def blue(plane: DataPlane) -> Replica:
    replica = await plane.replica("blue")
    await plane.endpoint("guarded", upstream("blue", replica))
    return replica


@pytest_asyncio.fixture(loop_scope="module")
async def guarded(plane: DataPlane, blue: Replica) -> AsyncIterator[Replica]:
    """Every test begins with the default listener, and an endpoint for everybody."""
    await plane.endpoint("guarded", upstream("blue", blue))
    blue.requests.clear()
    yield blue
    await plane.offered(default(plane))


def default(plane: DataPlane) -> Offer:
    return Offer(DEFAULT, "127.0.0.1", (plane.gateway.http_port, plane.gateway.grpc_port), False)


async def offered(
    plane: DataPlane, clients: Clients = EVERYBODY, proxies: tuple[str, ...] = (), *, is_proxied: bool = False
) -> int:
    """The port of a new listener."""
    port = free_ports(1)[0]
    new = Offer("new", "127.0.0.1", (port,), False, clients=clients, trusted_proxies=proxies, is_proxied=is_proxied)
    await plane.offered(default(plane), new)
    return port


async def asked(port: int, address: str, path: str = INFER, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and error of a request from this address of this machine."""
    transport = httpx.AsyncHTTPTransport(local_address=address)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as http:
        reply = await http.post(path, headers=headers, content=b"{}")
        return reply.status_code, reply.json().get("error", "")


async def grpc_error(port: int) -> tuple[grpc.StatusCode, str]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
            service_pb2.ModelInferRequest(model_name="guarded")
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        return error.value.code(), error.value.details()


@pytest.mark.parametrize("clients", [Clients(allow=("127.0.0.2/32",)), Clients(deny=("127.0.0.0/31",))])
async def test_an_endpoint_takes_requests_from_its_clients_alone(
    plane: DataPlane, guarded: Replica, clients: Clients
) -> None:
    await plane.endpoint("guarded", upstream("blue", guarded), clients=clients)
    port = plane.gateway.http_port
    assert await asked(port, OTHER) == (200, "")
    guarded.requests.clear()
    for path in (
        INFER,
        "/v2/models/guarded",
        f"{INFER}?x",
        "/endpoints/guarded/score",
        "/v2/models/guarded/versions/1",
    ):
        assert await asked(port, HERE, path) == (403, REFUSED)
    assert await asked(port, HERE, headers={"x-forwarded-for": OTHER}) == (403, REFUSED)
    assert await grpc_error(port) == (grpc.StatusCode.PERMISSION_DENIED, REFUSED)
    assert not guarded.requests


async def test_who_is_denied_is_denied_also_when_allowed(plane: DataPlane, guarded: Replica) -> None:
    clients = Clients(allow=("127.0.0.0/8",), deny=("127.0.0.2/32",))
    await plane.endpoint("guarded", upstream("blue", guarded), clients=clients)
    assert (await asked(plane.gateway.http_port, HERE))[0] == 200
    assert (await asked(plane.gateway.http_port, OTHER))[0] == 403


async def test_at_a_listener_strangers_learn_the_same_of_every_path(plane: DataPlane, guarded: Replica) -> None:
    port = await offered(plane, Clients(allow=("127.0.0.2/32",)))
    assert await asked(port, OTHER) == (200, "")
    for path in (INFER, "/v2/models/nobody/infer", "/v2/health/ready", "/v2/repository/index", "/", "/x?y"):
        assert await asked(port, HERE, path) == (403, REFUSED)
    assert await grpc_error(port) == (grpc.StatusCode.PERMISSION_DENIED, REFUSED)
    assert await asked(plane.gateway.http_port, HERE) == (200, "")


async def test_a_trusted_proxy_says_who_asks_and_nobody_else_can(plane: DataPlane, guarded: Replica) -> None:
    port = await offered(plane, TESTERS, (f"{PROXY}/32", "10.0.0.0/8"))
    for address, forwarded, status in (
        (PROXY, CLIENT, 200),
        (PROXY, f"{STRANGER}, {CLIENT}", 200),  # what the client claimed, then what the proxy saw
        (PROXY, f"{STRANGER}, {CLIENT}, 10.1.2.3", 200),  # over a second proxy that is trusted
        (PROXY, f"{CLIENT}, {STRANGER}", 403),
        (PROXY, f"{CLIENT}, nonsense", 403),
        (PROXY, "", 403),
        (HERE, CLIENT, 403),
        (OTHER, f"{CLIENT}, {PROXY}", 403),
    ):
        headers = {"x-forwarded-for": forwarded} if forwarded else {}
        assert (await asked(port, address, headers=headers))[0] == status, (address, forwarded)


@pytest.mark.parametrize(("deny", "allow"), [("198.51.100.0/24", ()), ("192.0.2.0/24", ("203.0.113.0/24",))])
async def test_an_address_of_ipv4_is_the_same_when_a_proxy_writes_it_as_one_of_ipv6(
    plane: DataPlane, guarded: Replica, deny: str, allow: tuple[str, ...]
) -> None:
    port = await offered(plane, Clients(allow, (deny,)), (f"{PROXY}/32", "10.0.0.0/8"))
    for forwarded, status in (
        (f"::ffff:{CLIENT}", 200),
        (f"::ffff:{STRANGER}", 403),
        (f"{CLIENT}, ::ffff:{STRANGER}", 403),
        (f"{STRANGER}, {CLIENT}, ::ffff:10.1.2.3", 200),
    ):
        assert (await asked(port, PROXY, headers={"x-forwarded-for": forwarded}))[0] == status, forwarded
    proxied = await offered(plane, Clients(allow, (deny,)), (f"{PROXY}/32",), is_proxied=True)
    assert await spoken(proxied, PROXY, version_1(f"::ffff:{CLIENT}")) == b"HTTP/1.1 200 OK"
    assert await spoken(proxied, PROXY, version_1(f"::ffff:{STRANGER}")) == b"HTTP/1.1 403 Forbidden"


async def test_the_access_log_shows_the_client_and_who_was_connected(plane: DataPlane, guarded: Replica) -> None:
    port = await offered(plane, proxies=(f"{PROXY}/32",))
    await asked(port, PROXY, headers={"x-forwarded-for": CLIENT, "user-agent": "by-proxy"})
    await asked(port, HERE, headers={"x-forwarded-for": CLIENT, "user-agent": "spoofing"})

    def seen() -> list[tuple[object, object, object]]:
        lines = [line for line in plane.access_log() if line["user_agent"] in ("by-proxy", "spoofing")]
        return [(str(it["client"]).split(":")[0], str(it["peer"]).split(":")[0], it["listener"]) for it in lines]

    await eventually(seen, [(CLIENT, PROXY, "new"), (HERE, HERE, "new")])


@pytest.mark.parametrize("proxies", [(), (f"{PROXY}/32",)])
async def test_envoys_own_headers_are_taken_from_nobody(
    plane: DataPlane, guarded: Replica, proxies: tuple[str, ...]
) -> None:
    port = await offered(plane, proxies=proxies)
    spoofed = {
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-expected-rq-timeout-ms": "1",
        "x-envoy-retry-on": "5xx",
        "x-envoy-decorator-operation": "x",
        "x-envoy-original-path": "/x",
        "x-envoy-internal": "true",
        "x-envoy-downstream-service-cluster": "x",
    }
    for address in (HERE, PROXY):
        assert (await asked(port, address, headers={**spoofed, "x-forwarded-for": "10.0.0.1"}))[0] == 200
        headers = guarded.requests[-1].headers
        assert headers[b"x-envoy-expected-rq-timeout-ms"] == b"5000"
        left = {name for name in headers if name.startswith(b"x-envoy-")}
        assert left <= {b"x-envoy-expected-rq-timeout-ms", b"x-envoy-external-address"}


async def spoken(port: int, address: str, preamble: bytes) -> bytes:
    """The status line that a client gets which begins its connection with `preamble`; empty when it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    try:
        body = b"POST /v2/models/guarded/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
        writer.write(preamble + body)
        async with asyncio.timeout(DEADLINE_S):
            return (await reader.readline()).strip()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def version_1(address: str) -> bytes:
    family, here = ("TCP6", "::1") if ":" in address else ("TCP4", "127.0.0.1")
    return f"PROXY {family} {address} {here} 40000 80\r\n".encode()


def version_2(address: str) -> bytes:
    """https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt, section 2.2."""
    packed = ipaddress.ip_address(address).packed + ipaddress.ip_address("127.0.0.1").packed
    return b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", 12) + packed + struct.pack(">HH", 40000, 80)


@pytest.mark.parametrize("preamble", [version_1, version_2])
async def test_the_proxy_protocol_says_who_is_connected(plane: DataPlane, guarded: Replica, preamble: object) -> None:
    assert callable(preamble)
    port = await offered(plane, TESTERS, (f"{PROXY}/32",), is_proxied=True)
    assert await spoken(port, PROXY, preamble(CLIENT)) == b"HTTP/1.1 200 OK"
    assert await spoken(port, PROXY, preamble(STRANGER)) == b"HTTP/1.1 403 Forbidden"
    assert await spoken(port, HERE, preamble(CLIENT)) == b""  # who is no proxy cannot claim to be anybody
    assert await spoken(port, PROXY, b"") == b""
    await eventually(lambda: any(str(line["client"]).startswith(CLIENT) for line in plane.access_log()))
