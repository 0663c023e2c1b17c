"""Who answers: weights, pins, versions, mirrors, and what replies say about it."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import grpc
import httpx
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2

from benchmarks.changes import Splits
from benchmarks.load import INFER_METHOD
from benchmarks.payloads import Payload
from tests.system.asking import over_grpc, over_http
from tests.system.gateway import SETTLE_TIMEOUT_S, Gateway, eventually

WEIGHTS = (0, 3, 25, 50, 90, 100)
PINS = ("x-crossfade-deployment", "azureml-model-deployment")
INFER = "/v2/models/mlp/infer"


async def test_every_split_is_right_as_soon_as_it_is_acknowledged(shared: Gateway, payload: Payload) -> None:
    splits = Splits()
    for blue in WEIGHTS:
        percents = {"blue": blue, "green": 100 - blue}
        shared.set_traffic(percents)
        splits.add(await over_http(shared, payload, 300), percents)
        splits.add(await over_grpc(shared, payload, 300), percents)
    assert not splits.unexpected
    # One more than chance explains once in a thousand times: a right splitter must never fail a build.
    assert len(splits.outside) <= splits.allowed_outside + 1, splits.outside
    assert abs(splits.bias_sigmas) <= 5


@pytest.mark.parametrize("header", PINS)
async def test_a_pin_reaches_its_deployment_also_at_weight_0(shared: Gateway, payload: Payload, header: str) -> None:
    shared.set_traffic({"blue": 100})
    for deployment in ("blue", "green"):
        pin = {header: deployment}
        assert await over_http(shared, payload, 5, pin) == Counter({deployment: 5})
        assert await over_grpc(shared, payload, 5, pin) == Counter({deployment: 5})


async def test_a_deployment_without_any_traffic_anywhere_answers_its_pin(shared: Gateway, payload: Payload) -> None:
    shared.set_traffic({})
    assert await over_http(shared, payload, 5, {PINS[0]: "green"}) == Counter({"green": 5})
    refused = await asyncio.to_thread(httpx.post, shared.url + INFER, content=payload.body)
    assert refused.status_code == 404
    assert refused.json() == {"error": "endpoint 'mlp' has no deployment with traffic"}


async def test_a_version_pins_by_path_and_by_message(shared: Gateway, payload: Payload) -> None:
    shared.set_traffic({"blue": 100})
    path = "/v2/models/mlp/versions/green/infer"
    assert await over_http(shared, payload, 5, path=path) == Counter({"green": 5})
    message = service_pb2.ModelInferRequest.FromString(payload.message)
    message.model_version = "green"
    pinned = replace(payload, message=message.SerializeToString())
    assert await over_grpc(shared, pinned, 5) == Counter({"green": 5})


@pytest.mark.parametrize(
    ("path", "headers", "model", "version", "reason"),
    [
        (INFER, {PINS[0]: "amber"}, "mlp", "", "endpoint 'mlp' has no deployment 'amber'"),
        (INFER, {PINS[1]: "amber"}, "mlp", "", "endpoint 'mlp' has no deployment 'amber'"),
        ("/v2/models/mlp/versions/9/infer", {}, "mlp", "9", "endpoint 'mlp' has no such model version"),
    ],
)
def test_who_is_not_there_is_not_found_and_the_error_names_it(
    shared: Gateway, payload: Payload, path: str, headers: dict[str, str], model: str, version: str, reason: str
) -> None:
    reply = httpx.post(shared.url + path, content=payload.body, headers=headers)
    assert (reply.status_code, reply.json()) == (404, {"error": reason})
    assert _grpc_refusal(shared, payload, headers, model, version) == (grpc.StatusCode.NOT_FOUND, reason)


def test_an_unknown_endpoint_is_not_found(shared: Gateway, payload: Payload) -> None:
    reply = httpx.post(f"{shared.url}/v2/models/nobody/infer", content=payload.body)
    assert reply.status_code == 404
    assert "nobody" in reply.json()["error"]
    code, reason = _grpc_refusal(shared, payload, {}, "nobody", "")
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "unknown model 'nobody'")


def test_every_reply_carries_the_request_id_that_came_or_a_new_one(shared: Gateway, payload: Payload) -> None:
    shared.set_traffic({"blue": 100})
    named = httpx.post(shared.url + INFER, content=payload.body, headers={"x-request-id": "order-66"})
    assert named.headers["x-request-id"] == "order-66"
    made = {httpx.post(shared.url + INFER, content=payload.body).headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    assert all(made)
    with grpc.insecure_channel(shared.grpc) as channel:
        call = channel.unary_unary(INFER_METHOD)
        _, answered = call.with_call(payload.message, timeout=10, metadata=[("x-request-id", "order-67")])
        assert dict(answered.initial_metadata())["x-request-id"] == "order-67"


async def test_score_is_another_word_for_infer(shared: Gateway, payload: Payload) -> None:
    shared.set_traffic({"blue": 100})
    path = "/endpoints/mlp/score"
    assert await over_http(shared, payload, 3, path=path) == Counter({"blue": 3})
    assert await over_http(shared, payload, 3, {PINS[1]: "green"}, path=path) == Counter({"green": 3})


async def test_a_mirror_gets_copies_and_changes_no_answer(shared: Gateway, payload: Payload) -> None:
    shared.set_traffic({"blue": 100}, mirror={"green": 100})
    before = _successes(shared, "green")
    assert await over_http(shared, payload, 20) == Counter({"blue": 20})
    assert await over_grpc(shared, payload, 20) == Counter({"blue": 20})
    eventually(
        lambda: _successes(shared, "green") == before + 40, SETTLE_TIMEOUT_S, lambda: str(_successes(shared, "green"))
    )
    shared.set_traffic({"blue": 100})
    after = _successes(shared, "green")
    await over_http(shared, payload, 20)
    assert _successes(shared, "green") == after


def test_metrics_tell_the_shares_in_force_and_what_envoy_and_the_replicas_counted(
    shared: Gateway, payload: Payload
) -> None:
    shared.set_traffic({"blue": 70, "green": 30})
    httpx.post(shared.url + INFER, content=payload.body, headers={"x-crossfade-deployment": "blue"}, timeout=30)
    page = ""

    def is_told() -> bool:
        """A replica that is busy for a second is left out; those of a Ray that a test before has killed still stand."""
        nonlocal page
        page = httpx.get(f"http://127.0.0.1:{shared.ports.metrics}/metrics", timeout=30).text
        is_alone = 'crossfade_replicas{endpoint="mlp",deployment="blue",state="ready"} 1\n' in page
        return is_alone and 'crossfade_model_requests_total{endpoint="mlp",deployment="blue",' in page

    eventually(is_told, SETTLE_TIMEOUT_S, lambda: page)
    assert 'crossfade_traffic_percent{endpoint="mlp",deployment="green"} 30\n' in page
    assert "crossfade_ray_connected 1\n" in page
    assert "envoy_http_downstream_rq_total" in page
    (answered,) = re.findall(
        r'crossfade_model_requests_total\{endpoint="mlp",deployment="blue",replica="\w+",outcome="succeeded"\} (\d+)',
        page,
    )
    assert int(answered) >= 1
    assert page.count("# TYPE crossfade_model_request_seconds histogram\n") == 1


def test_every_request_leaves_a_line_in_the_access_log(shared: Gateway, payload: Payload) -> None:
    httpx.post(shared.url + INFER, content=payload.body, headers={"x-request-id": "find-me"})
    log = shared.data_dir / "logs" / "access.jsonl"
    eventually(lambda: "find-me" in log.read_text(), SETTLE_TIMEOUT_S)
    line: dict[str, Any] = next(
        entry for entry in map(json.loads, log.read_text().splitlines()) if "find-me" in entry.values()
    )
    assert 200 in line.values()


def _successes(gateway: Gateway, deployment: str) -> int:
    with triton_grpc.InferenceServerClient(gateway.grpc) as client:
        headers = {PINS[0]: deployment}
        answer = client.get_inference_statistics("mlp", headers=headers, as_json=True)
    return int(answer["model_stats"][0]["inference_stats"]["success"].get("count", 0))


def _grpc_refusal(
    gateway: Gateway, payload: Payload, headers: dict[str, str], model: str, version: str
) -> tuple[grpc.StatusCode, str]:
    message = service_pb2.ModelInferRequest.FromString(payload.message)
    message.model_name, message.model_version = model, version
    with (
        grpc.insecure_channel(gateway.grpc) as channel,
        pytest.raises(grpc.RpcError) as refusal,
    ):
        channel.unary_unary(INFER_METHOD)(message.SerializeToString(), timeout=10, metadata=tuple(headers.items()))
    return refusal.value.code(), refusal.value.details()
