"""What must not work: models that do not load, conflicting changes, malformed requests, callers that go round Envoy."""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest

from benchmarks.load import INFER_METHOD
from benchmarks.payloads import Payload
from router.client_errors import Refused
from tests.system.asking import over_grpc, over_http
from tests.system.gateway import SETTLE_TIMEOUT_S, Gateway, deployment, eventually, write_spec

FUZZED = 300
INFER = "/v2/models/mlp/infer"


async def test_a_model_that_does_not_load_is_refused_with_everything_beside_it_and_apply_says_why(
    shared: Gateway, payload: Payload, models: Path, tmp_path: Path
) -> None:
    shared.set_traffic({"blue": 100})
    broken = deployment("mlp", "broken", models / "garbage.onnx")
    asked = {"kind": "Endpoint", "name": "mlp", "traffic": {"blue": 50, "broken": 50}}
    before = shared.admin.endpoint("mlp")["revision"]
    done = shared.run("apply", "-f", str(write_spec(tmp_path / "spec.yaml", [asked, broken])), timeout_s=90)
    assert done.returncode == 2
    assert "garbage.onnx" in done.stderr
    assert await over_http(shared, payload, 50) == Counter({"blue": 50})
    assert await over_grpc(shared, payload, 50) == Counter({"blue": 50})
    status = shared.admin.endpoint("mlp")
    assert (status["revision"], status["state"]) == (before, "ready")
    assert "broken" not in [item["name"] for item in status["deployments"]]


def test_of_conflicting_changes_exactly_one_wins(shared: Gateway) -> None:
    shared.set_traffic({"blue": 100})
    for number in range(5):
        revision = shared.admin.endpoint("mlp")["revision"]

        def change(blue: int, revision: int = revision) -> tuple[int, int]:
            """(HTTP status, percent asked for)"""
            try:
                shared.admin.change_traffic("mlp", {"traffic": {"blue": blue, "green": 100 - blue}}, revision)
            except Refused as refusal:
                return refusal.status, blue
            return 200, blue

        with ThreadPoolExecutor(8) as callers:
            outcomes = list(callers.map(change, range(10 + number, 90, 10)))
        assert sorted(status for status, _ in outcomes) == [200, *[409] * 7]
        winner = dict(outcomes)[200]
        after = shared.admin.endpoint("mlp")
        assert after["revision"] == revision + 1
        assert after["traffic"] == {"blue": winner, "green": 100 - winner}


def test_a_change_that_makes_no_sense_is_refused_whole(shared: Gateway) -> None:
    before = shared.admin.endpoint("mlp")["revision"]
    with pytest.raises(Refused) as refusal:
        shared.admin.change_traffic("mlp", {"traffic": {"blue": 60, "green": 60}})
    assert refusal.value.status == 422
    done = shared.run("endpoint", "update", "mlp", "--traffic", "blue=50 nobody=50")
    assert done.returncode == 2
    assert "nobody" in done.stderr
    assert shared.admin.endpoint("mlp")["revision"] == before


def test_whoever_goes_round_the_gateway_is_refused(shared: Gateway, payload: Payload) -> None:
    def sockets() -> list[Path]:  # killed replicas leave their socket files behind until the run ends
        return [path for path in (shared.run_dir / "replicas").glob("*.sock") if _is_listened_on(path)]

    # Those of an earlier test may be on their way out.
    eventually(lambda: len(sockets()) == len(shared.find("ServeReplica")), SETTLE_TIMEOUT_S)
    for path in sockets():
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://replica") as client:
            for headers in ({}, {"x-crossfade-gateway": "guess"}):
                reply = client.post(INFER, content=payload.body, headers=headers)
                assert reply.status_code == 403
                assert reply.json() == {"error": "requests must come through the gateway"}


def test_malformed_http_gets_only_4xx(shared: Gateway, payload: Payload) -> None:
    shared.set_traffic({"blue": 100})
    dice = random.Random(3)
    with httpx.Client(base_url=shared.url, timeout=30) as client:
        for body, headers in _bodies(dice, payload.body):
            reply = client.post(INFER, content=body, headers=headers)
            assert 400 <= reply.status_code < 500, (reply.status_code, reply.content, headers, body[:200])
            assert reply.json().keys() == {"error"}
    _still_answers(shared, payload)


def test_what_is_not_even_http_ends_the_connection_and_nothing_else(shared: Gateway, payload: Payload) -> None:
    dice = random.Random(4)
    for _ in range(40):
        with socket.create_connection(("127.0.0.1", shared.ports.http), timeout=10) as connection:
            connection.sendall(dice.randbytes(dice.randint(1, 400)) + b"\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            reply = connection.recv(65536)
            assert reply == b"" or reply.startswith(b"HTTP/1.1 4"), reply
    _still_answers(shared, payload)


def test_malformed_grpc_gets_only_codes_that_blame_the_caller(shared: Gateway, payload: Payload) -> None:
    shared.set_traffic({"blue": 100})
    dice = random.Random(5)
    blaming = {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
    codes = Counter[grpc.StatusCode]()
    with grpc.insecure_channel(shared.grpc) as channel:
        call = channel.unary_unary(INFER_METHOD)
        for _ in range(FUZZED):
            try:
                call(_damaged(dice, payload.message), timeout=30)
            except grpc.RpcError as error:
                codes[error.code()] += 1
    assert codes.keys() <= blaming, codes
    assert codes.total() > FUZZED / 2
    _still_answers(shared, payload)


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _bodies(dice: random.Random, body: bytes) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Requests none of which is right."""
    for _ in range(FUZZED // 3):
        yield body[: dice.randrange(len(body) - 1)], {}
        yield dice.randbytes(dice.randint(1, 300)), {"content-encoding": dice.choice(["gzip", "deflate", "br", "x"])}
        length = dice.choice([str(dice.randint(len(body) + 1, 10**9)), "-1", "x", "1e3", str(2**70)])
        yield body, {"inference-header-content-length": length}


def _damaged(dice: random.Random, message: bytes) -> bytes:
    match dice.randrange(3):
        case 0:
            return message[: dice.randrange(1, len(message))]
        case 1:
            return dice.randbytes(dice.randint(1, 300))
        case _:
            # The frame of the message, where names, shapes and lengths are; in the tensor a change would be right.
            at = dice.randrange(30)
            return message[:at] + dice.randbytes(3) + message[at + 3 :]


def _still_answers(gateway: Gateway, payload: Payload) -> None:
    reply = httpx.post(gateway.url + INFER, content=payload.body)
    assert reply.status_code == 200
    payload.check_json(reply.content)
    with grpc.insecure_channel(gateway.grpc) as channel:
        payload.check_grpc(channel.unary_unary(INFER_METHOD)(payload.message, timeout=10))
