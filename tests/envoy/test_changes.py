"""Configuration changes against the real Envoy: what is pushed, what is refused, what clients notice. (Nothing.)"""

import asyncio
import random
import signal
from collections import Counter
from dataclasses import replace

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from router.domain.routing import TcpAddress
from router.ports import Acknowledged, Rejected, Unconfirmed
from router.xds.names import CLUSTER, ENDPOINTS, ROUTES
from serving.exchange import HttpRequest, HttpResponse
from tests.envoy.data_plane import DataPlane, process_of, routing, started_envoy, upstream, xds_server
from tests.envoy.load import under_load
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.statistics import assert_share

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_weight_changes_under_load_fail_nothing_and_are_in_force_once_acknowledged(plane: DataPlane) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    upstreams = upstream("blue", blue), upstream("green", green)
    await plane.endpoint("shifting", *upstreams)
    chance = random.Random(7)

    async with under_load(plane, "shifting") as load:
        for step in range(40):
            percent = chance.randint(0, 100)
            await plane.endpoint("shifting", *upstreams, traffic={"blue": percent, "green": 100 - percent})
            if step % 10 == 9:
                await load.more(12)  # what was sent before the acknowledgement
                load.answers.clear()
                await load.more(300)
                assert_share(load.answers["blue"], percent, load.answers.total())


async def test_deployments_are_added_scaled_changed_and_removed_under_load(plane: DataPlane) -> None:
    blue, second, green = [await plane.replica(name) for name in ("blue", "blue", "green")]
    await plane.endpoint("moving", upstream("blue", blue))

    async with under_load(plane, "moving") as load:
        for round_number in range(5):
            await plane.endpoint("moving", upstream("blue", blue), upstream("green", green), traffic={"green": 100})
            await load.more(20)
            limit = 500 + round_number  # a cluster change: Envoy builds the cluster anew
            await plane.endpoint("moving", upstream("green", green, max_requests=limit), traffic={"green": 100})
            await load.more(20)
            await plane.endpoint("moving", upstream("blue", blue, second), upstream("green", green, max_requests=limit))
            await load.more(20)
            await plane.endpoint("moving", upstream("blue", second))
            await load.more(20)

    assert blue.requests
    assert second.requests
    assert green.requests


async def test_a_replica_that_has_not_begun_the_work_is_passed_over(plane: DataPlane) -> None:
    def draining(_: HttpRequest) -> HttpResponse:
        return HttpResponse(503, [(b"content-type", b"application/json"), (b"x-crossfade-retry", b"1")], [b"{}"])

    first, second = await plane.replica("first"), await plane.replica("second")
    first.answer = draining
    await plane.endpoint("draining", upstream("blue", first, second))

    async with under_load(plane, "draining") as load:
        await load.more(200)

    assert first.requests


async def test_a_retry_asks_somebody_else_however_busy_the_others_are(plane: DataPlane) -> None:
    """Who refuses at once has nothing under way, so by load alone it would be picked again and again."""
    refusing, busy = await plane.replica("refusing"), await plane.replica("busy")
    refusing.answer = lambda _: HttpResponse(503, [(b"x-crossfade-retry", b"1")], [b"{}"])
    busy.holds_for_s = 0.1
    await plane.endpoint("uneven", upstream("blue", refusing, busy))

    async def ask(number: int) -> None:
        assert (await plane.infer("uneven", headers={"x-number": str(number)})).status_code == 200

    for wave in range(8):
        await asyncio.gather(*(ask(number) for number in range(wave * 8, wave * 8 + 8)))

    asked = Counter(request.headers[b"x-number"] for request in refusing.requests)
    assert set(asked.values()) == {1}


async def test_a_reply_that_asks_for_a_retry_reaches_the_caller_clean_when_nobody_else_can_answer(
    plane: DataPlane,
) -> None:
    only = await plane.replica("only")
    only.answer = lambda _: HttpResponse(503, [(b"x-crossfade-retry", b"1")], [b'{"error": "draining"}'])
    await plane.endpoint("drained", upstream("blue", only))

    reply = await plane.infer("drained")

    assert (reply.status_code, reply.json()) == (503, {"error": "draining"})
    assert "x-crossfade-retry" not in reply.headers
    assert len(only.requests) == plane.gateway.retries + 1


async def test_an_unhealthy_replica_gets_no_requests_and_a_recovered_one_does(plane: DataPlane) -> None:
    first, second = await plane.replica("first"), await plane.replica("second")
    await plane.endpoint("checked", upstream("blue", first, second))

    async def healthy() -> int:
        return await plane.stat("cluster.checked/blue.membership_healthy")

    await eventually(healthy, 2)
    first.is_ready = False
    await eventually(healthy, 1)
    first.requests.clear()
    for _ in range(20):
        assert (await plane.infer("checked")).status_code == 200
    assert not first.requests
    first.is_ready = True
    await eventually(healthy, 2)


