"""A real Triton that answers nobody without its token: neither scoring, nor metadata, health or statistics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from adapters.triton.readiness import TritonReadiness
from adapters.triton.statistics import TritonStatisticsClient
from adapters.triton.tokens import TokenFiles
from router.domain.routing import Shield, Upstream
from router.domain.triton_token import TritonToken
from router.events import EventLog
from router.ports import Acknowledged
from router.triton_tokens import TritonTokens
from tests.envoy.data_plane import DataPlane, data_plane, routing, upstream, xds_server
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.triton.asking import all_healthy, grpc_request, json_request, triton_upstream
from tests.triton.models import write_repository
from tests.triton.server import Triton, started_triton

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "identity_fp32"
ONE = {"INPUT0": np.array([[1.5, 2.5]], dtype=np.float32)}
HEADER, SECRET = "x-triton-token", "a-token-that-nobody-else-may-see"
APIS = "inference,metadata,health,statistics,model-config"


@dataclass(slots=True)
class Restricted:
    triton: Triton
    plane: DataPlane
    token: TritonToken
    tokens: TritonTokens
    events: EventLog

    def upstream(self, token: TritonToken | None, deployment: str = "blue") -> Upstream:
        wanted = triton_upstream(deployment, self.triton, model=MODEL)
        assert wanted.triton is not None
        return replace(wanted, triton=replace(wanted.triton, restricted=token), token=token)

    async def score(self, endpoint: str, **headers: str) -> httpx.Response:
        path = f"/v2/models/{endpoint}/infer"
        return await self.plane.http.post(path, json=json_request(ONE), headers=headers)

    def file_with(self, name: str, content: str) -> TritonToken:
        """Written, or written anew."""
        path = Path(self.token.file).with_name(name)
        path.write_text(content)
        return TritonToken(HEADER, str(path))

    def remove(self, token: TritonToken) -> None:
        Path(token.file).unlink()

    def logs(self) -> str:
        return Path(self.plane.gateway.access_log).read_text() + (self.plane.folder / "envoy.log").read_text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def restricted(plane: DataPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Restricted]:
    folder = tmp_path_factory.mktemp("restricted")
    file = folder / "token"
    file.write_text(f"{HEADER}={SECRET}\n")
    options = (
        f"--http-restricted-api={APIS}:{HEADER}={SECRET}",
        f"--grpc-restricted-protocol={APIS}:{HEADER}={SECRET}",
    )
    events = EventLog(lambda: datetime.now(UTC))
    shown = {HEADER: SECRET}
    async with started_triton(write_repository(folder / "repository", MODEL), *options, headers=shown) as triton:
        yield Restricted(
            triton, plane, TritonToken(HEADER, str(file)), TritonTokens(TokenFiles(), plane.xds, events), events
        )


async def test_scoring_metadata_and_health_checks_show_the_token_over_both_protocols(restricted: Restricted) -> None:
    restricted.tokens.look([restricted.token])
    await restricted.plane.endpoint("known", restricted.upstream(restricted.token))
    await all_healthy(restricted.plane, "known", 1, "blue")

    reply = await restricted.score("known")
    described = await restricted.plane.http.get("/v2/models/known")
    async with grpc.aio.insecure_channel(restricted.plane.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        message = await stub.ModelInfer(grpc_request("known", ONE), timeout=DEADLINE_S)
        metadata = await stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="known"), timeout=DEADLINE_S)
        call = stub.ModelStreamInfer(timeout=DEADLINE_S)
        await call.write(grpc_request("known", ONE))
        streamed = (await call.read()).infer_response
        await call.done_writing()

    assert reply.json()["outputs"][0]["data"] == [1.5, 2.5]
    assert message.raw_output_contents[0] == streamed.raw_output_contents[0] == ONE["INPUT0"].tobytes()
    assert described.json()["name"] == metadata.name == "known"
    assert SECRET not in str(reply.headers) + reply.text + str(described.headers)


async def test_without_it_a_client_is_not_let_through_by_one_of_its_own(restricted: Restricted) -> None:
    """The gateway alone says what Triton is shown."""
    restricted.tokens.look([restricted.token])
    await restricted.plane.endpoint("own", restricted.upstream(restricted.token))
    await all_healthy(restricted.plane, "own", 1, "blue")
    assert (await restricted.score("own", **{HEADER: "another"})).status_code == 200

    wrong = restricted.file_with("wrong", f"{HEADER}=wrong")
    restricted.tokens.look([restricted.token, wrong])
    await restricted.plane.endpoint("refused", restricted.upstream(wrong))
    assert (await restricted.score("refused", **{HEADER: SECRET})).status_code == 403


async def test_a_new_token_in_the_file_is_shown_without_a_new_cluster(restricted: Restricted) -> None:
    token = restricted.file_with("rotated", f"{HEADER}=old")
    restricted.tokens.look([token])
    await restricted.plane.endpoint("rotated", restricted.upstream(token))
    assert (await restricted.score("rotated")).status_code == 403
    clusters = (
        await restricted.plane.stat("cluster_manager.cluster_added"),
        await restricted.plane.stat("cluster_manager.cluster_modified"),
    )

    restricted.tokens.look([restricted.file_with("rotated", f"{HEADER}={SECRET}")])

    async def status() -> int:
        return (await restricted.score("rotated")).status_code

    await eventually(status, 200)
    assert clusters == (
        await restricted.plane.stat("cluster_manager.cluster_added"),
        await restricted.plane.stat("cluster_manager.cluster_modified"),
    )


async def test_a_file_that_breaks_changes_nothing_and_is_told_without_its_content(restricted: Restricted) -> None:
    token = restricted.file_with("breaking", f"{HEADER}={SECRET}")
    restricted.tokens.look([token])
    await restricted.plane.endpoint("breaking", restricted.upstream(token))
    assert (await restricted.score("breaking")).status_code == 200

    restricted.file_with("breaking", SECRET)
    for _ in range(2):
        restricted.tokens.look([token])

    assert (await restricted.score("breaking")).status_code == 200
    told = [event.message for event in restricted.events.after(0)]
    assert any("does not hold x-triton-token=VALUE" in text for text in told)
    assert SECRET not in str(told)


@pytest.mark.parametrize("is_grpc", [False, True])
async def test_a_replica_behind_a_shield_and_its_client_never_see_it(restricted: Restricted, is_grpc: bool) -> None:
    """The candidate Triton is asked for a model that it has not, so stable answers."""
    plane, name = restricted.plane, f"shielded-{'grpc' if is_grpc else 'http'}"
    restricted.tokens.look([restricted.token])
    replica = await plane.replica("blue")
    green = restricted.upstream(restricted.token, "green")
    green = replace(green, triton=replace(green.triton, model="nobody"))
    await plane.endpoint(name, upstream("blue", replica), green, traffic={"green": 100}, shield=Shield("green", "blue"))

    if is_grpc:
        async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
                grpc_request(name, ONE), timeout=DEADLINE_S
            )
            assert await call.code() is grpc.StatusCode.OK
    else:
        assert (await restricted.score(name, **{HEADER: "of a client"})).status_code == 200

    assert replica.requests
    for request in replica.requests:
        assert "x-request-id" in str(request.headers)
        assert "triton" not in str(request.headers)
        assert SECRET not in str(request.headers)


async def test_what_it_is_and_counts_is_asked_with_the_token(restricted: Restricted) -> None:
    readiness, statistics = TritonReadiness(), TritonStatisticsClient()
    known, stranger = (restricted.upstream(token).triton for token in (restricted.token, None))
    assert known is not None
    assert stranger is not None
    missing = replace(known, restricted=TritonToken(HEADER, "/nowhere/token"))

    assert await readiness.why_not_ready(restricted.triton.address, known) == ""
    assert "restricted" in await readiness.why_not_ready(restricted.triton.address, stranger)
    assert "cannot be read" in await readiness.why_not_ready(restricted.triton.address, missing)
    answer = await statistics.ask(restricted.triton.address, known)
    assert answer is not None
    assert answer.version.startswith("2.")
    assert await statistics.ask(restricted.triton.address, stranger) is None
    assert await statistics.ask(restricted.triton.address, missing) is None
    await readiness.close()
    await statistics.close()


async def test_it_is_in_no_log_and_in_none_of_what_envoy_tells_of_itself_but_to_its_own_user(
    restricted: Restricted,
) -> None:
    restricted.tokens.look([restricted.token])
    await restricted.plane.endpoint("logged", restricted.upstream(restricted.token))
    assert (await restricted.score("logged")).status_code == 200

    pages = [await restricted.plane.admin(page) for page in ("/config_dump", "/stats", "/clusters")]

    assert SECRET not in "".join(pages)
    assert SECRET not in restricted.logs()
    assert SECRET not in repr(restricted.upstream(restricted.token))


async def test_a_control_plane_that_starts_again_without_the_file_leaves_envoy_its_token(
    restricted: Restricted,
) -> None:
    async with data_plane() as plane:
        token, events = restricted.file_with("lost", f"{HEADER}={SECRET}"), restricted.events
        TritonTokens(TokenFiles(), plane.xds, events).look([token])
        await plane.endpoint("kept", restricted.upstream(token))
        await all_healthy(plane, "kept", 1, "blue")
        restricted.remove(token)
        await plane.xds.stop()

        plane.xds = again = xds_server(plane.gateway)
        tokens = TritonTokens(TokenFiles(), again, events)
        tokens.look([token])
        assert "cannot be read" in tokens.trouble(token)
        again.set_endpoint(routing("kept", restricted.upstream(token)))
        await again.start(plane.xds_socket)
        again.release()
        await plane.endpoint("new", upstream("blue", await plane.replica("blue")))  # what else there is to say is said
        assert await again.applied("kept", DEADLINE_S) == Acknowledged()

        async def status() -> int:
            return (await plane.http.post("/v2/models/kept/infer", json=json_request(ONE))).status_code

        assert ((await plane.infer("new")).status_code, await status()) == (200, 200)
        tokens.look([restricted.file_with("lost", f"{HEADER}=wrong")])
        await eventually(status, 403)
