"""What the real Envoy counts of each deployment, against what clients sent and replicas saw."""

import asyncio
import time

import pytest
import tritonclient.grpc.aio as triton_grpc

from router.domain.measurement import Totals
from router.domain.traffic import Mirror
from router.metrics import MetricsPage
from router.ports import Acknowledged
from router.telemetry import AttemptMeter
from router.xds.reports import BOUNDS_MS, reports_service
from serving.exchange import HttpRequest, HttpResponse
from tests.envoy.data_plane import (
    DataPlane,
    data_plane,
    listening,
    process_of,
    routing,
    started_envoy,
    upstream,
    xds_server,
)
from tests.envoy.replica import Answer
from tests.envoy.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = 200
HALF = {"blue": 50, "green": 50}


def with_status(code: int) -> Answer:
    return lambda _: HttpResponse(code, [(b"content-type", b"application/json")], [b"{}"])


def grpc_failure(code: bytes) -> Answer:
    """As replicas say it: in the headers of an empty reply."""
    headers = [(b"content-type", b"application/grpc"), (b"grpc-status", code)]
    return lambda _: HttpResponse(200, headers, [])


def grpc_failure_in_trailers(_: HttpRequest) -> HttpResponse:
    return HttpResponse(200, [(b"content-type", b"application/grpc")], [bytes(5)], [(b"grpc-status", b"13")])


def never(_: HttpRequest) -> HttpResponse | None:
    return None


async def counted(meter: AttemptMeter, endpoint: str, requests: int) -> dict[str, Totals]:
    """The totals, once this many requests are in them."""

    def seen() -> int:
        return sum(totals.requests for totals in meter.totals(endpoint).values())

    await eventually(lambda: seen() >= requests)
    assert seen() == requests
    return dict(meter.totals(endpoint))


