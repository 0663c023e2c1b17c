"""TLS on the scoring ports: what is spoken, with which certificate, and how certificates change under load."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import warnings
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.listening import DEFAULT, Clients, Offer
from router.domain.tls import ListenerTls
from router.ports import Acknowledged
from router.xds.names import GATEWAY_GROUP
from tests.certificates import TestCa
from tests.envoy.data_plane import DataPlane, data_plane, process_of, started_envoy, upstream
from tests.envoy.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROTATIONS = 100


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane(ca: TestCa) -> AsyncIterator[DataPlane]:
    tls = ListenerTls((ca.server("first"), ca.server("second", ["second.example", "*.wild.example"])), str(ca.file))
    async with data_plane(tls=tls, authority=ca.file) as running:
        await running.endpoint("scored", upstream("blue", await running.replica("blue")))
        yield running


@contextlib.asynccontextmanager
async def handshake(plane: DataPlane, context: ssl.SSLContext, name: str = "localhost") -> AsyncIterator[ssl.SSLObject]:
    _, writer = await asyncio.open_connection("127.0.0.1", plane.gateway.http_port, ssl=context, server_hostname=name)
    try:
        yield writer.get_extra_info("ssl_object")
    finally:
        writer.close()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()


def only(ca: TestCa, version: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0") -> ssl.SSLContext:
    context = ca.trusting()
    context.set_ciphers(ciphers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that they are old is the point
        context.minimum_version = version
        context.maximum_version = version
    return context


async def test_http_and_grpc_are_answered_over_tls_on_both_ports(plane: DataPlane, ca: TestCa) -> None:
    assert (await plane.infer("scored")).json()["model_name"] == "blue"
    for port in (plane.gateway.http_port, plane.gateway.grpc_port):
        async with triton_grpc.InferenceServerClient(
            f"localhost:{port}", ssl=True, root_certificates=str(ca.file)
        ) as client:
            reply = await client.infer("scored", [])
            assert reply.get_response().model_name == "blue"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_of_tls_are_refused(plane: DataPlane, ca: TestCa, version: ssl.TLSVersion) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with handshake(plane, only(ca, version)):
            pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_spoken(plane: DataPlane, ca: TestCa, version: ssl.TLSVersion) -> None:
    async with handshake(plane, only(ca, version)) as spoken:
        assert spoken.version() == version.name.replace("_", ".")


@pytest.mark.parametrize(
    "suite",
    [
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
        "ECDHE-ECDSA-AES128-CCM8",
        "AES128-GCM-SHA256",
        "AES256-SHA",
        "DHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-NULL-SHA",
        "AECDH-AES128-SHA",
    ],
)
async def test_suites_without_forward_secrecy_or_authenticated_encryption_are_refused(
    plane: DataPlane, ca: TestCa, suite: str
) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with handshake(plane, only(ca, ssl.TLSVersion.TLSv1_2, f"{suite}:@SECLEVEL=0")):
            pass


@pytest.mark.parametrize(
    "suite", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"]
)
async def test_modern_suites_are_accepted(plane: DataPlane, ca: TestCa, suite: str) -> None:
    async with handshake(plane, only(ca, ssl.TLSVersion.TLSv1_2, suite)) as spoken:
        assert spoken.cipher()[0] == suite


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), (["spdy/3"], None), ([], None)]
)
async def test_http_2_is_agreed_on_by_alpn(
    plane: DataPlane, ca: TestCa, offered: list[str], chosen: str | None
) -> None:
    context = ca.trusting()
    if offered:
        context.set_alpn_protocols(offered)
    async with handshake(plane, context) as spoken:
        assert spoken.selected_alpn_protocol() == chosen


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("localhost", ("localhost",)),
        ("second.example", ("second.example", "*.wild.example")),
        ("a.wild.example", ("second.example", "*.wild.example")),
        ("unknown.example", ("localhost",)),
    ],
)
async def test_clients_get_the_certificate_for_the_name_that_they_ask_for(
    plane: DataPlane, ca: TestCa, asked: str, names: tuple[str, ...]
) -> None:
    context = ca.trusting()
    context.check_hostname = False
    async with handshake(plane, context, asked) as spoken:
        certificate = spoken.getpeercert()
        assert certificate is not None
        assert tuple(value for kind, value in certificate["subjectAltName"] if kind == "DNS") == names


async def test_plain_text_gets_no_answer_on_the_tls_port(plane: DataPlane) -> None:
    async with httpx.AsyncClient() as plain:
        with pytest.raises(httpx.TransportError):
            await plain.get(f"http://127.0.0.1:{plane.gateway.http_port}/v2")


async def test_the_redirecting_port_sends_clients_to_tls_and_scores_nothing(plane: DataPlane) -> None:
    async with httpx.AsyncClient() as plain:
        url = f"http://127.0.0.1:{plane.gateway.redirect_port}/v2/models/scored/infer"
        reply = await plain.post(f"{url}?a=b", content=b"{}")

    assert reply.status_code == 308
    assert reply.headers["location"] == f"{plane.url}/v2/models/scored/infer?a=b"
    assert reply.content == b""


async def test_the_redirecting_port_takes_no_more_clients_than_where_it_leads(plane: DataPlane) -> None:
    gateway = plane.gateway
    usual = Offer(DEFAULT, gateway.bind, (gateway.http_port, gateway.grpc_port), is_tls=True)
    url = f"http://127.0.0.1:{gateway.redirect_port}/v2"

    async def status() -> int:
        async with httpx.AsyncClient() as plain:  # on a connection of its own: those that are open may go on for one
            return (await plain.get(url)).status_code

    try:
        await plane.offered(replace(usual, clients=Clients(deny=("127.0.0.0/8",))))
        await eventually(status, 403)
    finally:
        await plane.offered(usual)
    await eventually(status, 308)


async def test_a_clients_certificate_of_another_ca_is_turned_away(plane: DataPlane, ca: TestCa, tmp_path: Path) -> None:
    stranger = TestCa.in_folder(tmp_path, "another CA").client("app", ["app.example"])
    async with httpx.AsyncClient(verify=ca.trusting(stranger)) as client:
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await client.get(f"{plane.url}/v2")
    async with httpx.AsyncClient(verify=ca.trusting(ca.client("app", ["app.example"]))) as client:
        assert (await client.get(f"{plane.url}/v2")).status_code == 200


async def test_a_hundred_new_certificates_under_load_fail_no_request(plane: DataPlane, ca: TestCa) -> None:
    """Clients that keep their connections, over HTTP and gRPC, and clients that make a new one for every request."""
    answered = {"kept": 0, "new": 0, "grpc": 0}
    failures: list[str] = []
    is_over = asyncio.Event()

    async def count(kind: str, send) -> None:  # type: ignore[no-untyped-def]
        while not is_over.is_set():
            try:
                await send()
            except (httpx.HTTPError, grpc.aio.AioRpcError, AssertionError) as error:
                failures.append(f"{kind}: {error!r}")
            else:
                answered[kind] += 1

    async def over_http(client: httpx.AsyncClient, **headers: str) -> None:
        reply = await client.post(f"{plane.url}/v2/models/scored/infer", content=b"{}", headers=headers)
        assert reply.status_code == 200

    credentials = grpc.ssl_channel_credentials(ca.file.read_bytes())
    async with (
        httpx.AsyncClient(verify=ca.trusting(), timeout=DEADLINE_S) as client,
        grpc.aio.secure_channel(f"localhost:{plane.gateway.grpc_port}", credentials) as channel,
        asyncio.TaskGroup() as group,
    ):
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        message = service_pb2.ModelInferRequest(model_name="scored")
        group.create_task(count("kept", lambda: over_http(plane.http)))
        group.create_task(count("new", lambda: over_http(client, connection="close")))
        group.create_task(count("grpc", lambda: infer(message, timeout=DEADLINE_S)))
        try:
            for _ in range(ROTATIONS):
                ca.server("first")
                await take_over(plane)
                assert await shown(plane, ca) == ca.certificate("first")
                enough = {kind: count + 1 for kind, count in answered.items()}
                await eventually(
                    lambda enough=enough: failures or all(answered[kind] >= enough[kind] for kind in enough)
                )
        finally:
            is_over.set()

    assert failures == []


async def test_a_pair_that_does_not_match_leaves_the_old_one_in_force(plane: DataPlane, ca: TestCa) -> None:
    good = ca.certificate("first")
    ca.server("other")
    ca.copy("other", "first")
    await take_over(plane)
    try:
        assert plane.certificates is not None
        assert "do not belong together" in plane.certificates.status()[0].refused
        assert await shown(plane, ca) == good
    finally:
        ca.server("first")
        await take_over(plane)
    assert await shown(plane, ca) == ca.certificate("first")


async def test_no_private_key_is_in_envoys_configuration_dump(plane: DataPlane, ca: TestCa) -> None:
    dump = await plane.admin("/config_dump")
    assert "certificate/0" in dump
    assert "PRIVATE KEY" not in dump
    assert not [line for line in ca.key_lines("second") if line in dump]


async def test_an_envoy_that_starts_anew_gets_its_certificates(plane: DataPlane, ca: TestCa) -> None:
    plane.envoy.kill()
    await plane.envoy.wait()
    async with started_envoy(process_of(plane.folder, "envoy-2", "admin2"), plane.folder / "envoy2.log"):

        async def answers() -> bool:
            try:
                async with handshake(plane, ca.trusting()):
                    return True
            except OSError:
                return False

        await eventually(answers)


async def take_over(plane: DataPlane) -> None:
    """Look at the files until what is in them is taken or refused, and wait until Envoy has it."""
    assert plane.certificates is not None
    for _ in range(3):
        plane.certificates.look()
    assert await plane.xds.applied(GATEWAY_GROUP, DEADLINE_S) == Acknowledged()


async def shown(plane: DataPlane, ca: TestCa) -> str:
    """The certificate that a new connection gets, as PEM."""
    async with handshake(plane, ca.trusting()) as spoken:
        certificate = spoken.getpeercert(binary_form=True)
    assert certificate is not None
    return ssl.DER_cert_to_PEM_cert(certificate)
