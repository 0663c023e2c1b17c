"""Asking a Triton whether a model is ready, over real sockets."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from adapters.triton.readiness import TritonReadiness
from router.domain.routing import TritonAddress
from router.domain.triton import RunningTriton, TritonServer
from tests.adapters.http_server import http_server, plain

TRITON = RunningTriton((TritonServer("t1"),), "fraud", 2)


async def asked(*answers: tuple[int, bytes] | None) -> tuple[str, str]:
    """The reason, and the path that was asked for."""
    readiness = TritonReadiness()
    async with http_server(*answers) as server:
        address = TritonAddress("127.0.0.1", urlsplit(server.url).port or 0, 1)
        reason = await readiness.why_not_ready(address, TRITON)
        path = (await server.asked.get()).path
    await readiness.close()
    return reason, path


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, b""), ""),
        ((400, plain({"error": "Model version not ready"})), "Triton says of model 'fraud': Model version not ready"),
        ((503, b"<html>"), "Triton says of model 'fraud': HTTP 503"),
        ((404, plain([1])), "Triton says of model 'fraud': HTTP 404"),
        ((302, b""), "Triton says of model 'fraud': HTTP 302"),
    ],
)
async def test_only_tritons_own_yes_is_one(answer: tuple[int, bytes], reason: str) -> None:
    assert await asked(answer) == (reason, "/v2/models/fraud/versions/2/ready")


async def test_who_does_not_answer_is_not_ready() -> None:
    readiness = TritonReadiness()
    reason = await readiness.why_not_ready(TritonAddress("127.0.0.1", 1, 2), TRITON)
    await readiness.close()
    assert reason.startswith("no answer (")


async def test_an_address_is_itself_and_an_unknown_name_is_nowhere() -> None:
    readiness = TritonReadiness()
    assert await readiness.addresses(TritonServer("10.0.0.7", 1, 2)) == (TritonAddress("10.0.0.7", 1, 2),)
    assert await readiness.addresses(TritonServer("no-such-host.invalid")) == ()
    assert TritonAddress("127.0.0.1", 8000, 8001) in await readiness.addresses(TritonServer("localhost"))
    await readiness.close()
