"""The metrics page: our own gauges, the replicas' part, and Envoy's when Envoy answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.admin_ports import DeploymentCondition, DeploymentStatus, EndpointStatus
from router.domain.routing import ReplicaState
from router.domain.traffic import Traffic
from router.metrics import MetricsPage, gateway_metrics
from router.ports import ProxyStatus
from serving.exchange import Cancel, HttpRequest, HttpResponse, Reply
from serving.listener import Listener
from tests.fake_world import replica_of
from tests.unit.router.states import deployed, state

BLUE, GREEN = deployed("blue"), deployed("green")


def test_the_page_tells_shares_in_force_replicas_proxies_and_ray() -> None:
    scaled = DeploymentStatus("blue", DeploymentCondition.READY, replicas_wanted=3, replicas_ready=2)
    status = EndpointStatus(Traffic.of({"blue": 100}), None, (scaled,), 1)
    replicas = [replica_of(BLUE, 1), replica_of(BLUE, 2), replica_of(GREEN, 1, ReplicaState.LOADING)]
    page = gateway_metrics(
        "1.2.3",
        [state({"blue": 90, "green": 10}, BLUE, GREEN)],
        lambda _name: status,
        replicas,
        [ProxyStatus("edge-1", is_up_to_date=False)],
        is_ray_connected=True,
    )
    samples = {line for line in page.splitlines() if not line.startswith("#")}
    labels = 'endpoint="fraud",deployment='
    assert samples >= {
        'crossfade_info{version="1.2.3"} 1',
        "crossfade_ray_connected 1",
        'crossfade_proxy_up_to_date{proxy="edge-1"} 0',
        # What is in force, not what was asked for.
        f'crossfade_traffic_percent{{{labels}"blue"}} 100',
        f'crossfade_traffic_percent{{{labels}"green"}} 0',
        f'crossfade_replicas{{{labels}"blue",state="ready"}} 2',
        f'crossfade_replicas_wanted{{{labels}"blue"}} 3',
        f'crossfade_replicas{{{labels}"green",state="loading"}} 1',
        f'crossfade_replicas{{{labels}"green",state="ready"}} 0',
    }
    assert page.endswith("\n")
    names = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[MetricsPage]:
    async def gather() -> str:
        return "replicas 3\n"

    page = MetricsPage(str(tmp_path / "envoy"), lambda: "own 1\n", gather)
    yield page
    await page.close()


async def ask(page: MetricsPage, method: bytes = b"GET", path: bytes = b"/metrics") -> tuple[int, bytes]:
    answered: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()
    page.handler()(HttpRequest(method, path, {}, b""), answered.set_result)
    response = await asyncio.wait_for(answered, 30)
    return response.status, b"".join(response.body)


async def test_the_replicas_part_and_envoys_follow_ours(page: MetricsPage, tmp_path: Path) -> None:
    def envoy(request: HttpRequest, reply: Reply) -> Cancel | None:
        reply(HttpResponse(200, [], [b"envoy 2\n" if request.path == b"/stats/prometheus" else b""]))
        return None

    listener = Listener(envoy, b"", 1000)
    await listener.open_unix(str(tmp_path / "envoy"))
    assert await ask(page) == (200, b"own 1\nreplicas 3\nenvoy 2\n")
    await listener.close(grace_s=0)


async def test_without_envoy_the_rest_is_served(page: MetricsPage) -> None:
    assert await ask(page) == (200, b"own 1\nreplicas 3\n")


@pytest.mark.parametrize("part", ["own", "replicas"])
async def test_a_part_that_fails_is_left_out_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    def text(whose: str) -> str:
        if whose == part:
            raise RuntimeError("out of luck")
        return f"{whose} 1\n"

    async def gather() -> str:
        return text("replicas")

    page = MetricsPage(str(tmp_path / "envoy"), lambda: text("own"), gather)
    assert await ask(page) == (200, b"replicas 1\n" if part == "own" else b"own 1\n")
    assert "out of luck" in caplog.text
    await page.close()


async def test_other_paths_and_methods_are_refused(page: MetricsPage) -> None:
    assert (await ask(page, path=b"/"))[0] == 404
    assert (await ask(page, method=b"POST"))[0] == 405


async def test_a_caller_who_leaves_ends_the_question_to_envoy(page: MetricsPage, tmp_path: Path) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    def silent_envoy(_request: HttpRequest, _reply: Reply) -> Cancel | None:
        asked.set()
        return left.set

    listener = Listener(silent_envoy, b"", 1000)
    await listener.open_unix(str(tmp_path / "envoy"))
    answers: list[HttpResponse] = []
    cancel = page.handler()(HttpRequest(b"GET", b"/metrics", {}, b""), answers.append)
    assert cancel is not None
    await asyncio.wait_for(asked.wait(), 30)
    cancel()
    await asyncio.wait_for(left.wait(), 30)
    assert answers == []
    await listener.close(grace_s=0)
