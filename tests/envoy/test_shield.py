"""Shielded candidates with the real Envoy: what fails on green is answered by blue, and still counts against green."""

import asyncio
import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice

import grpc
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.measurement import Totals
from router.domain.routing import Shield
from serving.exchange import HttpRequest, HttpResponse
from tests.envoy.data_plane import DataPlane, upstream
from tests.envoy.load import under_load
from tests.envoy.replica import Answer, Replica
from tests.envoy.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = 60
HALF = {"blue": 50, "green": 50}
GREEN_BY_BLUE = Shield(candidate="green", stable="blue")


def status(code: int) -> Answer:
    return lambda _: HttpResponse(code, [(b"content-type", b"application/json")], [b'{"error": "no"}'])


def grpc_status(code: int) -> Answer:
    """Over gRPC as the headers of an empty reply; over HTTP, the same failure is a 500."""

    def answer(request: HttpRequest) -> HttpResponse | None:
        if not request.headers.get(b"content-type", b"").startswith(b"application/grpc"):
            return status(500)(request)
        headers = [(b"content-type", b"application/grpc"), (b"grpc-status", b"%d" % code), (b"grpc-message", b"no")]
        return HttpResponse(200, headers, [])

    return answer


def hang(_: HttpRequest) -> HttpResponse | None:
    return None


@dataclass(slots=True)
class Duel:
    """An endpoint whose traffic is shared by blue and green."""

    plane: DataPlane
    name: str
    blue: Replica
    green: Replica

    async def set(
        self,
        traffic: dict[str, int] | None = None,
        shield: Shield | None = GREEN_BY_BLUE,
        max_requests: int = 1000,
        timeout_ms: int = 4000,
    ) -> None:
        upstreams = [
            upstream(deployment, replica, timeout_ms=timeout_ms, max_requests=max_requests)
            for deployment, replica in (("blue", self.blue), ("green", self.green))
        ]
        await self.plane.endpoint(self.name, *upstreams, traffic=traffic or HALF, shield=shield)

    async def http(self, headers: dict[str, str] | None = None) -> tuple[str, str]:
        """(status, who answered)"""
        reply = await self.plane.infer(self.name, headers)
        return str(reply.status_code), reply.headers.get("x-crossfade-deployment", "")

    async def totals(self, requests: int) -> dict[str, Totals]:
        """When this many requests were counted."""
        await eventually(lambda: sum(one.requests for one in self._totals().values()), requests)
        return dict(self._totals())

    def _totals(self) -> dict[str, Totals]:
        return dict(self.plane.meter.totals(self.name))


@pytest_asyncio.fixture(loop_scope="module")
async def duel(plane: DataPlane, request: pytest.FixtureRequest) -> Duel:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    name = re.sub("[^a-z0-9]+", "-", request.node.name)[-40:].strip("-")
    duel = Duel(plane, name, blue, green)
    await duel.set()
    return duel


async def over_grpc(duel: Duel, count: int) -> Counter[tuple[str, str]]:
    async with grpc.aio.insecure_channel(duel.plane.grpc_address) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

        async def one() -> tuple[str, str]:
            call = infer(service_pb2.ModelInferRequest(model_name=duel.name), timeout=DEADLINE_S)
            try:
                await call
            except grpc.aio.AioRpcError as error:
                return error.code().name, ""
            return "OK", dict(await call.initial_metadata())["x-crossfade-deployment"]

        return Counter(await asyncio.gather(*(one() for _ in range(count))))


async def over_http(duel: Duel, count: int, headers: dict[str, str] | None = None) -> Counter[tuple[str, str]]:
    return Counter(await asyncio.gather(*(duel.http(headers) for _ in range(count))))


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(status(500), id="answers-500"),
        pytest.param(status(503), id="answers-503"),
        pytest.param(status(424), id="answers-424"),
        pytest.param(status(429), id="answers-429"),
        pytest.param(grpc_status(2), id="grpc-unknown"),
        pytest.param(grpc_status(13), id="grpc-internal"),
        pytest.param(grpc_status(14), id="grpc-unavailable"),
        pytest.param(hang, id="hangs"),
    ],
)
async def test_a_candidate_that_fails_every_request_is_noticed_by_nobody_and_counted_exactly(
    duel: Duel, failure: Answer
) -> None:
    duel.green.answer = failure

    seen = await over_http(duel, REQUESTS)
    seen_grpc = await over_grpc(duel, REQUESTS)

    assert seen == {("200", "blue"): REQUESTS}
    assert seen_grpc == {("OK", "blue"): REQUESTS}
    asked = len(duel.green.requests)
    assert 0 < asked < 2 * REQUESTS
    totals = await duel.totals(2 * REQUESTS)
    assert (totals["green"].requests, totals["green"].errors) == (asked, asked)
    assert (totals["blue"].requests, totals["blue"].errors) == (2 * REQUESTS - asked, 0)


