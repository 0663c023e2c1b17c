"""Endpoints for clients with certificates, in a real Envoy."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.callers import CertificateHolders
from router.domain.tls import CertificateFiles
from router.ports import Acknowledged
from router.xds.gateway import PEER_HEADER
from router.xds.names import GATEWAY_GROUP
from tests.certificates import TestCa
from tests.envoy.data_plane import DataPlane, data_plane, upstream
from tests.envoy.replica import Replica
from tests.envoy.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

APP, URI = "app.example", "spiffe://bank/batch"
INFER = "/v2/models/locked/infer"
LISTS = 25
FORGED: list[dict[str, str]] = [{}, {PEER_HEADER: "01"}]


@pytest.fixture(scope="module")
def plane(plane_for_certificates: DataPlane) -> DataPlane:
    return plane_for_certificates


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(plane: DataPlane) -> Replica:
    blue = await plane.replica("blue")
    await plane.endpoint("locked", upstream("blue", blue), access=CertificateHolders((APP, URI)))
    return blue


async def status(plane: DataPlane, ca: TestCa, client: CertificateFiles | None, path: str = INFER) -> int:
    """0: the connection was refused."""
    async with httpx.AsyncClient(base_url=plane.url, verify=ca.trusting(client), timeout=DEADLINE_S) as http:
        try:
            return (await http.post(path, content=b"{}")).status_code
        except (httpx.TransportError, ssl.SSLError):  # the alert is seen while one writes, or reads
            return 0


@pytest.mark.parametrize("names", [[APP], [URI], ["other.example", APP]])
async def test_a_certificate_with_an_allowed_name_is_let_in(
    plane: DataPlane, replica: Replica, ca: TestCa, names: list[str]
) -> None:
    replica.requests.clear()
    assert await status(plane, ca, ca.client("good", names)) == 200
    assert b"x-forwarded-client-cert" not in replica.requests[0].headers


@pytest.mark.parametrize("path", [INFER, "/endpoints/locked/score", "/v2/models/locked", "/v2/models/locked/ready?x"])
async def test_no_certificate_and_another_name_get_nowhere(
    plane: DataPlane, replica: Replica, ca: TestCa, path: str
) -> None:
    replica.requests.clear()
    for names in ([f"x{APP}"], [f"{APP}.evil"], ["spiffe://bank/batch/x"], ["*.example"], [f"CN={APP}"]):
        assert await status(plane, ca, ca.client("other", names), path) == 403
    assert await status(plane, ca, None, path) == 403
    assert not replica.requests


async def test_a_certificate_of_another_ca_or_a_servers_is_turned_away(
    plane: DataPlane, replica: Replica, ca: TestCa, tmp_path: Path
) -> None:
    replica.requests.clear()
    assert await status(plane, ca, TestCa.in_folder(tmp_path, "another CA").client("app", [APP])) == 0
    assert await status(plane, ca, ca.server("posing", [APP])) == 0
    assert not replica.requests


async def test_grpc_calls_are_judged_alike(plane: DataPlane, replica: Replica, ca: TestCa) -> None:
    def channel(client: CertificateFiles | None) -> grpc.aio.Channel:
        shown = [ca.key(client), ca.chain(client)] if client else [None, None]
        credentials = grpc.ssl_channel_credentials(ca.file.read_bytes(), *shown)
        return grpc.aio.secure_channel(f"localhost:{plane.gateway.grpc_port}", credentials)

    message = service_pb2.ModelInferRequest(model_name="locked")
    for client in (None, ca.client("other", ["other.example"])):
        async with channel(client) as refused:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await service_pb2_grpc.GRPCInferenceServiceStub(refused).ModelInfer(message, timeout=DEADLINE_S)
            assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "client's certificate" in (refusal.value.details() or "")
    async with channel(ca.client("good", [URI])) as good:
        reply = await service_pb2_grpc.GRPCInferenceServiceStub(good).ModelInfer(message, timeout=DEADLINE_S)
        assert reply.model_name == "blue"


async def test_a_revoked_certificate_opens_no_connection_any_more(
    plane: DataPlane, replica: Replica, ca: TestCa
) -> None:
    app = ca.client("leaver", [APP])
    assert await status(plane, ca, app) == 200
    ca.revoke("leaver")
    assert plane.certificates is not None
    plane.certificates.look()
    assert await plane.xds.applied(GATEWAY_GROUP, DEADLINE_S) == Acknowledged()

    assert await status(plane, ca, app) == 0
    assert await status(plane, ca, ca.client("stayer", [APP])) == 200


async def test_a_revoked_certificate_stops_on_connections_that_are_open_and_others_keep_theirs(
    plane: DataPlane, replica: Replica, ca: TestCa
) -> None:
    leaver, stayer = ca.client("goer", [APP]), ca.client("keeper", [APP])
    message = service_pb2.ModelInferRequest(model_name="locked")
    credentials = grpc.ssl_channel_credentials(ca.file.read_bytes(), ca.key(leaver), ca.chain(leaver))
    ways = [(path, headers) for path in (INFER, "/v2/health/live", "/endpoints/locked/score") for headers in FORGED]
    async with AsyncExitStack() as stack:

        async def connected(client: CertificateFiles) -> httpx.AsyncClient:
            """With one connection, over which a request was answered."""
            http = httpx.AsyncClient(base_url=plane.url, verify=ca.trusting(client), timeout=DEADLINE_S)
            await stack.enter_async_context(http)
            assert (await http.post(INFER, content=b"{}")).status_code == 200
            return http

        gone, kept = [await connected(leaver) for _ in ways], await connected(stayer)
        channel = grpc.aio.secure_channel(f"localhost:{plane.gateway.grpc_port}", credentials)
        infer = service_pb2_grpc.GRPCInferenceServiceStub(await stack.enter_async_context(channel)).ModelInfer
        assert (await infer(message, timeout=DEADLINE_S)).model_name == "blue"
        before = _own_port(await kept.post(INFER, content=b"{}"))
        replica.requests.clear()

        ca.revoke("goer")
        await take_over(plane)

        for http, (path, headers) in zip(gone, ways, strict=True):
            assert (await http.post(path, content=b"{}", headers=headers)).status_code == 403
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await infer(message, timeout=DEADLINE_S)
        assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert not replica.requests
        reply = await kept.post(INFER, content=b"{}")
        assert (reply.status_code, _own_port(reply)) == (200, before)
        assert PEER_HEADER.encode() not in replica.requests[0].headers


@pytest.mark.parametrize("serial", [1, 0x80, 0xABC, 2**64 + 1, 2**158 + 17])
async def test_numbers_are_compared_as_envoy_spells_them(
    plane: DataPlane, replica: Replica, ca: TestCa, serial: int
) -> None:
    client = ca.client("numbered", [APP], serial=serial)
    async with httpx.AsyncClient(base_url=plane.url, verify=ca.trusting(client), timeout=DEADLINE_S) as http:
        assert (await http.post(INFER, content=b"{}")).status_code == 200
        ca.revoke("numbered")
        await take_over(plane)
        assert (await http.post(INFER, content=b"{}")).status_code == 403
    ca.revoke()
    await take_over(plane)
    assert await status(plane, ca, client) == 200


async def test_new_revocation_lists_under_load_refuse_nobody_else_and_keep_connections(
    plane: DataPlane, replica: Replica, ca: TestCa
) -> None:
    failures, answered, is_over = list[str](), [0], asyncio.Event()
    ports: set[int] = set()

    async def score(client: httpx.AsyncClient) -> None:
        while not is_over.is_set():
            reply = await client.post(INFER, content=b"{}")
            answered[0] += 1
            ports.add(_own_port(reply))
            if reply.status_code != 200:
                failures.append(f"HTTP {reply.status_code}")

    trust = ca.trusting(ca.client("worker", [APP]))
    async with (
        httpx.AsyncClient(base_url=plane.url, verify=trust, timeout=DEADLINE_S) as client,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(score(client))
        try:
            for turn in range(LISTS):
                enough = answered[0] + 2
                ca.client(f"leaver-{turn % 3}", [APP])
                ca.revoke(f"leaver-{turn % 3}")
                await take_over(plane)
                await eventually(lambda enough=enough: failures or answered[0] >= enough)
        finally:
            is_over.set()
    assert (failures, len(ports)) == ([], 1)


async def test_over_plain_text_nobody_has_a_certificate() -> None:
    async with data_plane() as plain:
        blue = await plain.replica("blue")
        await plain.endpoint("locked", upstream("blue", blue), access=CertificateHolders((APP,)))
        reply = await plain.infer("locked", {"x-forwarded-client-cert": f"DNS={APP}"})
        assert reply.status_code == 403
        assert reply.json() == {
            "error": "access denied: this needs a client's certificate with a name that is allowed here"
        }
        assert not blue.requests


async def take_over(plane: DataPlane) -> None:
    """Look at the files until what is in them is taken or refused, and wait until Envoy has it."""
    assert plane.certificates is not None
    for _ in range(3):
        plane.certificates.look()
    assert await plane.xds.applied(GATEWAY_GROUP, DEADLINE_S) == Acknowledged()


def _own_port(reply: httpx.Response) -> int:
    """Which connection it came by."""
    port: int = reply.extensions["network_stream"].get_extra_info("client_addr")[1]
    return port
