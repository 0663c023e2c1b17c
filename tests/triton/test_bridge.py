"""A bridge before a real Triton: everything that a model can be given and give, and a Triton that goes, hangs and comes
back."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import InferenceServerClient

from adapters.triton.bridge import TritonBridge
from adapters.triton.bridge_memory import FOLDER, PREFIX, Region
from router.domain.errors import ModelUnavailable
from router.domain.triton import RunningTriton, TritonMode, TritonServer
from serving.errors import BadRequest, DeadlinePassed, ModelFailed, ScoringError, Unavailable
from serving.messages import InferReply, InferRequest
from serving.model import Model, ModelSettings
from serving.tensors import DATATYPES
from tests.envoy.waiting import DEADLINE_S
from tests.triton import bridge_models, models
from tests.triton.server import Triton, started_triton

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def triton(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Triton]:
    folder = tmp_path_factory.mktemp("bridged") / "repository"
    models.write_repository(folder, "add_sub", "failing")
    async with started_triton(bridge_models.write_bridged(folder, *bridge_models.MODELS)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Triton]:
    """One that tests may do to what they like, so long as it is well afterwards."""
    folder = tmp_path_factory.mktemp("other") / "repository"
    async with started_triton(bridge_models.write_bridged(folder, "wide")) as running:
        yield running


def running(model: str, *tritons: Triton) -> RunningTriton:
    servers = tuple(TritonServer("127.0.0.1", one.ports.http, one.ports.grpc) for one in tritons)
    return RunningTriton(servers, model, mode=TritonMode.BRIDGE)


@contextmanager
def bridge(model: str, *tritons: Triton) -> Iterator[TritonBridge]:
    opened = TritonBridge(running(model, *tritons))
    try:
        eventually(opened.connect, "")
        yield opened
    finally:
        opened.close()


def eventually(look: Callable[[], Any], *wanted: Any) -> Any:
    give_up_s = time.monotonic() + DEADLINE_S
    while (found := look()) not in wanted:
        assert time.monotonic() < give_up_s, found
        time.sleep(0.05)
    return found


def wide(*values: float) -> dict[str, np.ndarray]:
    """Rows of `wide`, which waits for as many seconds as the first value says, and adds 1."""
    return {"x": np.repeat(np.array(values, np.float32)[:, None], bridge_models.WIDTH, axis=1)}


def regions(triton: Triton) -> set[str]:
    with InferenceServerClient(f"127.0.0.1:{triton.ports.grpc}") as client:
        return set(client.get_system_shared_memory_status().regions)


def shared(opened: TritonBridge, triton: Triton, before: set[str]) -> str:
    """The only region that there was not `before`, when Triton knows it: a call does not wait long for that."""

    def known() -> set[str]:
        opened.run(wide(-1, -1, -1, -1), ["y"])
        return (files() - before) & regions(triton)

    eventually(lambda: bool(known()), True)
    (only,) = files() - before
    return only


def files() -> set[str]:
    """Of shared memory, of this process."""
    return {path.name for path in FOLDER.glob(f"{PREFIX}{os.getpid()}-*")}


def _values(datatype: str, rows: int) -> np.ndarray:
    if datatype == "BYTES":
        return np.array([[b"", b"a\0b\0", b"\xff\xfe"]] * rows, np.object_)
    dtype = DATATYPES[datatype].dtype
    if datatype == "BOOL":
        return np.array([[True, False, True]] * rows)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.array([[limits.min, limits.max, 7]] * rows, dtype)
    return np.array([[-1.5, math.inf, 3.0]] * rows, np.float32).astype(dtype)


@pytest.mark.parametrize("rows", [1, 8])
async def test_every_datatype_comes_back_as_it_went(triton: Triton, rows: int) -> None:
    inputs = {name: _values(name, rows) for name in DATATYPES}
    outputs = [f"{name}_out" for name in reversed(DATATYPES)]
    with bridge("everything", triton) as opened:
        assert {spec.name: spec.datatype for spec in opened.signature.inputs} == {name: name for name in DATATYPES}
        assert (opened.signature.is_batchable, opened.signature.max_rows) == (True, 8)
        answers = opened.run(inputs, outputs)
    for name, got in zip(outputs, answers, strict=True):
        expected = inputs[name.removesuffix("_out")]
        assert got.dtype == expected.dtype
        assert got.tolist() == expected.tolist()
    assert answers[outputs.index("BF16_out")].dtype == np.dtype(ml_dtypes.bfloat16)


async def test_batches_answer_as_single_requests_do_and_keep_to_tritons_own_limit(triton: Triton) -> None:
    model = Model(ModelSettings("sums", "1", max_batch_size=64))
    opened = TritonBridge(running("add_sub", triton))
    await asyncio.to_thread(eventually, opened.connect, "")
    await model.load(lambda: opened)
    try:
        assert model.max_batch_size == 8
        before = model.statistics().execution_count
        singles = [np.array([[number, 2 * number]], np.int32) for number in range(60)]
        answers = await asyncio.gather(*(asked(model, {"INPUT0": x, "INPUT1": x + 1}) for x in singles))
        for x, answer in zip(singles, answers, strict=True):
            assert answer["OUTPUT0"].tolist() == (2 * x + 1).tolist()
            assert answer["OUTPUT1"].tolist() == [[-1, -1]]
        assert model.statistics().execution_count - before < len(singles)
        many = np.arange(40, dtype=np.int32).reshape(20, 2)  # more than a batch: in pieces
        assert (await asked(model, {"INPUT0": many, "INPUT1": many}))["OUTPUT0"].tolist() == (2 * many).tolist()
    finally:
        await model.drain()
        await model.close()


async def test_of_a_batch_only_the_request_that_fails_gets_the_models_words(triton: Triton) -> None:
    model = Model(ModelSettings("failing", "1"))
    opened = TritonBridge(running("failing", triton))
    await asyncio.to_thread(eventually, opened.connect, "")
    await model.load(lambda: opened)
    try:
        numbers = [*range(12), -1000, *range(12)]
        asks = (asked(model, {"INPUT0": np.array([[number]], np.int32)}) for number in numbers)
        answers = await asyncio.gather(*asks, return_exceptions=True)
        for number, answer in zip(numbers, answers, strict=True):
            if number < 0:
                assert isinstance(answer, ModelFailed)
                assert str(answer) == "this model takes no negative numbers"
            else:
                assert isinstance(answer, dict)
                assert answer["OUTPUT0"].tolist() == [[number]]
    finally:
        await model.drain()
        await model.close()


async def asked(model: Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    answer: asyncio.Future[InferReply | ScoringError] = asyncio.get_running_loop().create_future()
    model.infer(InferRequest("", inputs, ()), math.inf, answer.set_result)
    reply = await asyncio.wait_for(answer, DEADLINE_S)
    if isinstance(reply, ScoringError):
        raise reply
    return {name: array for name, _, array in reply.outputs}


async def test_what_triton_will_not_be_given_is_a_bad_request_in_its_words(triton: Triton) -> None:
    nine = np.zeros((9, 1), np.int32)
    with bridge("add_sub", triton) as opened, pytest.raises(BadRequest, match="batch-size must be <= 8"):
        opened.run({"INPUT0": nine, "INPUT1": nine}, ["OUTPUT0"])


@pytest.mark.parametrize(("model", "reason"), [("decoupled", "many replies"), ("stateful", "keeps state")])
async def test_a_model_that_no_replica_can_stand_before_is_refused_with_the_way_out(
    triton: Triton, model: str, reason: str
) -> None:
    opened = TritonBridge(running(model, triton))
    with pytest.raises(ModelUnavailable, match=f"{reason}.*use triton.mode: direct"):
        eventually(opened.connect, "")
    opened.close()


async def test_a_model_that_is_not_there_is_waited_for(triton: Triton) -> None:
    opened = TritonBridge(running("nobody", triton))
    eventually(opened.connect, f"127.0.0.1:{triton.ports.grpc}: the model is not ready")
    opened.close()


async def test_large_tensors_go_through_memory_that_is_used_again_and_taken_away_in_the_end(triton: Triton) -> None:
    before = files()
    with bridge("wide", triton) as opened:
        only = shared(opened, triton, before)
        assert (FOLDER / only).stat().st_mode & 0o077 == 0
        for number in range(1, 4):
            rows = wide(*[-number] * 4)
            (y,) = opened.run(rows, ["y"])
            np.testing.assert_array_equal(y, rows["x"] + 1)
            assert files() - before == {only}
        small = opened.run(wide(-1), ["y"])[0]
        np.testing.assert_array_equal(small, wide(0)["x"])
    assert only not in files()
    eventually(lambda: only in regions(triton), False)


async def test_memory_that_a_late_answer_may_still_be_written_to_is_not_used_again(triton: Triton) -> None:
    before = files()
    with bridge("wide", triton) as opened:
        first = shared(opened, triton, before)

        def regions_after_a_late_call() -> int:
            with suppress(DeadlinePassed):
                opened.run(wide(1.0), ["y"], time.monotonic() + 0.3)
            np.testing.assert_array_equal(opened.run(wide(-2), ["y"])[0], wide(-1)["x"])
            return len(files() - before)

        # One that had no time left to be sent, or whose answer came first after all, leaves the memory free.
        eventually(regions_after_a_late_call, 2)
        assert first in files()
    assert files() == before


async def test_memory_of_a_replica_that_was_killed_is_taken_away_by_the_next(triton: Triton) -> None:
    code = "import os; from adapters.triton.bridge_memory import Region; print(Region(9).name, flush=True); os._exit(1)"
    root = Path(__file__).parent.parent.parent
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE, cwd=root)
    output, _ = await killed.communicate()
    name = output.decode().strip()
    assert (FOLDER / name).exists()
    held = Region(1 << 20)
    with InferenceServerClient(f"127.0.0.1:{triton.ports.grpc}") as client:
        client.register_system_shared_memory(name, f"/{name}", 9)
    with bridge("wide", triton):
        assert not (FOLDER / name).exists()
        eventually(lambda: name in regions(triton), False)
        assert held.name in files()  # its owner lives
    held.close()


async def test_a_triton_that_is_killed_fails_fast_and_is_found_again_with_its_memory(other: Triton) -> None:
    with bridge("wide", other) as opened:
        opened.run(wide(-1), ["y"])
        await other.kill()
        with pytest.raises(Unavailable):
            opened.run(wide(-1), ["y"])
        eventually(lambda: bool(opened.trouble), True)
        with pytest.raises(Unavailable, match="no Triton answers"):
            opened.run(wide(-1), ["y"])

        await other.start()
        eventually(lambda: opened.trouble, "")
        np.testing.assert_array_equal(opened.run(wide(-2), ["y"])[0], wide(-1)["x"])
        shared(opened, other, set())


async def test_with_another_triton_nobody_notices_that_one_is_killed_and_comes_back(
    triton: Triton, other: Triton
) -> None:
    with bridge("wide", triton, other) as opened:
        eventually(lambda: opened.parallelism, 4)
        failures: list[Exception] = []
        answered = itertools.count()
        count, is_over = 0, False

        def client() -> None:
            nonlocal count
            while not is_over:
                try:
                    np.testing.assert_array_equal(opened.run(wide(-1), ["y"])[0], wide(0)["x"])
                except Exception as error:  # any is one too many
                    failures.append(error)
                count = next(answered)

        def more() -> Awaitable[Any]:
            """When clients have been answered ten times more."""
            before = count
            return asyncio.to_thread(eventually, lambda: count >= before + 10, True)

        clients = [asyncio.create_task(asyncio.to_thread(client)) for _ in range(opened.parallelism)]
        try:
            await more()
            await other.kill()
            await more()
            await other.start()
            await asyncio.to_thread(eventually, lambda: bool(regions(other)), True)
            await more()
        finally:
            is_over = True
            await asyncio.gather(*clients)
        assert not failures, failures[:3]


async def test_one_that_hangs_costs_a_call_its_deadline_and_then_gets_none(other: Triton) -> None:
    with bridge("wide", other) as opened:
        other.pause()
        try:
            with pytest.raises(DeadlinePassed):
                opened.run(wide(-1), ["y"], time.monotonic() + 0.5)
            eventually(lambda: opened.trouble, f"127.0.0.1:{other.ports.grpc}: no answer within 2 s")
            with pytest.raises(Unavailable):
                opened.run(wide(-1), ["y"], time.monotonic() + DEADLINE_S)
        finally:
            other.resume()
        eventually(lambda: opened.trouble, "")
        np.testing.assert_array_equal(opened.run(wide(-2), ["y"])[0], wide(-1)["x"])


async def test_a_call_to_one_that_hangs_is_answered_by_another(triton: Triton, other: Triton) -> None:
    with bridge("wide", triton, other) as opened:
        other.pause()
        try:
            for _ in range(2):  # in turns
                np.testing.assert_array_equal(
                    opened.run(wide(-1), ["y"], time.monotonic() + DEADLINE_S / 4)[0], wide(0)["x"]
                )
        finally:
            other.resume()
