"""What a replica records of its answers, and when it answers a second time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np
import orjson
import pytest
from tritonclient.grpc import service_pb2

from serving.answers import Answer, Answered, Failed, Key, Record, Repeat, Unanswered
from serving.errors import DeadlinePassed, ModelFailed, Overloaded, ScoringError, Unavailable
from serving.exchange import Handler, HttpRequest, HttpResponse
from serving.messages import InferReply, InferRequest
from serving.protocol import model_handler
from serving.samples_api import PATH, read_batch, written_order
from serving.sampling import Batch, Order
from serving.witness import Witness
from tests.unit.serving.scripted_model import (
    NAME,
    NOW_S,
    VERSION,
    ScriptedModel,
    call,
    error_of,
    grpc_call,
    handler_of,
    infer,
    raw_request,
    view,
    x,
)

MARKED = {b"x-crossfade-mirrored": b"1", b"x-request-id": b"r-1"}


def ask(handler: Handler, after: int = 0, *, lease_s: float = 60.0, has_repeats: bool = False) -> Batch:
    """Order samples, and take what there is."""
    reply = call(handler, "POST", PATH, written_order(Order(1.0, lease_s, after, has_repeats)))
    assert reply.status == 200
    return read_batch(b"".join(bytes(part) for part in reply.body))


def records(handler: Handler) -> list[Record]:
    return [sampled.record for sampled in ask(handler).records]


def score(handler: Handler, headers: Mapping[bytes, bytes] = MARKED) -> HttpResponse:
    return infer(handler, x(), headers)


def _request() -> HttpRequest:
    return HttpRequest(b"POST", f"/v2/models/{NAME}/infer".encode(), dict(MARKED), orjson.dumps(x()))


def values(what: object) -> list[float]:
    assert isinstance(what, Answered)
    return what.outputs[0].values().tolist()


async def test_a_mirrored_answer_is_recorded_the_same_over_http_and_grpc() -> None:
    handler = handler_of(ScriptedModel())
    ask(handler)

    score(handler)
    grpc_call(handler, "ModelInfer", raw_request(x=np.array([[1, 2]], np.float32)), MARKED)

    http, grpc = records(handler)
    assert isinstance(http, Answer)
    assert isinstance(grpc, Answer)
    assert http.what == grpc.what
    assert values(http.what) == [1, 2]
    assert http.key.request_id == "r-1"


async def test_nothing_is_recorded_before_it_is_ordered_nor_of_requests_that_are_not_mirrored() -> None:
    handler = handler_of(ScriptedModel())

    score(handler)
    ask(handler)
    score(handler, {b"x-request-id": b"r-2"})

    assert records(handler) == []


@pytest.mark.parametrize(
    ("error", "recorded"),
    [
        (ModelFailed("division by the client's secret"), Failed("ModelFailed")),
        (Overloaded("full"), Unanswered()),
        (DeadlinePassed("late"), Unanswered()),
        (Unavailable("draining"), None),
    ],
)
async def test_an_error_is_recorded_by_its_kind_unless_the_request_goes_elsewhere(
    error: ScoringError, recorded: object
) -> None:
    handler = handler_of(ScriptedModel(answer=lambda _: error))
    ask(handler)

    score(handler)
    grpc_call(handler, "ModelInfer", raw_request(x=np.array([[1, 2]], np.float32)), MARKED)

    assert [record.what for record in records(handler) if isinstance(record, Answer)] == (
        [] if recorded is None else [recorded] * 2
    )


async def test_a_request_that_does_not_fit_the_model_is_recorded_as_refused() -> None:
    handler = handler_of(ScriptedModel())
    ask(handler)

    infer(handler, {"inputs": [{"name": "z"}]}, MARKED)
    grpc_call(handler, "ModelInfer", service_pb2.ModelInferRequest(model_name=NAME), MARKED)

    assert [record.what for record in records(handler) if isinstance(record, Answer)] == [Failed("BadRequest")] * 2


async def test_an_answer_that_cannot_be_encoded_is_a_failure() -> None:
    wrong = InferReply(NAME, VERSION, "", [("y", "FP32", np.array([["a"]], object))])
    handler = handler_of(ScriptedModel(answer=lambda _: wrong))
    ask(handler)

    assert score(handler).status == 424

    assert [record.what for record in records(handler) if isinstance(record, Answer)] == [Failed("ModelFailed")]


async def test_what_is_no_order_is_refused_and_changes_nothing() -> None:
    handler = handler_of(ScriptedModel())

    assert "not an order" in error_of(call(handler, "POST", PATH, b"{}"))
    assert call(handler, "GET", PATH).status == 405

    score(handler)
    assert records(handler) == []


async def test_the_lease_ends_by_itself_and_takes_the_records_with_it() -> None:
    witness = Witness(ScriptedModel(), lambda: NOW_S)
    witness.renew(Order(1.0, 0.001, 0, has_repeats=False))
    witness.sampling.keep(Answer(Key("r-1", 1), Unanswered()), NOW_S)

    async with asyncio.timeout(30):
        while witness.sampling.is_on:  # noqa: ASYNC110 (nothing tells of the end)
            await asyncio.sleep(0.001)

    assert witness.renew(Order(1.0, 60, 0, has_repeats=False)).records == ()


async def test_a_renewed_lease_does_not_end_when_the_first_would_have() -> None:
    witness = Witness(ScriptedModel(), lambda: NOW_S)
    witness.renew(Order(1.0, 0.001, 0, has_repeats=False))
    witness.renew(Order(1.0, 60, 0, has_repeats=False))

    ended = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, ended.set)  # timers fire in their order
    await ended.wait()

    assert witness.sampling.is_on


class _Drifting:
    """Answers every time with something else."""

    def __init__(self) -> None:
        self.answers = 0

    def __call__(self, request: InferRequest) -> InferReply:
        self.answers += 1
        return InferReply(NAME, VERSION, request.id, [("y", "FP32", np.full((1, 2), self.answers, np.float32))])


async def test_an_idle_replica_answers_a_second_time_and_the_client_gets_the_first_answer() -> None:
    handler = handler_of(ScriptedModel(answer=_Drifting()))
    ask(handler, has_repeats=True)

    reply = score(handler)
    await asyncio.sleep(0)

    assert b'"data":[1.0,1.0]' in b"".join(bytes(part) for part in reply.body)
    _, repeat = records(handler)
    assert isinstance(repeat, Repeat)
    assert (values(repeat.first), values(repeat.second)) == ([1, 1], [2, 2])


async def test_a_busy_replica_does_not_answer_a_second_time() -> None:
    model = ScriptedModel(hold=True)
    handler = handler_of(model)
    ask(handler, has_repeats=True)
    for _ in range(2):
        handler(_request(), lambda _: None)

    model.held.pop(0)()
    await asyncio.sleep(0)

    assert model.pending == 1
    assert [type(record) for record in records(handler)] == [Answer]


async def test_repeats_take_a_small_part_of_the_time() -> None:
    now_s = NOW_S
    model = ScriptedModel(hold=True)
    handler = model_handler(model, view, now_s=lambda: now_s)
    ask(handler, has_repeats=True)

    async def answered_again() -> bool:
        before = len(model.requests)
        handler(_request(), lambda _: None)
        model.held.pop()()
        await asyncio.sleep(0)
        return len(model.requests) - before == 2

    assert await answered_again()
    now_s += 0.1  # the repeat takes so long
    model.held.pop()()
    now_s += 4.9
    assert not await answered_again()
    now_s += 0.2
    assert await answered_again()
