"""The batcher on a real event loop with a NumPy backend: who gets which answer, when, and in which thread."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from serving.batcher import Batcher, Slot
from serving.batching import BatchQueue
from serving.errors import DeadlinePassed, ModelFailed, Overloaded, Refusal, Unavailable
from serving.execution import Executor
from serving.lanes import Lanes
from serving.latency import LatencyTable
from serving.queue_limits import BatchLimits
from serving.recorder import Recorder
from serving.work import Outcome, Work
from serving.worker import Worker
from tests.unit.serving.backends import POISON, WAIT_S, DoublingBackend, rows_of, until


class Rig:
    """A batcher with everything around it."""

    def __init__(self, backend: DoublingBackend, worker: Worker | None = None, max_waiting: int = 100) -> None:
        self.backend = backend
        self.recorder = Recorder()
        self.worker = worker
        # Joining is free here, and so fast that waiting for company is never worth it.
        lanes = Lanes(LatencyTable(dict.fromkeys((1, 2, 4, 8), 1e-4), 8))
        queue = BatchQueue(BatchLimits(max_batch_rows=8, max_waiting=max_waiting), lanes)
        self.batcher = Batcher([Slot(Executor(backend, backend.signature), worker)], queue, self.recorder)

    def send(
        self, *values: float, outputs: Sequence[str] = ("double",), deadline_s: float = math.inf
    ) -> tuple[Work, asyncio.Future[Outcome]]:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        work = Work({"x": rows_of(*values)}, outputs, len(values), deadline_s, time.monotonic(), future.set_result)
        self.batcher.submit(work)
        return work, future

    async def close(self) -> None:
        await self.batcher.abandon()
        if self.worker is not None:
            await self.worker.join()


async def outcome(sent: tuple[Work, asyncio.Future[Outcome]]) -> Outcome:
    return await asyncio.wait_for(sent[1], WAIT_S)


async def arrays(sent: tuple[Work, asyncio.Future[Outcome]]) -> list[np.ndarray]:
    result = await outcome(sent)
    assert isinstance(result, list), result
    return result


@pytest.fixture(params=["inline", "thread"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def rig(place: str, backend: DoublingBackend | None = None, max_waiting: int = 100) -> Rig:
    worker = Worker("test-worker") if place == "thread" else None
    return Rig(backend or DoublingBackend(), worker, max_waiting)


async def test_requests_of_one_loop_turn_run_as_one_batch_and_each_gets_its_own_rows(place: str) -> None:
    r = rig(place)
    sent = [r.send(1), r.send(2, 3), r.send(4)]
    assert r.batcher.pending == 3
    results = [(await arrays(each))[0] for each in sent]
    assert r.backend.row_counts == [4]
    for result, expected in zip(results, [rows_of(2), rows_of(4, 6), rows_of(8)], strict=True):
        np.testing.assert_array_equal(result, expected)
    assert r.batcher.pending == 0
    await r.close()


async def test_a_lone_request_runs_at_once_and_reaches_the_backend_uncopied(place: str) -> None:
    seen: list[np.ndarray] = []

    class Remembering(DoublingBackend):
        def run(
            self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], deadline_s: float = math.inf
        ) -> list[np.ndarray]:
            seen.append(inputs["x"])
            return super().run(inputs, outputs, deadline_s)

    r = rig(place, Remembering())
    work, future = r.send(1)
    await outcome((work, future))
    assert seen[0] is work.inputs["x"]
    await r.close()


async def test_each_request_gets_the_outputs_it_asked_for_in_its_order(place: str) -> None:
    r = rig(place)
    sent = [r.send(1, outputs=("sum",)), r.send(2, outputs=("sum", "double")), r.send(3, outputs=("double",))]
    first, second, third = [await arrays(each) for each in sent]
    assert r.backend.row_counts == [3]
    np.testing.assert_array_equal(first[0], [2])
    np.testing.assert_array_equal(second[0], [4])
    np.testing.assert_array_equal(second[1], rows_of(4))
    np.testing.assert_array_equal(third[0], rows_of(6))
    await r.close()


async def test_a_request_bigger_than_a_batch_is_answered_whole(place: str) -> None:
    r = rig(place)
    values = list(range(21))
    big, small = r.send(*values, outputs=("double", "sum")), r.send(5)
    double, total = await arrays(big)
    np.testing.assert_array_equal(double, rows_of(*(2 * value for value in values)))
    np.testing.assert_array_equal(total, [2 * value for value in values])
    np.testing.assert_array_equal((await arrays(small))[0], rows_of(10))
    assert r.backend.row_counts == [8, 8, 5, 1]
    statistics = r.recorder.snapshot(0.0, 0.0)
    assert (statistics.inference_count, statistics.execution_count, statistics.success.count) == (22, 4, 2)
    await r.close()


async def test_a_big_request_that_fails_in_one_piece_fails_once_and_runs_no_further(place: str) -> None:
    r = rig(place)
    big, small = r.send(*range(10), POISON, *range(20)), r.send(5)
    assert isinstance(await outcome(big), ModelFailed)
    np.testing.assert_array_equal((await arrays(small))[0], rows_of(10))
    assert r.backend.row_counts == [8, 8, 1]
    await r.close()


@pytest.mark.parametrize("poisoned", [0, 3, 7])
async def test_a_poisonous_request_fails_alone(place: str, poisoned: int) -> None:
    r = rig(place)
    values = [POISON if at == poisoned else at for at in range(8)]
    outcomes = [await outcome(each) for each in [r.send(value) for value in values]]
    for at, result in enumerate(outcomes):
        if at == poisoned:
            assert isinstance(result, ModelFailed)
            assert str(result) == "poison"
        else:
            assert isinstance(result, list)
            np.testing.assert_array_equal(result[0], rows_of(2 * at))
    statistics = r.recorder.snapshot(0.0, 0.0)
    assert (statistics.success.count, statistics.fail.count, statistics.inference_count) == (7, 1, 7)
    await r.close()


async def test_requests_whose_backend_could_not_be_asked_are_told_so_and_not_run_again_one_by_one(place: str) -> None:
    class Unreachable(DoublingBackend):
        def run(
            self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], deadline_s: float = math.inf
        ) -> list[np.ndarray]:
            super().run(inputs, outputs, deadline_s)
            raise Unavailable("nobody answers")

    r = rig(place, Unreachable())
    outcomes = [await outcome(each) for each in [r.send(value) for value in range(8)]]
    assert [str(result) for result in outcomes] == ["nobody answers"] * 8
    assert r.backend.row_counts == [8]
    await r.close()


async def test_a_batch_may_take_until_the_last_of_its_deadlines(place: str) -> None:
    seen: list[float] = []

    class Timed(DoublingBackend):
        def run(
            self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], deadline_s: float = math.inf
        ) -> list[np.ndarray]:
            seen.append(deadline_s)
            return super().run(inputs, outputs, deadline_s)

    r = rig(place, Timed())
    start_s = time.monotonic()
    sent = [r.send(1, deadline_s=start_s + seconds) for seconds in (100, 300, 200)]
    await asyncio.gather(*(outcome(each) for each in sent))
    assert seen == [start_s + 300]
    await r.close()


async def test_when_every_request_is_poisonous_every_one_is_told(place: str) -> None:
    r = rig(place)
    outcomes = [await outcome(each) for each in [r.send(POISON) for _ in range(8)]]
    assert all(isinstance(result, ModelFailed) for result in outcomes)
    assert len(r.backend.row_counts) <= 2 * 8 - 1
    await r.close()


async def test_cancelled_work_is_not_run_and_not_answered(place: str) -> None:
    r = rig(place)
    cancelled, live = r.send(1), r.send(2)
    r.batcher.cancel(cancelled[0])
    np.testing.assert_array_equal((await arrays(live))[0], rows_of(4))
    assert r.backend.row_counts == [1]
    assert not cancelled[1].done()
    await r.close()


async def test_cancelling_a_running_request_drops_its_result_and_harms_nobody() -> None:
    gate = threading.Event()
    r = rig("thread", DoublingBackend(gate=gate))
    running, neighbour = r.send(1), r.send(2)
    await until(lambda: bool(r.backend.row_counts))
    assert r.batcher.pending == 2
    r.batcher.cancel(running[0])
    assert r.batcher.pending == 1
    gate.set()
    np.testing.assert_array_equal((await arrays(neighbour))[0], rows_of(4))
    assert not running[1].done()
    await r.close()


async def test_work_past_its_deadline_fails_without_running(place: str) -> None:
    r = rig(place)
    late, live = r.send(1, deadline_s=time.monotonic() - 1), r.send(2)
    assert isinstance(await outcome(late), DeadlinePassed)
    await outcome(live)
    assert r.backend.row_counts == [1]
    assert r.recorder.snapshot(0.0, 0.0).fail.count == 1
    await r.close()


async def test_what_arrives_while_the_slot_is_busy_forms_the_next_batch() -> None:
    gate = threading.Event()
    r = rig("thread", DoublingBackend(gate=gate))
    first = r.send(1)
    await until(lambda: bool(r.backend.row_counts))
    later = [r.send(value) for value in (2, 3, 4)]
    gate.set()
    for each in (first, *later):
        await outcome(each)
    assert r.backend.row_counts == [1, 3]
    await r.close()


async def test_a_full_queue_refuses_at_once() -> None:
    gate = threading.Event()
    r = rig("thread", DoublingBackend(gate=gate), max_waiting=2)
    sent = [r.send(1)]
    await until(lambda: bool(r.backend.row_counts))
    sent += [r.send(2), r.send(3)]
    with pytest.raises(Overloaded):
        r.send(4)
    gate.set()
    for each in sent:
        assert isinstance(await outcome(each), list)
    assert r.recorder.snapshot(0.0, 0.0).fail.count == 1
    await r.close()


async def test_draining_refuses_new_work_and_finishes_the_old() -> None:
    gate = threading.Event()
    r = rig("thread", DoublingBackend(gate=gate))
    running = r.send(1)
    await until(lambda: bool(r.backend.row_counts))
    waiting = r.send(2)
    draining = asyncio.create_task(r.batcher.drain())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        r.send(3)
    assert not draining.done()
    gate.set()
    await asyncio.wait_for(draining, WAIT_S)
    assert running[1].done()
    assert waiting[1].done()
    assert r.batcher.pending == 0
    await r.close()


async def test_abandoning_fails_what_waits_and_finishes_what_runs() -> None:
    gate = threading.Event()
    r = rig("thread", DoublingBackend(gate=gate))
    running = r.send(1)
    await until(lambda: bool(r.backend.row_counts))
    waiting = r.send(2)
    abandoning = asyncio.create_task(r.batcher.abandon())
    assert isinstance(await outcome(waiting), Unavailable)
    assert not abandoning.done()
    gate.set()
    await asyncio.wait_for(abandoning, WAIT_S)
    assert isinstance(await outcome(running), list)
    await r.close()


async def test_a_reply_callback_that_raises_costs_the_others_nothing(place: str) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    r = rig(place)

    def raises(_: Outcome) -> None:
        raise ValueError("broken client")

    r.batcher.submit(Work({"x": rows_of(1)}, ("double",), 1, math.inf, 0.0, raises))
    await outcome(r.send(2))
    await outcome(r.send(3))
    assert [str(error) for error in reported] == ["broken client"]
    await r.close()


async def test_a_backend_that_breaks_its_contract_fails_requests_and_not_the_batcher(place: str) -> None:
    class Broken(DoublingBackend):
        def run(
            self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], deadline_s: float = math.inf
        ) -> list[np.ndarray]:
            if inputs["x"][0, 0] == 1:
                raise ZeroDivisionError
            return super().run(inputs, outputs, deadline_s)

    r = rig(place, Broken())
    failed = await outcome(r.send(1))
    assert isinstance(failed, ModelFailed)
    assert "ZeroDivisionError" in str(failed)
    assert isinstance(await outcome(r.send(2)), list)
    await r.close()


class FindingBackend(DoublingBackend):
    """`double` is as wide as the biggest value of the rows, as when a model finds things: another width each run."""

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], deadline_s: float = math.inf
    ) -> list[np.ndarray]:
        super().run(inputs, outputs, deadline_s)
        x = inputs["x"]
        return [np.ones((len(x), int(x.max())), np.float32) for _ in outputs]


async def test_a_big_request_whose_pieces_do_not_fit_together_fails_and_the_next_is_answered(place: str) -> None:
    r = rig(place, FindingBackend())
    big, small = r.send(*range(20)), r.send(5)
    failed = await outcome(big)
    assert isinstance(failed, ModelFailed)
    assert str(failed) == "output 'double' has rows of shape [7] and of [15]: send at most 8 rows in a request"
    assert (await arrays(small))[0].shape == (1, 5)
    assert (await arrays(r.send(3)))[0].shape == (1, 3)
    assert r.backend.row_counts == [8, 8, 1, 1]
    await r.close()


async def test_a_batch_that_finds_no_memory_for_its_rows_fails_and_the_next_is_answered(place: str) -> None:
    r = rig(place)
    # Each as big as the address space, without any memory of its own.
    rows = np.broadcast_to(np.float32(0), (1, 2**45))
    futures: list[asyncio.Future[Outcome]] = [asyncio.get_running_loop().create_future() for _ in range(2)]
    for future in futures:
        r.batcher.submit(Work({"x": rows}, ("double",), 1, math.inf, time.monotonic(), future.set_result))
    for future in futures:
        failed = await asyncio.wait_for(future, WAIT_S)
        assert isinstance(failed, ModelFailed)
        assert "MemoryError" in str(failed)
    np.testing.assert_array_equal((await arrays(r.send(1)))[0], rows_of(2))
    assert r.recorder.snapshot(0.0, 0.0).fail.count == 2
    await r.close()


async def test_a_workers_thread_survives_a_function_that_raises() -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    worker = Worker("test-worker")
    answers: list[float] = []
    worker.submit(lambda value: 1 / value, 0, answers.append)
    worker.submit(lambda value: 1 / value, 4, answers.append)
    await until(lambda: bool(answers))
    assert answers == [0.25]
    assert [type(error) for error in reported] == [ZeroDivisionError]
    await worker.join()


async def test_a_request_sent_from_a_reply_is_answered(place: str) -> None:
    r = rig(place)
    second: list[tuple[Work, asyncio.Future[Outcome]]] = []
    first = Work({"x": rows_of(1)}, ("double",), 1, math.inf, 0.0, lambda _: second.append(r.send(2)))
    r.batcher.submit(first)
    await until(lambda: bool(second))
    np.testing.assert_array_equal((await arrays(second[0]))[0], rows_of(4))
    await r.close()


async def test_batches_run_on_the_loop_or_in_the_named_thread_and_the_thread_ends(place: str) -> None:
    r = rig(place)
    await outcome(r.send(1))
    expected = "test-worker" if place == "thread" else threading.current_thread().name
    assert r.backend.thread_names == {expected}
    await r.close()
    assert "test-worker" not in [thread.name for thread in threading.enumerate()]


async def test_a_thousand_concurrent_requests_of_mixed_sizes_all_get_their_own_answers(place: str) -> None:
    r = rig(place, max_waiting=1000)
    random = np.random.default_rng(3)
    sent = []
    for _ in range(1000):
        values = random.integers(0, 1000, random.integers(1, 20)).tolist()
        sent.append((values, r.send(*values)))
        if random.random() < 0.1:
            await asyncio.sleep(0)
    for values, each in sent:
        np.testing.assert_array_equal((await arrays(each))[0], rows_of(*(2 * value for value in values)))
    assert max(r.backend.row_counts) <= 8
    await r.close()


def several(backend: DoublingBackend, count: int) -> tuple[Batcher, list[Worker]]:
    """`count` slots, each a thread, on one backend."""
    workers = [Worker(f"test-worker-{at}") for at in range(count)]
    slots = [Slot(Executor(backend, backend.signature), worker) for worker in workers]
    lanes = Lanes(LatencyTable(dict.fromkeys((1, 2, 4, 8), 1e-4), 8))
    return Batcher(slots, BatchQueue(BatchLimits(8, 1000, slots=count), lanes), Recorder()), workers


def submit(batcher: Batcher, *values: float) -> asyncio.Future[Outcome]:
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    work = Work({"x": rows_of(*values)}, ("double",), len(values), math.inf, time.monotonic(), future.set_result)
    batcher.submit(work)
    return future


async def test_several_slots_run_at_the_same_time_and_share_one_queue() -> None:
    gate = threading.Event()
    backend = DoublingBackend(gate=gate)
    batcher, workers = several(backend, 3)
    running = []
    for value in (1, 2, 3):
        running.append(submit(batcher, value))
        await until(lambda: len(backend.row_counts) == len(running))
    waiting = [submit(batcher, value) for value in (4, 5)]
    await asyncio.sleep(0)
    assert backend.row_counts == [1, 1, 1]
    assert batcher.pending == 5
    gate.set()
    for value, future in enumerate([*running, *waiting], start=1):
        result = await asyncio.wait_for(future, WAIT_S)
        assert isinstance(result, list)
        np.testing.assert_array_equal(result[0], rows_of(2 * value))
    assert sum(backend.row_counts) == 5
    await batcher.drain()
    assert batcher.pending == 0
    for worker in workers:
        await worker.join()
    assert backend.thread_names == {"test-worker-0", "test-worker-1", "test-worker-2"}


async def test_big_and_small_requests_over_several_slots_all_get_their_own_answers() -> None:
    batcher, workers = several(DoublingBackend(), 3)
    random = np.random.default_rng(5)
    sent = []
    for _ in range(300):
        values = random.integers(0, 1000, random.integers(1, 40)).tolist()
        sent.append((values, submit(batcher, *values)))
        if random.random() < 0.2:
            await asyncio.sleep(0)
    for values, future in sent:
        result = await asyncio.wait_for(future, WAIT_S)
        assert isinstance(result, list)
        np.testing.assert_array_equal(result[0], rows_of(*(2 * value for value in values)))
    await batcher.drain()
    for worker in workers:
        await worker.join()


async def test_threads_that_take_their_own_batches_answer_each_request_once_whatever_else_happens() -> None:
    """Poisonous, cancelled, expiring and big requests meet in two threads' hands, at moments that nobody chooses."""
    backend = DoublingBackend()
    batcher, workers = several(backend, 2)
    random = np.random.default_rng(11)
    answers: dict[Work, list[Outcome]] = {}
    cancelled: set[Work] = set()
    waiting: list[Work] = []

    def send() -> None:
        values = random.integers(0, 1000, random.integers(1, 20)).astype(float).tolist()
        if random.random() < 0.1:
            values[-1] = POISON
        now_s = time.monotonic()
        deadline_s = now_s + random.uniform(0, 0.02) if random.random() < 0.2 else math.inf
        work = Work({"x": rows_of(*values)}, ("double",), len(values), deadline_s, now_s, lambda it: got.append(it))
        got = answers[work] = []
        try:
            batcher.submit(work)
        except Overloaded:
            del answers[work]
        else:
            waiting.append(work)

    for _ in range(3000):
        send()
        if random.random() < 0.2:
            work = waiting.pop(random.integers(len(waiting)))
            if not answers[work]:
                batcher.cancel(work)
                cancelled.add(work)
        if random.random() < 0.3:
            await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_S):
        await batcher.drain()
    assert batcher.pending == 0
    for worker in workers:
        await worker.join()

    for work, got in answers.items():
        assert len(got) == (work not in cancelled)
        for outcome_of_it in got:
            match outcome_of_it:
                case ModelFailed():
                    assert (work.inputs["x"] == POISON).any()
                case DeadlinePassed():
                    assert work.deadline_s < math.inf
                case list():
                    np.testing.assert_array_equal(outcome_of_it[0], work.inputs["x"] * 2)
                case _:
                    raise AssertionError(outcome_of_it)
    assert any(isinstance(got[0], list) for got in answers.values() if got)


