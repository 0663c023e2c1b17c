"""Tritons that die, hang, come back, or serve another model: nobody who scores notices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import numpy as np
import pytest
import pytest_asyncio

from router.domain.routing import Shield, Upstream
from router.domain.traffic import Mirror
from serving.exchange import HttpResponse
from tests.envoy.data_plane import DataPlane, upstream
from tests.envoy.replica import Replica, usual_answer
from tests.envoy.waiting import eventually
from tests.triton.asking import all_healthy, answering, json_request, triton_upstream, under_load
from tests.triton.models import write_repository
from tests.triton.server import Triton, started_triton

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONE = {"INPUT0": np.array([[1.5, 2.5]], dtype=np.float32)}
NEGATIVE = {"INPUT0": np.array([[-1]], dtype=np.int32)}
GREEN_BY_BLUE = Shield(candidate="green", stable="blue")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tritons(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Triton, Triton]]:
    repository = write_repository(tmp_path_factory.mktemp("pair") / "repository", "identity_fp32", "failing")
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(started_triton(repository)) for _ in range(2)]
        yield first, second


@pytest_asyncio.fixture(loop_scope="module")
async def pair(tritons: tuple[Triton, Triton]) -> tuple[Triton, Triton]:
    """Two Tritons that serve the same models, alive whatever the test before did to them."""
    for one in tritons:
        if not one.is_alive:
            await one.start()
    return tritons


async def replica(plane: DataPlane, endpoint: str) -> Replica:
    """A replica of ours, which answers as a model called `endpoint`."""
    one = await plane.replica("blue")
    one.answer = lambda request: usual_answer(endpoint, request)
    return one


def green(*tritons: Triton, model: str = "identity_fp32", timeout_ms: int = 20_000) -> Upstream:
    return triton_upstream("green", *tritons, model=model, timeout_ms=timeout_ms)


async def test_one_of_two_that_is_killed_under_load_and_comes_back_fails_nothing(
    plane: DataPlane, pair: tuple[Triton, Triton]
) -> None:
    first, second = pair
    await plane.endpoint("killed", green(first, second))
    await all_healthy(plane, "killed", 2)

    async with under_load(plane, "killed", ONE) as load:
        await load.more(100)
        await first.kill()
        await load.more(200)
        await first.start()
        await all_healthy(plane, "killed", 2)
        await load.more(100)
        await second.kill()
        await load.more(200)


async def test_one_of_two_that_hangs_under_load_fails_nothing(plane: DataPlane, pair: tuple[Triton, Triton]) -> None:
    first, second = pair
    await plane.endpoint("hung", green(first, second, timeout_ms=10_000))
    await all_healthy(plane, "hung", 2)

    async with under_load(plane, "hung", ONE) as load:
        await load.more(100)
        first.pause()
        await load.more(150)
        first.resume()
        await load.more(100)


async def test_with_one_that_is_killed_the_shield_answers_from_stable(
    plane: DataPlane, pair: tuple[Triton, Triton]
) -> None:
    alone, _ = pair
    blue = upstream("blue", await replica(plane, "shielded"))
    await plane.endpoint("shielded", blue, green(alone), traffic={"blue": 50, "green": 50}, shield=GREEN_BY_BLUE)
    await answering(plane, "shielded", "green")

    async with under_load(plane, "shielded", ONE) as load:
        await load.more(50, "blue", "green")
        await alone.kill()
        await load.more(200, "blue")


async def test_with_one_that_hangs_the_shield_answers_from_stable(
    plane: DataPlane, pair: tuple[Triton, Triton]
) -> None:
    alone, _ = pair
    blue = upstream("blue", await replica(plane, "stuck"))
    candidate = green(alone, timeout_ms=10_000)
    await plane.endpoint("stuck", blue, candidate, traffic={"blue": 50, "green": 50}, shield=GREEN_BY_BLUE)
    await answering(plane, "stuck", "green")

    async with under_load(plane, "stuck", ONE) as load:
        await load.more(50, "blue", "green")
        alone.pause()
        try:
            await load.more(30, "blue")
        finally:
            alone.resume()
        await load.more(20, "green")


async def test_what_a_triton_fails_on_is_answered_by_a_replica_in_its_own_words(
    plane: DataPlane, pair: tuple[Triton, Triton]
) -> None:
    """The second attempt has the path, the body and the token that a replica expects."""
    alone, _ = pair
    blue = await replica(plane, "fallback")
    failing = green(alone, model="failing")
    await plane.endpoint("fallback", upstream("blue", blue), failing, traffic={"green": 100}, shield=GREEN_BY_BLUE)
    await answering(plane, "fallback", "green")

    async with under_load(plane, "fallback", NEGATIVE) as load:
        await load.more(20)

    assert set(load.answers) == {"blue"}
    paths = {request.path for request in blue.requests}
    assert paths == {b"/v2/models/fallback/infer", b"/v2/models/fallback/ModelInfer"}
    await eventually(lambda: "green" in plane.meter.totals("fallback"))
    assert plane.meter.totals("fallback")["green"].errors > 0


async def test_what_a_replica_fails_on_is_answered_by_a_triton(plane: DataPlane, pair: tuple[Triton, Triton]) -> None:
    alone, _ = pair
    failing = await plane.replica("green")
    failing.answer = lambda _: HttpResponse(500, [(b"content-type", b"application/json")], [b'{"error": "no"}'])
    stable = triton_upstream("blue", alone, model="identity_fp32")
    await plane.endpoint("rescue", stable, upstream("green", failing), traffic={"green": 100}, shield=GREEN_BY_BLUE)
    await answering(plane, "rescue", "blue")

    async with under_load(plane, "rescue", ONE) as load:
        await load.more(20)

    assert set(load.answers) == {"blue"}


async def test_from_a_replica_to_a_triton_and_back_under_load_fails_nothing(
    plane: DataPlane, pair: tuple[Triton, Triton]
) -> None:
    blue = upstream("blue", await replica(plane, "moving"))
    candidate = green(*pair)

    async def move(percent: int, shield: Shield | None) -> None:
        await plane.endpoint(
            "moving", blue, candidate, traffic={"blue": 100 - percent, "green": percent}, shield=shield
        )

    await move(0, None)
    await answering(plane, "moving", "green")
    async with under_load(plane, "moving", ONE) as load:
        for percent in (10, 50, 100, 50, 0):
            await move(percent, GREEN_BY_BLUE)
            await load.more(30, *(["blue"] if percent < 100 else []), *(["green"] if percent else []))
        await move(0, None)
        await load.more(30)


async def test_a_model_that_one_of_two_unloads_or_loads_late_is_asked_of_the_other(
    plane: DataPlane, tmp_path_factory: pytest.TempPathFactory
) -> None:
    repository = write_repository(tmp_path_factory.mktemp("explicit") / "repository", "identity_fp32")
    options = ("--model-control-mode=explicit", "--load-model=identity_fp32")
    async with started_triton(repository, *options) as first, started_triton(repository, *options) as second:
        await plane.endpoint("unloaded", green(first, second))
        await all_healthy(plane, "unloaded", 2)
        async with under_load(plane, "unloaded", ONE) as load:
            await load.more(50)
            model = f"{first.http_url}/v2/repository/models/identity_fp32"
            assert (await plane.http.post(f"{model}/unload", json={})).status_code == 200
            await load.more(200)
            await first.kill()
            first.options = options[:1]
            await first.start()
            await load.more(100)
            assert (await plane.http.post(f"{model}/load", json={})).status_code == 200
            await all_healthy(plane, "unloaded", 2)
            await second.kill()
            await load.more(100)


async def test_a_mirrored_request_reaches_a_triton_and_is_counted(
    plane: DataPlane, pair: tuple[Triton, Triton]
) -> None:
    blue = upstream("blue", await replica(plane, "watched"))
    await plane.endpoint("watched", blue, green(*pair), traffic={"blue": 100}, mirror=Mirror("green", 100))
    await answering(plane, "watched", "green")

    for _ in range(10):
        reply = await plane.http.post("/v2/models/watched/infer", json=json_request(ONE))
        assert reply.headers["x-crossfade-deployment"] == "blue"

    def counted() -> tuple[int, int]:
        totals = plane.meter.totals("watched").get("green")
        return (totals.requests, totals.errors) if totals else (0, 0)

    await eventually(counted, (10, 0))
