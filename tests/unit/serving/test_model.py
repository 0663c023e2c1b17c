"""The life of a model, from loading to stopped, with a NumPy backend."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from dataclasses import replace

import numpy as np
import pytest

from router.domain.errors import ModelUnavailable
from serving.errors import DeadlinePassed, ModelFailed, ScoringError, Unavailable
from serving.messages import InferReply, InferRequest, RequestedOutput
from serving.model import TRANSITIONS, Model, ModelSettings, ModelState
from serving.ports import Backend, ScoringModel
from tests.unit.serving.backends import POISON, WAIT_S, DoublingBackend, rows_of, until

SETTINGS = ModelSettings("fraud", "3", max_batch_size=8, max_waiting=10)


async def loaded(backend: Backend, settings: ModelSettings = SETTINGS) -> Model:
    model = Model(settings)
    await model.load(lambda: backend)
    return model


async def ask(
    model: ScoringModel, *values: float, outputs: tuple[str, ...] = (), deadline_s: float = math.inf
) -> InferReply | ScoringError:
    future: asyncio.Future[InferReply | ScoringError] = asyncio.get_running_loop().create_future()
    requested = tuple(RequestedOutput(name, binary=True) for name in outputs)
    model.infer(InferRequest("7", {"x": rows_of(*values)}, requested), deadline_s, future.set_result)
    return await asyncio.wait_for(future, WAIT_S)


async def test_a_model_is_ready_only_after_its_warm_up_has_passed() -> None:
    gate = threading.Event()
    backend = DoublingBackend(gate=gate)
    model = Model(SETTINGS)
    assert (model.state, model.is_ready) == (ModelState.LOADING, False)
    loading = asyncio.create_task(model.load(lambda: backend))
    await until(lambda: bool(backend.row_counts))
    assert (model.state, model.is_ready) == (ModelState.WARMING, False)
    refused = await ask(model, 1)
    assert isinstance(refused, Unavailable)
    assert "warming" in str(refused)
    with pytest.raises(Unavailable):
        _ = model.signature
    gate.set()
    await asyncio.wait_for(loading, WAIT_S)
    assert (model.state, model.is_ready) == (ModelState.READY, True)
    await model.close()


async def test_a_reply_carries_names_datatypes_version_and_the_request_s_id() -> None:
    model = await loaded(DoublingBackend())
    reply = await ask(model, 1, 2)
    assert isinstance(reply, InferReply)
    assert (reply.model_name, reply.model_version, reply.id) == ("fraud", "3", "7")
    assert [(name, datatype) for name, datatype, _ in reply.outputs] == [("double", "FP32"), ("sum", "FP32")]
    np.testing.assert_array_equal(reply.outputs[0][2], rows_of(2, 4))
    np.testing.assert_array_equal(reply.outputs[1][2], [2, 4])
    await model.close()


async def test_requested_outputs_come_in_the_requested_order() -> None:
    model = await loaded(DoublingBackend())
    reply = await ask(model, 1, outputs=("sum", "double"))
    assert isinstance(reply, InferReply)
    assert [name for name, _, _ in reply.outputs] == ["sum", "double"]
    await model.close()


async def test_a_failure_of_the_model_is_the_reply() -> None:
    model = await loaded(DoublingBackend())
    failed = await ask(model, POISON)
    assert isinstance(failed, ModelFailed)
    assert isinstance(await ask(model, 1), InferReply)
    assert model.statistics().fail.count == 1
    await model.close()


async def test_a_deadline_in_the_past_is_the_reply() -> None:
    model = await loaded(DoublingBackend())
    assert isinstance(await ask(model, 1, deadline_s=0.0), DeadlinePassed)
    await model.close()


async def test_a_cancelled_request_gets_no_reply() -> None:
    model = await loaded(DoublingBackend())
    replies: list[object] = []
    cancel = model.infer(InferRequest("", {"x": rows_of(1)}), math.inf, replies.append)
    cancel()
    await ask(model, 2)
    assert not replies
    assert model.statistics().success.count == 1
    await model.close()


async def test_a_model_that_is_not_batchable_answers_one_request_at_a_time() -> None:
    backend = DoublingBackend(is_batchable=False)
    model = await loaded(backend)
    assert model.max_batch_size == 0
    before = len(backend.row_counts)
    replies = await asyncio.gather(*(ask(model, value) for value in range(5)))
    assert all(isinstance(reply, InferReply) for reply in replies)
    assert backend.row_counts[before:] == [1] * 5
    await model.close()


async def test_batching_switched_off_shows_as_a_batch_size_of_zero() -> None:
    model = await loaded(DoublingBackend(), ModelSettings("fraud", "3", max_batch_size=1))
    assert (model.max_batch_size, model.signature.is_batchable) == (0, False)
    assert isinstance(await ask(model, 1, 2, 3), InferReply)
    await model.close()


async def test_batching_shows_as_the_configured_batch_size() -> None:
    model = await loaded(DoublingBackend())
    assert (model.max_batch_size, model.signature.is_batchable) == (8, True)
    await model.close()


async def test_a_backend_that_does_not_open_stops_the_model_and_says_why() -> None:
    def refuse() -> Backend:
        raise ModelUnavailable("no such file")

    model = Model(SETTINGS)
    with pytest.raises(ModelUnavailable, match="no such file"):
        await model.load(refuse)
    assert model.state is ModelState.STOPPED
    await model.close()


async def test_closing_while_the_model_loads_frees_it() -> None:
    gate = threading.Event()
    backend = DoublingBackend(gate=gate)
    model = Model(SETTINGS)
    loading = asyncio.create_task(model.load(lambda: backend))
    await until(lambda: bool(backend.row_counts))
    await model.close()
    gate.set()
    with pytest.raises(ModelUnavailable):
        await loading
    assert model.state is ModelState.STOPPED
    await until(lambda: backend.is_closed)


async def test_cancelling_the_load_frees_the_model() -> None:
    gate = threading.Event()
    backend = DoublingBackend(gate=gate)
    model = Model(SETTINGS)
    loading = asyncio.create_task(model.load(lambda: backend))
    await until(lambda: bool(backend.row_counts))
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    gate.set()
    assert model.state is ModelState.STOPPED
    await until(lambda: backend.is_closed)


async def test_an_unexpected_error_while_loading_becomes_model_unavailable() -> None:
    def crash() -> Backend:
        raise MemoryError("64 GB")

    model = Model(SETTINGS)
    with pytest.raises(ModelUnavailable, match="64 GB"):
        await model.load(crash)


async def test_a_model_that_fails_its_warm_up_is_freed() -> None:
    class Broken(DoublingBackend):
        def run(self, inputs: object, outputs: object, deadline_s: float = math.inf) -> list[np.ndarray]:
            raise ModelFailed("bad weights")

    backend = Broken()
    model = Model(SETTINGS)
    with pytest.raises(ModelUnavailable, match="bad weights"):
        await model.load(lambda: backend)
    await until(lambda: backend.is_closed)
    assert not model.is_ready
    await until(lambda: "model-fraud" not in [thread.name for thread in threading.enumerate()])


async def test_draining_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    model = await loaded(DoublingBackend())
    accepted = asyncio.create_task(ask(model, 1))
    await asyncio.sleep(0)
    draining = asyncio.create_task(model.drain())
    await asyncio.sleep(0)
    assert (model.state, model.is_ready) == (ModelState.DRAINING, False)
    assert isinstance(await ask(model, 2), Unavailable)
    await asyncio.wait_for(draining, WAIT_S)
    assert isinstance(await accepted, InferReply)
    assert model.pending == 0
    await model.close()
    assert model.state is ModelState.STOPPED


async def test_closing_leaves_no_thread_and_may_be_repeated() -> None:
    before = set(threading.enumerate())
    for settings in (SETTINGS, ModelSettings("fraud", "3", max_batch_size=1)):  # on the loop, and in a thread
        backend = DoublingBackend()
        model = await loaded(backend, settings)
        await ask(model, 1)
        await model.close()
        await model.close()
        assert backend.is_closed
        assert isinstance(await ask(model, 1), Unavailable)
    await until(lambda: set(threading.enumerate()) <= before)


async def test_statistics_count_requests_rows_and_executions_but_not_the_warm_up() -> None:
    model = await loaded(DoublingBackend())
    assert model.statistics().execution_count == 0
    await asyncio.gather(ask(model, 1), ask(model, 2, 3))
    statistics = model.statistics()
    assert (statistics.inference_count, statistics.success.count) == (3, 2)
    assert statistics.success.ns >= statistics.queue.ns > 0
    assert statistics.last_inference_ms > 0
    await model.close()


def test_every_state_has_its_transitions_and_stopped_is_the_end() -> None:
    assert set(TRANSITIONS) == set(ModelState)
    assert TRANSITIONS[ModelState.STOPPED] == frozenset()


@pytest.mark.parametrize(("source", "target"), list(itertools.product(ModelState, ModelState)))
def test_only_the_listed_transitions_happen(source: ModelState, target: ModelState) -> None:
    forward = list(ModelState)
    is_next = forward.index(target) == forward.index(source) + 1
    is_end = target is ModelState.STOPPED and source is not ModelState.STOPPED
    assert (target in TRANSITIONS[source]) == (is_next or is_end)


async def test_a_model_is_loaded_once() -> None:
    model = await loaded(DoublingBackend())
    with pytest.raises(RuntimeError, match="ready cannot be loaded"):
        await model.load(DoublingBackend)
    await model.close()


async def test_what_was_done_counts_requests_from_their_coming_to_their_answer() -> None:
    gate = threading.Event()
    gate.set()
    model = await loaded(DoublingBackend(gate=gate))
    assert (model.work_done.finished, model.work_done.pending) == (0, 0)
    await ask(model, 1)
    await ask(model, POISON)
    done = model.work_done
    assert (done.finished, done.pending) == (2, 0)
    assert done.busy_s > 0
    await model.close()


async def test_several_instances_run_side_by_side_and_all_are_closed() -> None:
    gate = threading.Event()
    gate.set()
    backends: list[DoublingBackend] = []

    def open_backend() -> Backend:
        backends.append(DoublingBackend(gate=gate))
        return backends[-1]

    model = Model(replace(SETTINGS, instances=3))
    await model.load(open_backend)
    assert len(backends) == 3
    gate.clear()
    idle = sum(len(backend.row_counts) for backend in backends)
    asked: list[asyncio.Task[InferReply | ScoringError]] = []
    for value in (1, 2, 3):
        asked.append(asyncio.create_task(ask(model, value)))
        await until(lambda: sum(len(backend.row_counts) for backend in backends) == idle + len(asked))
    assert model.pending == 3
    gate.set()
    for value, reply in zip((1, 2, 3), await asyncio.gather(*asked), strict=True):
        assert isinstance(reply, InferReply)
        np.testing.assert_array_equal(reply.outputs[0][2], rows_of(2 * value))
    await model.close()
    assert all(backend.is_closed for backend in backends)
    await until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("model-fraud")])


async def test_when_one_of_several_instances_does_not_open_the_others_are_closed() -> None:
    opened: list[DoublingBackend] = []

    def open_backend() -> Backend:
        if len(opened) == 2:
            raise ModelUnavailable("no memory left")
        opened.append(DoublingBackend())
        return opened[-1]

    model = Model(replace(SETTINGS, instances=3))
    with pytest.raises(ModelUnavailable, match="no memory left"):
        await model.load(open_backend)
    await until(lambda: all(backend.is_closed for backend in opened))


async def test_a_backend_that_can_overlap_runs_is_given_as_many_threads() -> None:
    class Overlapping(DoublingBackend):
        parallelism = 2

    gate = threading.Event()
    gate.set()
    backend = Overlapping(gate=gate)
    model = await loaded(backend)
    gate.clear()
    before = len(backend.row_counts)
    first = asyncio.create_task(ask(model, 1))
    await until(lambda: len(backend.row_counts) == before + 1)
    second = asyncio.create_task(ask(model, 2))
    await until(lambda: len(backend.row_counts) == before + 2)
    gate.set()
    assert all(isinstance(reply, InferReply) for reply in await asyncio.gather(first, second))
    await model.close()


async def test_the_protocols_priority_reaches_the_queue() -> None:
    backend = DoublingBackend(is_batchable=False)
    model = await loaded(backend)
    order: list[str] = []

    def send(id: str, priority: int) -> None:
        request = InferRequest(id, {"x": rows_of(1)}, parameters={"priority": priority})
        model.infer(request, math.inf, lambda _: order.append(id))

    for at in range(6):
        send(f"low {at}", 4)
    for at in range(6):
        send(f"high {at}", 1)
    await until(lambda: len(order) == 12)
    assert order.index("high 5") < order.index("low 2")
    await model.close()
