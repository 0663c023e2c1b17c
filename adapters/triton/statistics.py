"""What a Triton counts of a model. Implements `router.triton_reports.TritonStatistics`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import httpx
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2

from adapters.triton.secured import calls_over_tls
from adapters.triton.tokens import shown_to
from router.domain.routing import TritonAddress
from router.domain.triton import RunningTriton
from router.domain.triton_managed import ManagedModel
from router.domain.triton_report import TritonAnswer, TritonCounts

_TIMEOUT_S = 2.0


class TritonStatisticsClient:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(verify=False),  # plain HTTP: nothing to verify
            timeout=_TIMEOUT_S,
            headers={"user-agent": "crossfade"},
        )

    async def ask(self, address: TritonAddress, triton: RunningTriton | ManagedModel) -> TritonAnswer | None:
        try:
            if isinstance(triton, ManagedModel):
                return await self._asked_over_http(address, triton.path, {})
            if triton.tls is not None:
                return await _asked_over_grpc(address, triton)
            return await self._asked_over_http(address, triton.path, shown_to(triton, is_grpc=False))
        except (httpx.HTTPError, grpc.aio.AioRpcError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    async def close(self) -> None:
        await self._client.aclose()

    async def _asked_over_http(self, address: TritonAddress, path: str, shown: Mapping[str, str]) -> TritonAnswer:
        """`path`: the model's. `shown`: headers that the server wants to see."""
        url = f"http://{address.ip}:{address.http_port}"
        server = await self._client.get(f"{url}/v2", headers=shown)
        statistics = await self._client.get(f"{url}{path}/stats", headers=shown)
        return TritonAnswer(
            str(json.loads(server.text)["version"]), _counts(json.loads(statistics.text)["model_stats"])
        )


async def _asked_over_grpc(address: TritonAddress, triton: RunningTriton) -> TritonAnswer:
    assert triton.tls is not None
    shown = tuple(shown_to(triton, is_grpc=True).items())
    async with calls_over_tls(address, triton.tls) as stub:
        server = await stub.ServerMetadata(service_pb2.ServerMetadataRequest(), metadata=shown, timeout=_TIMEOUT_S)
        question = service_pb2.ModelStatisticsRequest(name=triton.model, version=str(triton.version or ""))
        statistics = await stub.ModelStatistics(question, metadata=shown, timeout=_TIMEOUT_S)
    found = MessageToDict(statistics, preserving_proto_field_name=True)
    return TritonAnswer(server.version, _counts(found.get("model_stats", [])))


def _counts(versions: Iterable[Mapping[str, Any]]) -> TritonCounts:
    """Of all versions of the model together. gRPC leaves out what is zero. Raises when it is nothing of the kind."""

    def total(what: str, unit: str) -> int:
        return sum(int(one.get("inference_stats", {}).get(what, {}).get(unit, 0)) for one in versions)

    return TritonCounts(
        successes=total("success", "count"),
        failures=total("fail", "count"),
        executions=sum(int(one.get("execution_count", 0)) for one in versions),
        queue_s=total("queue", "ns") / 1e9,
        input_s=total("compute_input", "ns") / 1e9,
        infer_s=total("compute_infer", "ns") / 1e9,
        output_s=total("compute_output", "ns") / 1e9,
    )