async def test_every_request_is_counted_once_over_http_and_grpc(plane: DataPlane) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    await plane.endpoint("counted.v1", upstream("blue", blue), upstream("green", green), traffic=HALF)

    for _ in range(REQUESTS // 2):
        await plane.infer("counted.v1")
    async with triton_grpc.InferenceServerClient(plane.grpc_address) as client:
        for _ in range(REQUESTS // 2):
            await client.infer("counted.v1", [])

    totals = await counted(plane.meter, "counted.v1", REQUESTS)
    for name, replica in (("blue", blue), ("green", green)):
        assert (totals[name].requests, totals[name].errors) == (len(replica.requests), 0)
        assert totals[name].latencies.total == len(replica.requests)
        assert totals[name].latencies.bounds_ms == BOUNDS_MS


async def test_failures_of_every_kind_are_errors_and_the_callers_own_are_not(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("failing", upstream("blue", blue, timeout_ms=3000))

    async def after(answer: Answer, headers: dict[str, str] | None = None) -> None:
        blue.answer = answer
        await plane.infer("failing", headers)

    for code in (200, 400, 404, 413, 500, 502, 424, 429):
        await after(with_status(code))
    for code in (b"0", b"3", b"13", b"14"):
        await after(grpc_failure(code), {"content-type": "application/grpc"})
    await after(grpc_failure_in_trailers, {"content-type": "application/grpc"})
    await after(never)  # the gateway's timeout

    totals = await counted(plane.meter, "failing", 14)
    assert totals["blue"].errors == len(["500", "502", "424", "429", "13", "14", "trailers", "timeout"])


async def test_a_client_that_goes_away_blames_nobody(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("impatient", upstream("blue", blue))
    blue.answer = never
    asking = asyncio.ensure_future(plane.infer("impatient"))
    await eventually(lambda: bool(blue.requests))

    asking.cancel()
    await eventually(lambda: blue.cancelled, 1)

    blue.answer = None
    await plane.infer("impatient")
    assert (await counted(plane.meter, "impatient", 1))["blue"].errors == 0


async def test_a_replica_that_has_not_begun_is_not_counted(plane: DataPlane) -> None:
    draining, ready = await plane.replica("draining"), await plane.replica("ready")
    draining.answer = lambda _: HttpResponse(503, [(b"x-crossfade-retry", b"1")], [b"{}"])
    await plane.endpoint("draining", upstream("blue", draining, ready))

    for _ in range(20):
        assert (await plane.infer("draining")).status_code == 200

    assert draining.requests
    assert (await counted(plane.meter, "draining", 20))["blue"].errors == 0


async def test_a_replica_that_refuses_connections_is_an_error_each_time(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("refusing", upstream("blue", blue))
    await plane.infer("refusing")
    await blue.kill()

    assert (await plane.infer("refusing")).status_code == 503

    tries = 1 + plane.gateway.retries
    assert (await counted(plane.meter, "refusing", 1 + tries))["blue"].errors == tries


async def test_copies_count_for_who_gets_them_as_live_requests_do(plane: DataPlane) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    await plane.endpoint("shadowed", upstream("blue", blue), upstream("green", green), mirror=Mirror("green", 100))

    for _ in range(10):
        await plane.infer("shadowed", headers={"x-crossfade-no-retry": "1"})
    async with triton_grpc.InferenceServerClient(plane.grpc_address) as client:
        for _ in range(10):
            await client.infer("shadowed", [])
        totals = await counted(plane.meter, "shadowed", 40)
        assert (totals["blue"].requests, totals["blue"].errors) == (20, 0)
        assert (totals["green"].requests, totals["green"].errors) == (20, 0)
        assert totals["green"].latencies.total == 20

        for status, answer in enumerate((with_status(500), with_status(424), grpc_failure(b"13")), start=1):
            green.answer = answer
            await (client.infer("shadowed", []) if status == 3 else plane.infer("shadowed"))
            totals = await counted(plane.meter, "shadowed", 40 + 2 * status)
            assert (totals["blue"].errors, totals["green"].errors) == (0, status)


async def test_a_copy_that_hangs_is_an_error(plane: DataPlane) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    green.answer = never
    slow = upstream("green", green, timeout_ms=200)
    await plane.endpoint("stuck", upstream("blue", blue, timeout_ms=200), slow, mirror=Mirror("green", 100))

    await plane.infer("stuck")

    assert (await counted(plane.meter, "stuck", 2))["green"].errors == 1


async def test_nobody_can_pass_a_request_off_as_a_copy(plane: DataPlane) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    await plane.endpoint("forged", upstream("blue", blue), upstream("green", green), mirror=Mirror("green", 100))

    pinned = {"x-crossfade-mirrored": "1", "x-crossfade-deployment": "green"}
    assert (await plane.infer("forged", headers=pinned)).headers["x-crossfade-deployment"] == "green"
    await plane.infer("forged")

    assert {name: totals.requests for name, totals in (await counted(plane.meter, "forged", 2)).items()} == {
        "blue": 1,
        "green": 1,
    }


async def test_durations_fall_into_the_bucket_that_bounds_them(plane: DataPlane) -> None:
    """A reply is held back for so long; it can take longer, never shorter."""
    blue = await plane.replica("blue")
    await plane.endpoint("timed", upstream("blue", blue))
    before = [0] * (len(BOUNDS_MS) + 1)

    for number, held_s in enumerate((0.0, 0.012, 0.049, 0.1, 0.18), start=1):
        blue.holds_for_s = held_s
        begun_s = time.monotonic()
        await plane.infer("timed")
        took_s = time.monotonic() - begun_s
        counts = (await counted(plane.meter, "timed", number))["blue"].latencies.counts
        (bucket,) = [index for index, count in enumerate(counts) if count > before[index]]
        assert held_s * 1000 < BOUNDS_MS[bucket]
        assert (BOUNDS_MS[bucket - 1] if bucket else 0) <= took_s * 1000
        before = list(counts)


async def test_an_envoy_that_starts_again_adds_to_what_was_counted() -> None:
    async with data_plane() as plane:
        blue = await plane.replica("blue")
        await plane.endpoint("fraud", upstream("blue", blue))
        for _ in range(20):
            await plane.infer("fraud")
        await counted(plane.meter, "fraud", 20)

        plane.envoy.kill()
        await plane.envoy.wait()
        async with started_envoy(process_of(plane.folder), plane.folder / "second.log"):
            await listening(plane.gateway.http_port)
            assert await plane.xds.applied("fraud", DEADLINE_S) == Acknowledged()
            for _ in range(5):
                await plane.infer("fraud")
            assert (await counted(plane.meter, "fraud", 25))["blue"].latencies.total == 25


async def test_a_control_plane_that_starts_again_counts_from_there_on() -> None:
    async with data_plane() as plane:
        blue = await plane.replica("blue")
        wanted = routing("fraud", upstream("blue", blue))
        await plane.endpoint("fraud", upstream("blue", blue))
        for _ in range(20):
            await plane.infer("fraud")
        await counted(plane.meter, "fraud", 20)

        await plane.xds.stop()
        meter = AttemptMeter()
        plane.xds = xds_server(plane.gateway)
        plane.xds.set_endpoint(wanted)
        await plane.xds.start(plane.xds_socket, reports_service(meter.take))
        plane.xds.release()
        assert await plane.xds.applied("fraud", DEADLINE_S) == Acknowledged()
        for _ in range(5):
            await plane.infer("fraud")

        await counted(meter, "fraud", 5)


async def test_what_is_counted_for_rollouts_is_not_on_the_metrics_page(plane: DataPlane) -> None:
    await plane.endpoint("shown", upstream("blue", await plane.replica("blue")))
    await plane.infer("shown")
    await counted(plane.meter, "shown", 1)

    async def of_no_replica() -> str:
        return ""

    page = MetricsPage(str(plane.folder / "admin"), lambda: "", of_no_replica)
    shown: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    page.handler()(HttpRequest(b"GET", b"/metrics", {}, b""), lambda reply: shown.set_result(b"".join(reply.body)))

    text = (await shown).decode()
    await page.close()
    assert 'envoy_cluster_upstream_rq_total{envoy_cluster_name="shown/blue"} 1' in text
    assert "envoy_server_uptime" in text
    assert "attempts" not in text