async def test_a_batch_that_is_held_back_runs_when_its_time_is_up_or_when_company_has_come() -> None:
    backend = DoublingBackend()
    worker = Worker("test-worker")
    # By its table a slow model, so that waiting is worth a thought; the real one is fast, so the test is as well.
    lanes = Lanes(LatencyTable({1: 0.020, 2: 0.020, 4: 0.021, 8: 0.022}, 8))
    queue = BatchQueue(BatchLimits(8, 100, objective_s=60.0), lanes)
    batcher = Batcher([Slot(Executor(backend, backend.signature), worker)], queue, Recorder())
    for _ in range(60):
        futures = [submit(batcher, value) for value in (1, 2)]
        await asyncio.sleep(0)
        futures += [submit(batcher, value) for value in (3, 4)]
        for value, future in enumerate(futures, start=1):
            result = await asyncio.wait_for(future, WAIT_S)
            assert isinstance(result, list)
            np.testing.assert_array_equal(result[0], rows_of(2 * value))
    alone = submit(batcher, 9)  # nobody comes: the timer ends the waiting
    assert isinstance(await asyncio.wait_for(alone, WAIT_S), list)
    assert 4 in backend.row_counts  # those who came a turn later were waited for
    await batcher.drain()
    await worker.join()


async def test_a_request_that_would_wait_in_vain_is_refused_with_when_to_come_back() -> None:
    gate = threading.Event()
    backend = DoublingBackend(gate=gate)
    worker = Worker("test-worker")
    lanes = Lanes(LatencyTable({1: 10.0, 2: 20.0, 4: 40.0, 8: 80.0}, 8))
    recorder = Recorder()
    batcher = Batcher(
        [Slot(Executor(backend, backend.signature), worker)], BatchQueue(BatchLimits(8, 100), lanes), recorder
    )
    running = submit(batcher, 1)
    await until(lambda: bool(backend.row_counts))
    now_s = time.monotonic()
    with pytest.raises(Overloaded) as caught:
        batcher.submit(Work({"x": rows_of(2)}, ("double",), 1, now_s + 5.0, now_s, lambda _: None))
    assert caught.value.reason is Refusal.DEADLINE
    assert 5.0 < caught.value.retry_after_s < 20.0
    assert recorder.counters(0).refused[Refusal.DEADLINE] == 1
    gate.set()
    await asyncio.wait_for(running, WAIT_S)
    await batcher.drain()
    await worker.join()
