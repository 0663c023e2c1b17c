"""Reading what a Triton counts, over real sockets."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from adapters.triton.statistics import TritonStatisticsClient
from router.domain.routing import TritonAddress
from router.domain.triton import RunningTriton, TritonServer
from router.domain.triton_managed import ManagedModel
from router.domain.triton_report import TritonAnswer, TritonCounts
from tests.adapters.http_server import http_server, plain

TRITON = RunningTriton((TritonServer("t1"),), "fraud")
SERVER = (200, plain({"name": "triton", "version": "2.51.0"}))


def one(version: str, count: int) -> dict[str, object]:
    spent = {"count": count, "ns": count * 10**9}
    names = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    return {
        "name": "fraud",
        "version": version,
        "execution_count": count,
        "inference_stats": dict.fromkeys(names, spent),
    }


async def asked(
    *answers: tuple[int, bytes] | None, triton: RunningTriton | ManagedModel = TRITON
) -> TritonAnswer | None:
    client = TritonStatisticsClient()
    async with http_server(*answers) as server:
        found = await client.ask(TritonAddress("127.0.0.1", urlsplit(server.url).port or 0, 1), triton)
    await client.close()
    return found


async def test_the_versions_of_a_model_are_counted_together() -> None:
    statistics = (200, plain({"model_stats": [one("1", 2), one("2", 3)]}))
    expected = TritonAnswer("2.51.0", TritonCounts(5, 5, 5, 5.0, 5.0, 5.0, 5.0))
    for triton in (TRITON, ManagedModel("fraud")):
        assert await asked(SERVER, statistics, triton=triton) == expected


@pytest.mark.parametrize(
    "statistics", [(400, plain({"error": "no such model"})), (200, b"<html>"), (200, plain({"model_stats": [1]})), None]
)
async def test_what_is_no_statistics_is_no_answer(statistics: tuple[int, bytes] | None) -> None:
    assert await asked(SERVER, statistics) is None


async def test_who_is_not_there_does_not_answer() -> None:
    client = TritonStatisticsClient()
    assert await client.ask(TritonAddress("127.0.0.1", 1, 2), TRITON) is None
    await client.close()
