"""TLS from Envoy and from the control plane to a real Triton that wants a certificate of theirs."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import grpc
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2_grpc

from adapters.certificates import PemFiles
from adapters.triton.readiness import TritonReadiness
from adapters.triton.statistics import TritonStatisticsClient
from router.domain.routing import TritonAddress
from router.domain.triton import RunningTriton, TritonServer
from router.domain.triton_tls import TritonTls
from router.events import EventLog
from router.triton_certificates import TritonCertificates
from tests.certificates import TestCa
from tests.envoy.data_plane import DataPlane, free_ports
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.triton.asking import answering, grpc_request, json_request, triton_upstream
from tests.triton.models import write_repository
from tests.triton.server import Triton, started_triton

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "identity_fp32"
ONE = {"INPUT0": np.array([[1.5, 2.5]], dtype=np.float32)}
NAME = "triton.example.com"


@dataclass(slots=True)
class Secured:
    """A Triton whose gRPC port speaks TLS with whom `ca` has signed, and who trusts it."""

    triton: Triton
    ca: TestCa
    other_ca: TestCa
    plane: DataPlane
    certificates: TritonCertificates
    readiness: TritonReadiness

    def tls(self, client: str = "gateway", ca: TestCa | None = None, name: str = NAME) -> TritonTls:
        files = (self.other_ca if client.startswith("stranger") else self.ca).client(client, [f"{client}.example.com"])
        return TritonTls(str((ca or self.ca).file), files.certificate, files.key, name)

    async def served(self, endpoint: str, tls: TritonTls) -> None:
        self.certificates.look([tls])
        assert self.certificates.trouble(tls) == ""
        await self.plane.endpoint(endpoint, triton_upstream("blue", self.triton, model=MODEL, tls=tls))

    async def reason(self, tls: TritonTls) -> str:
        server = TritonServer("127.0.0.1", self.triton.ports.http, self.triton.ports.grpc)
        return await self.readiness.why_not_ready(self.triton.address, RunningTriton((server,), MODEL, tls=tls))

    async def code(self, endpoint: str) -> grpc.StatusCode:
        async with grpc.aio.insecure_channel(self.plane.grpc_address) as channel:
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
                grpc_request(endpoint, ONE), timeout=DEADLINE_S
            )
            return await call.code()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secured(plane: DataPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    (folder / "other").mkdir()
    ca, other_ca = TestCa.in_folder(folder), TestCa.in_folder(folder / "other", "another CA")
    shown = ca.server("triton", [NAME, "127.0.0.1"])
    options = (
        "--grpc-use-ssl=true",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={shown.certificate}",
        f"--grpc-server-key={shown.key}",
        f"--grpc-root-cert={ca.file}",
    )
    certificates = TritonCertificates(PemFiles(), plane.xds, EventLog(lambda: datetime.now(UTC)))
    readiness = TritonReadiness()
    async with started_triton(write_repository(folder / "repository", MODEL), *options) as triton:
        yield Secured(triton, ca, other_ca, plane, certificates, readiness)
    await readiness.close()


@pytest.mark.parametrize("name", [NAME, "127.0.0.1"])
async def test_what_is_asked_over_grpc_is_answered_and_the_model_is_ready(secured: Secured, name: str) -> None:
    endpoint, tls = f"sealed-{name.replace('.', '-')}", secured.tls(name=name)
    await secured.served(endpoint, tls)

    await eventually(lambda: secured.code(endpoint), grpc.StatusCode.OK)
    assert await secured.reason(tls) == ""
    async with grpc.aio.insecure_channel(secured.plane.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        reply = await stub.ModelInfer(grpc_request(endpoint, ONE))
        call = stub.ModelStreamInfer(timeout=DEADLINE_S)
        await call.write(grpc_request(endpoint, ONE))
        streamed = (await call.read()).infer_response
        await call.done_writing()
    assert reply.raw_output_contents[0] == streamed.raw_output_contents[0] == ONE["INPUT0"].tobytes()
    assert reply.model_name == streamed.model_name == endpoint


async def test_what_it_counts_is_asked_over_tls_as_well(secured: Secured) -> None:
    client, tls = TritonStatisticsClient(), secured.tls()
    upstream = triton_upstream("blue", secured.triton, model=MODEL, tls=tls)
    await secured.served("counting", tls)
    await eventually(lambda: secured.code("counting"), grpc.StatusCode.OK)
    assert upstream.triton is not None

    answer = await client.ask(secured.triton.address, upstream.triton)
    stranger = replace(upstream.triton, tls=secured.tls("stranger"))

    assert answer is not None
    assert answer.version.startswith("2.")
    assert answer.counts.successes > 0
    assert answer.counts.infer_s > 0
    assert await client.ask(secured.triton.address, stranger) is None
    await client.close()


async def test_http_is_refused_in_words_because_tritons_own_port_has_no_tls(secured: Secured) -> None:
    await secured.served("wordy", secured.tls())
    await eventually(lambda: secured.code("wordy"), grpc.StatusCode.OK)

    for reply in (
        await secured.plane.http.post("/v2/models/wordy/infer", json=json_request(ONE)),
        await secured.plane.http.get("/v2/models/wordy/ready"),
    ):
        assert reply.status_code == 502, reply.text
        assert "answers gRPC alone" in reply.json()["error"]


async def test_a_model_that_is_not_there_is_found_out_over_tls_as_well(secured: Secured) -> None:
    tls = secured.tls()
    secured.certificates.look([tls])
    upstream = triton_upstream("blue", secured.triton, model="nobody", tls=tls)
    await secured.plane.endpoint("absent", upstream)

    assert await secured.code("absent") is grpc.StatusCode.UNAVAILABLE
    assert upstream.triton is not None
    reason = await secured.readiness.why_not_ready(secured.triton.address, upstream.triton)
    assert reason.startswith("Triton says of model 'nobody': ")


async def test_a_triton_of_another_ca_or_name_is_not_talked_to_and_it_is_said_why(secured: Secured) -> None:
    for endpoint, tls, reason in (
        ("foreign", secured.tls("gateway", ca=secured.other_ca), "its certificate is not trusted"),
        ("renamed", secured.tls(name="other.example.com"), "certificate is not valid for 'other.example.com'"),
    ):
        await secured.served(endpoint, tls)
        assert await secured.code(endpoint) is grpc.StatusCode.UNAVAILABLE
        assert reason in await secured.reason(tls)


async def test_a_certificate_that_triton_does_not_take_is_told_and_a_good_one_in_its_place_is_put_in_force(
    secured: Secured,
) -> None:
    tls = secured.tls("stranger")
    await secured.served("rotated", tls)
    assert await secured.code("rotated") is grpc.StatusCode.UNAVAILABLE
    assert "our certificate" in await secured.reason(tls)

    good = secured.ca.client("gateway", ["gateway.example.com"])
    for source, target in ((good.certificate, tls.certificate), (good.key, tls.key)):
        shutil.copyfile(source, target)

    async def code() -> grpc.StatusCode:
        secured.certificates.look([tls])
        return await secured.code("rotated")

    await eventually(code, grpc.StatusCode.OK)
    assert await secured.reason(tls) == ""


async def test_without_a_certificate_of_ours_it_says_that_triton_wants_one(secured: Secured) -> None:
    tls = TritonTls(str(secured.ca.file), server_name=NAME)
    assert "our certificate" in await secured.reason(tls)


@contextlib.asynccontextmanager
async def proxy(secured: Secured, port: int) -> AsyncIterator[None]:
    """TLS before Triton's HTTP port, as a reverse proxy has it."""
    shown = secured.ca.server("proxy", [NAME])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=secured.ca.file)
    context.load_cert_chain(shown.certificate, shown.key)
    context.verify_mode = ssl.CERT_REQUIRED

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while content := await reader.read(65536):
                writer.write(content)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", secured.triton.ports.http)
        await asyncio.gather(copy(reader, behind[1]), copy(behind[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)
    try:
        yield
    finally:
        server.close()


async def test_with_a_proxy_before_its_http_port_both_protocols_are_answered(secured: Secured) -> None:
    (port,) = free_ports(1)
    tls = replace(secured.tls(), has_http=True)
    secured.certificates.look([tls])
    upstream = triton_upstream("blue", secured.triton, model=MODEL, tls=tls)
    address = TritonAddress("127.0.0.1", port, secured.triton.ports.grpc)
    assert upstream.triton is not None
    assert "no answer" in await secured.readiness.why_not_ready(address, upstream.triton)

    async with proxy(secured, port):
        await secured.plane.endpoint("fronted", replace(upstream, addresses=(address,)))
        await answering(secured.plane, "fronted", "blue")
        await eventually(lambda: secured.code("fronted"), grpc.StatusCode.OK)
        reply = await secured.plane.http.post("/v2/models/fronted/infer", json=json_request(ONE))
        assert reply.json()["outputs"][0]["data"] == [1.5, 2.5]
        assert await secured.readiness.why_not_ready(address, upstream.triton) == ""
        secured.plane.xds.remove_endpoint("fronted")
