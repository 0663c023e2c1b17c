"""A real Envoy and replicas on other hosts: over TLS, with certificates of the internal CA on both sides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
import pytest_asyncio

from adapters.certificate_authority import Authority, new_authority
from adapters.internal_authority import InternalAuthority
from router.domain.replica_tls import ReplicaName
from router.domain.routing import TcpAddress
from tests.envoy.data_plane import DataPlane, data_plane, upstream
from tests.envoy.replica import Replica
from tests.envoy.waiting import eventually
from tests.internal_ca import BLUE, certified, internal_ca, now, renew

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority("an internal CA", now())


@pytest.fixture(scope="module")
def ca(authority: Authority) -> InternalAuthority:
    return internal_ca(authority=authority)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane(ca: InternalAuthority) -> AsyncIterator[DataPlane]:
    async with data_plane(internal=ca) as running:
        yield running


def of(endpoint: str, deployment: str = "blue") -> ReplicaName:
    return replace(BLUE, endpoint=endpoint, deployment=deployment)


async def answers(plane: DataPlane, endpoint: str) -> None:
    async def status() -> int:
        return (await plane.infer(endpoint)).status_code

    await eventually(status, 200)


async def never_asked(plane: DataPlane, endpoint: str, replica: Replica) -> None:
    """Envoy has tried it, by its health checks at least, and gives it nothing."""
    await eventually(lambda: health(plane, endpoint), "/failed_active_hc")
    answer = await plane.infer(endpoint)
    assert answer.status_code == 503
    assert replica.requests == []


async def health(plane: DataPlane, endpoint: str) -> str:
    """What Envoy thinks of the only host."""
    lines = [line for line in (await plane.admin("/clusters")).splitlines() if line.startswith(f"{endpoint}/blue::")]
    (flags,) = [line for line in lines if "::health_flags::" in line]
    return flags.partition("::health_flags::")[2]


async def test_one_with_a_certificate_of_its_deployment_answers_and_passes_its_health_checks(
    plane: DataPlane, ca: InternalAuthority
) -> None:
    replica = await plane.replica("away", certified(ca, of("right")).context)
    checks = replica.checks
    await plane.endpoint("right", upstream("blue", replica))
    await answers(plane, "right")
    await eventually(lambda: len(checks) >= 2)
    assert await health(plane, "right") == "healthy"
    assert (await plane.infer("right")).json()["model_name"] == "away"
    grpc = await plane.http.post(
        "/v2/models/right/ModelInfer", headers={"content-type": "application/grpc"}, content=b"\0\0\0\0\0"
    )
    assert grpc.status_code == 200


async def test_one_here_and_one_on_another_host_are_balanced_over_together(
    plane: DataPlane, ca: InternalAuthority
) -> None:
    here, away = await plane.replica("here"), await plane.replica("away", certified(ca, of("both")).context)
    await plane.endpoint("both", upstream("blue", here, away))
    seen: set[str] = set()

    async def both() -> set[str]:
        answer = await plane.infer("both")
        assert answer.status_code == 200
        seen.add(answer.json()["model_name"])
        return seen

    await eventually(both, {"here", "away"})


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("others-deployment", of("others-deployment", "green")),
        ("others-endpoint", of("right")),
        ("others-gateway", replace(of("others-gateway"), gateway="cf000000")),
    ],
)
async def test_one_with_the_name_of_another_gets_no_traffic(
    plane: DataPlane, authority: Authority, endpoint: str, name: ReplicaName
) -> None:
    impostor = await plane.replica("impostor", certified(internal_ca(name.gateway, authority), name).context)
    await plane.endpoint(endpoint, upstream("blue", impostor))
    await never_asked(plane, endpoint, impostor)


async def test_one_with_a_certificate_of_another_ca_gets_no_traffic(plane: DataPlane, ca: InternalAuthority) -> None:
    impostor = await plane.replica("impostor", certified(internal_ca(), of("strange-ca")).context)
    await plane.endpoint("strange-ca", upstream("blue", impostor))
    await never_asked(plane, "strange-ca", impostor)


async def test_one_whose_certificate_has_expired_gets_no_traffic(plane: DataPlane, ca: InternalAuthority) -> None:
    late = await plane.replica("late", certified(ca, of("expired"), at=now() - timedelta(hours=25)).context)
    await plane.endpoint("expired", upstream("blue", late))
    await never_asked(plane, "expired", late)


async def test_one_that_speaks_plain_text_gets_no_traffic_and_never_sees_the_token(plane: DataPlane) -> None:
    seen = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.read(4096))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    plain = replace(upstream("blue"), addresses=(TcpAddress("127.0.0.1", port),))
    await plane.endpoint("plain", plain)
    answer = await plane.infer("plain")
    await eventually(lambda: len(seen) > 0)
    assert answer.status_code == 503
    assert b"the-gateway-token" not in seen
    server.close()


async def test_renewing_on_both_sides_under_load_fails_nothing(plane: DataPlane, ca: InternalAuthority) -> None:
    name = of("renewed")
    keys = certified(ca, name)
    replicas = [await plane.replica(f"r{number}", keys.context) for number in range(2)]
    await plane.endpoint("renewed", upstream("blue", *replicas))
    await answers(plane, "renewed")
    statuses: list[int] = []
    is_over = False

    async def ask() -> None:
        while not is_over:
            statuses.append((await plane.infer("renewed")).status_code)

    asking = [asyncio.create_task(ask()) for _ in range(8)]
    for _ in range(4):
        renew(ca, keys, name)
        plane.xds.set_replica_tls(ca.for_envoy(now()), ca.trust)
        begun = len(statuses)
        await eventually(lambda begun=begun: len(statuses) > begun + 50)  # type: ignore[misc]
    is_over = True
    await asyncio.gather(*asking)
    assert set(statuses) == {200}
