"""A client of the admin API in this process, with the fakes behind it at hand."""

from __future__ import annotations

from typing import Any

import httpx

from router.api import create_app
from tests.fake_rollouts import TwoPairs
from tests.fakes import TOKEN, Bench, FixedGateway, FixedLogs

SPECS = [
    {"kind": "Endpoint", "name": "e", "traffic": {"blue": 100}, "mirror_traffic": {"green": 5}},
    {"kind": "Deployment", "name": "blue", "endpoint": "e", "model": "file:/blue.onnx"},
    {"kind": "Deployment", "name": "green", "endpoint": "e", "model": "file:/green.onnx", "model_version": "2"},
]


class Admin:
    """A client of the API, with the fakes behind it at hand."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.gateway = FixedGateway()
        self.app = create_app(self.bench.services(self.gateway, FixedLogs(), TwoPairs()))
        self.http = self.client({"authorization": f"Bearer {TOKEN}"})

    def client(self, headers: dict[str, str]) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://admin", headers=headers)

    async def apply(self, *specs: dict[str, Any], **keys: Any) -> httpx.Response:
        return await self.http.post("/api/v1/apply", json={"documents": list(specs), **keys})


def error_of(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert error["code"] == code
    assert error["message"]
    return error
