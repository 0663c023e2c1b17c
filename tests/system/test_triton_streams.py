"""tritonclient's streams, of both its gRPC clients, as its users have them."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
from tritonclient.utils import InferenceServerException

from tests.system.gateway import Gateway

WAIT_S = 60.0
ROWS = np.random.default_rng(1).standard_normal((300, 1, 64)).astype(np.float32)


def tensor(name: str, datatype: str, value: np.ndarray) -> Any:
    made = triton_grpc.InferInput(name, list(value.shape), datatype)
    made.set_data_from_numpy(value)
    return made


def inputs(number: int) -> list[Any]:
    return [tensor("x", "FP32", ROWS[number])]


class Answers:
    """What a synchronous client's stream calls back with."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Any, InferenceServerException | None]] = queue.Queue()

    def __call__(self, result: Any, error: InferenceServerException | None) -> None:
        self._queue.put((result, error))

    def next(self) -> tuple[Any, InferenceServerException | None]:
        return self._queue.get(timeout=WAIT_S)


def output(result: Any) -> np.ndarray:
    return result.as_numpy(result.get_response().outputs[0].name)


def test_a_stream_answers_in_order_what_single_requests_are_answered(shared: Gateway) -> None:
    with triton_grpc.InferenceServerClient(shared.grpc) as client:
        answers = Answers()
        client.start_stream(answers)
        for number in range(len(ROWS)):
            client.async_stream_infer("mlp", inputs(number), request_id=str(number), enable_empty_final_response=True)
        client.stop_stream()
        for number in range(len(ROWS)):
            result, error = answers.next()
            assert error is None
            response = result.get_response()
            assert response.id == str(number)
            assert response.parameters["triton_final_response"].bool_param
            if number % 50 == 0:
                expected = output(client.infer("mlp", inputs(number)))
                np.testing.assert_allclose(output(result), expected, rtol=1e-4, atol=1e-6)


def test_errors_and_late_answers_come_in_their_place_and_the_stream_goes_on(shared: Gateway) -> None:
    with triton_grpc.InferenceServerClient(shared.grpc) as client:
        answers = Answers()
        client.start_stream(answers)
        client.async_stream_infer("mlp", inputs(0))
        client.async_stream_infer("mlp", [tensor("y", "FP32", ROWS[0])])
        client.async_stream_infer("slow", [tensor("steps", "INT64", np.array([1], np.int64))])
        client.async_stream_infer("mlp", inputs(1))
        errors = [error for _, error in (answers.next() for _ in range(4))]
        client.stop_stream()
    assert [str(error) for error in errors] == ["None", str(errors[1]), "unknown model 'slow'", "None"]
    assert "'y'" in str(errors[1])


def test_a_stream_to_a_model_that_nobody_knows_ends_with_its_status(shared: Gateway) -> None:
    with triton_grpc.InferenceServerClient(shared.grpc) as client:
        answers = Answers()
        client.start_stream(answers)
        client.async_stream_infer("nobody", inputs(0))
        _, error = answers.next()
        client.stop_stream(cancel_requests=True)
    assert error is not None
    assert error.status() == "StatusCode.NOT_FOUND"
    assert error.message() == "unknown model 'nobody'"


@pytest.mark.parametrize("version", ["", "blue"])
async def test_the_asynchronous_client_streams_as_well(shared: Gateway, version: str) -> None:
    deployed = shared.admin.deployment("mlp", "blue")["model_version"] if version else ""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(100):
            yield {
                "model_name": "mlp",
                "model_version": deployed,
                "inputs": inputs(number),
                "request_id": str(number),
            }

    async with triton_grpc_aio.InferenceServerClient(shared.grpc) as client:
        answered = [(result.get_response().id, error) async for result, error in client.stream_infer(requests())]
    assert answered == [(str(number), None) for number in range(100)]