async def test_a_candidate_that_is_killed_under_load_fails_nothing(duel: Duel) -> None:
    async with under_load(duel.plane, duel.name) as load:
        await load.more(100)
        await duel.green.kill()
        await load.more(300)

    assert set(load.answers) == {"blue", "green"}


async def test_who_answered_is_named_with_and_without_a_failure(duel: Duel) -> None:
    seen = await over_http(duel, REQUESTS)
    duel.green.answer = status(400)
    refused = await over_http(duel, REQUESTS)

    assert set(seen) == {("200", "blue"), ("200", "green")}
    assert set(refused) == {("200", "blue"), ("400", "green")}
    assert refused[("400", "green")] + seen[("200", "green")] == len(duel.green.requests)


async def test_the_callers_own_mistakes_are_not_repeated_on_stable_and_count_against_nobody(duel: Duel) -> None:
    duel.green.answer = status(400)

    await over_http(duel, REQUESTS)

    totals = await duel.totals(REQUESTS)
    assert totals["green"].requests == len(duel.green.requests)
    assert totals["blue"].requests == len(duel.blue.requests)
    assert (totals["green"].errors, totals["blue"].errors) == (0, 0)


async def test_a_request_that_must_not_be_sent_twice_shows_the_failure(duel: Duel) -> None:
    duel.green.answer = status(500)

    seen = await over_http(duel, REQUESTS, {"x-crossfade-no-retry": "1"})

    assert set(seen) == {("200", "blue"), ("500", "green")}
    assert len(duel.blue.requests) + len(duel.green.requests) == REQUESTS


async def test_a_pinned_request_gets_the_answer_of_the_one_it_names_and_is_not_counted(duel: Duel) -> None:
    duel.green.answer = status(500)

    pinned = await over_http(duel, REQUESTS, {"x-crossfade-deployment": "green"})
    await over_http(duel, REQUESTS)

    assert pinned == {("500", "green"): REQUESTS}
    totals = await duel.totals(REQUESTS)
    assert totals["green"].errors == len(duel.green.requests) - REQUESTS


async def test_stables_own_failures_are_stables(duel: Duel) -> None:
    duel.blue.answer = status(500)

    seen = await over_http(duel, REQUESTS)

    assert set(seen) == {("500", "blue"), ("200", "green")}
    totals = await duel.totals(REQUESTS)
    assert (totals["blue"].requests, totals["blue"].errors) == (seen[("500", "blue")], seen[("500", "blue")])
    assert len(duel.blue.requests) == seen[("500", "blue")]


async def test_the_failure_is_shown_when_stable_would_drown(duel: Duel) -> None:
    """Of 100 requests that stable may have under way, 20 can be the candidate's."""
    await duel.set({"green": 100}, max_requests=100, timeout_ms=120_000)
    duel.green.answer, duel.blue.answer = status(500), hang

    async with asyncio.timeout(DEADLINE_S):
        asking = [asyncio.ensure_future(duel.http()) for _ in range(REQUESTS)]
        shown = [await task for task in islice(asyncio.as_completed(asking), REQUESTS - 20)]
    for task in asking:
        task.cancel()

    assert Counter(shown) == {("500", "green"): REQUESTS - 20}
    assert len(duel.blue.requests) == 20


async def test_all_traffic_on_the_candidate_is_shielded_as_well(duel: Duel) -> None:
    await duel.set({"green": 100})
    duel.green.answer = status(500)

    assert await over_http(duel, REQUESTS) == {("200", "blue"): REQUESTS}


async def test_switching_the_shield_on_and_off_under_load_fails_nothing(duel: Duel) -> None:
    async with under_load(duel.plane, duel.name) as load:
        for step in range(20):
            await duel.set(shield=GREEN_BY_BLUE if step % 2 else None)
            await load.more(20)


async def test_rolling_back_from_a_failing_candidate_under_load_fails_nothing(duel: Duel) -> None:
    """The shield stays until what was under way on the candidate has ended."""
    async with under_load(duel.plane, duel.name) as load:
        for _ in range(10):
            await duel.set(HALF)
            await load.more(20)
            duel.green.answer = status(500)
            await load.more(20)
            await duel.set({"blue": 100})
            await load.more(20)
            duel.green.answer = None
    assert set(load.answers) == {"blue", "green"}