async def test_a_new_replica_answers_at_once(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    for number in range(10):
        await plane.endpoint(f"fresh-{number}", upstream("blue", blue))
        assert (await plane.infer(f"fresh-{number}")).status_code == 200


async def test_a_weight_change_pushes_one_resource_of_one_endpoint(plane: DataPlane) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    upstreams = upstream("blue", blue), upstream("green", green)
    for name in ("pushed", "bystander"):
        await plane.endpoint(name, *upstreams)
    before = plane.xds.pushed.resources.copy()

    await plane.endpoint("pushed", *upstreams, traffic={"blue": 70, "green": 30})

    assert plane.xds.pushed.resources - before == {ROUTES: 1}


async def test_a_rejected_address_is_reported_and_the_last_good_one_stays(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    good, other = upstream("blue", blue), upstream("green", blue)
    await plane.endpoint("refused", good)
    bad = replace(good, addresses=(TcpAddress("no-address", 1),))

    plane.xds.set_endpoint(routing("refused", bad))
    plane.xds.set_endpoint(routing("unharmed", other))
    outcome = await plane.xds.applied("refused", DEADLINE_S)

    assert isinstance(outcome, Rejected)
    assert outcome.proxy == "envoy-1"
    assert "no-address" in outcome.reason
    assert await plane.xds.applied("unharmed", DEADLINE_S) == Acknowledged()
    (status,) = plane.xds.proxies()
    # The bad address may have been chosen to stand by for the server-level calls.
    assert {name for name, _ in status.rejected} - {"server"} == {"refused/blue"}
    assert not status.is_up_to_date
    assert (await plane.infer("refused")).status_code == 200
    before = plane.xds.pushed.resources[ENDPOINTS]
    await plane.endpoint("unharmed", other, traffic={})
    assert plane.xds.pushed.resources[ENDPOINTS] == before, "a refused resource is not sent again"

    await plane.endpoint("refused", good)
    await eventually(lambda: plane.xds.proxies()[0].is_up_to_date)


async def test_a_rejected_route_is_reported_and_the_last_good_one_stays(plane: DataPlane) -> None:
    good = upstream("blue", await plane.replica("blue"))
    await plane.endpoint("misrouted", good)

    plane.xds.set_endpoint(routing("misrouted", replace(good, request_timeout_ms=-1)))
    outcome = await plane.xds.applied("misrouted", DEADLINE_S)

    assert isinstance(outcome, Rejected)
    assert "Invalid duration" in outcome.reason
    assert (await plane.infer("misrouted")).status_code == 200
    await plane.endpoint("misrouted", good)


async def test_one_bad_route_among_many_does_not_hold_the_others_up(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    names = [f"crowd-{number}" for number in range(20)]
    for name in names:
        timeout_ms = -1 if name == "crowd-13" else 5000
        plane.xds.set_endpoint(routing(name, upstream("blue", blue, timeout_ms=timeout_ms)))

    outcomes = dict(
        zip(names, await asyncio.gather(*(plane.xds.applied(name, DEADLINE_S) for name in names)), strict=True)
    )

    assert isinstance(outcomes.pop("crowd-13"), Rejected)
    assert set(outcomes.values()) == {Acknowledged()}
    plane.xds.remove_endpoint("crowd-13")
    assert await plane.xds.applied("crowd-13", DEADLINE_S) == Acknowledged()


async def test_a_removed_endpoint_is_gone_from_envoy(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("removed", upstream("blue", blue))

    plane.xds.remove_endpoint("removed")

    assert await plane.xds.applied("removed", DEADLINE_S) == Acknowledged()
    assert (await plane.infer("removed")).status_code == 404
    assert "removed/blue" not in await plane.admin("/clusters")
    await plane.endpoint("removed", upstream("blue", blue))
    assert (await plane.infer("removed")).status_code == 200


async def test_nobody_connected_means_unconfirmed(plane: DataPlane) -> None:
    lonely = xds_server(plane.gateway)

    assert await lonely.applied("any", 0.05) == Unconfirmed("no Envoy is connected")


async def test_several_envoys_are_all_waited_for(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    log = plane.folder / "second.log"
    # It cannot have the ports of the first one: its listener is refused, which must not hinder the first.
    async with started_envoy(process_of(plane.folder, "envoy-2", "admin2"), log) as second:
        await eventually(lambda: len(plane.xds.proxies()), 2)
        await eventually(lambda: bool(plane.xds.proxies()[1].rejected))
        second.send_signal(signal.SIGSTOP)
        plane.xds.set_endpoint(routing("shared", upstream("blue", blue)))
        outcome = await plane.xds.applied("shared", 1.0)
        assert isinstance(outcome, Rejected)
        assert outcome.proxy == "envoy-2"
        assert "Address already in use" in outcome.reason
        assert (await plane.infer("shared")).status_code == 200
        second.send_signal(signal.SIGCONT)
        assert await plane.xds.applied("shared", DEADLINE_S) == Acknowledged()


async def test_a_client_that_never_answers_delays_only_itself(plane: DataPlane) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    await plane.endpoint("unhindered", upstream("blue", blue))
    silent = discovery_pb2.DeltaDiscoveryRequest(node={"id": "silent"}, type_url=CLUSTER)
    async with grpc.aio.insecure_channel(f"unix:{plane.xds_socket}") as channel:
        stream = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
        )()
        await stream.write(silent)
        await eventually(lambda: len(plane.xds.proxies()), 2)

        plane.xds.set_endpoint(routing("unhindered", upstream("green", green)))

        async def answered_by() -> str:
            return (await plane.infer("unhindered")).headers["x-crossfade-deployment"]

        await eventually(answered_by, "green")
        assert await plane.xds.applied("unhindered", 0.1) == Unconfirmed("no answer within 0.1 s from silent")
        stream.cancel()
    await eventually(lambda: len(plane.xds.proxies()), 1)
    assert await plane.xds.applied("unhindered", DEADLINE_S) == Acknowledged()
