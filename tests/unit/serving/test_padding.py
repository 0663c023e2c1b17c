"""Requests of different lengths in one batch: where a mask is named, where it shows nowhere, and not at any price."""

from __future__ import annotations

import asyncio
import logging
import math

import numpy as np
import pytest

from serving.batcher import Batcher, Slot
from serving.batching import BatchQueue
from serving.execution import Executor
from serving.lanes import Lanes, PaddedAxis
from serving.latency import LatencyTable
from serving.messages import InferReply, InferRequest
from serving.model import Model, ModelSettings
from serving.padding import cut, joined, padded_axis
from serving.queue_limits import BatchLimits
from serving.recorder import Recorder
from serving.signature import Signature, TensorSpec
from serving.warmup import warm_up
from serving.work import Outcome, Work
from tests.unit.serving.backends import WAIT_S, DoublingBackend
from tests.unit.serving.masked import MASK, MaskedBackend, text
from tests.unit.serving.queues import FREE, Shaped, queue, taken, work

PADDED = PaddedAxis(1, ("input_ids", MASK))


def of_length(length: int, rows: int = 1, mask_length: int = 0) -> Work:
    return work(rows, input_ids=Shaped(rows, length), **{MASK: Shaped(rows, mask_length or length)})


def lengths_of_batches(*lengths: int) -> list[list[int]]:
    q = queue(ragged=("input_ids", MASK), padded=PADDED)
    for length in lengths:
        q.add(of_length(length))
    return [[each.inputs["input_ids"].shape[1] for each in batch.works] for batch in taken(q)]


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ((30, 30, 30), [[30, 30, 30]]),
        ((30, 27, 32), [[30, 27, 32]]),
        ((30, 100, 31), [[30, 31], [100]]),  # much longer: another lane
        ((1, 8, 8), [[1], [8, 8]]),  # one lane, but half of the batch of three would be padding
        ((8, 8, 8, 1), [[8, 8, 8, 1]]),  # and here a fifth
        ((5000, 4999, 9000), [[5000, 4999], [9000]]),  # beyond the last edge the cap on waste alone decides
    ],
)
def test_lengths_share_a_batch_when_little_of_it_is_padding(lengths: tuple[int, ...], batches: list[list[int]]) -> None:
    assert lengths_of_batches(*lengths) == batches


def test_at_most_a_quarter_of_a_batch_is_padding() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        for batch in lengths_of_batches(*random.integers(1, 300, 60).tolist()):
            assert sum(batch) >= 0.75 * len(batch) * max(batch)


def test_inputs_that_disagree_about_the_length_join_only_their_equals() -> None:
    q = queue(ragged=("input_ids", MASK), padded=PADDED)
    odd = [of_length(30, mask_length=29), of_length(30), of_length(30, mask_length=29)]
    for each in odd:
        q.add(each)
    assert [batch.works for batch in taken(q)] == [[odd[0], odd[2]], [odd[1]]]


def test_without_a_mask_only_equal_lengths_join() -> None:
    q = queue(ragged=("input_ids", MASK))
    for length in (30, 31, 30):
        q.add(of_length(length))
    assert [batch.rows for batch in taken(q)] == [2, 1]


def test_rows_are_padded_with_zeros_at_the_end_and_cut_back() -> None:
    whole = joined([np.full((1, 2, 3), 7), np.full((2, 1, 3), 8)], axis=1, length=2)
    np.testing.assert_array_equal(whole[0], np.full((2, 3), 7))
    np.testing.assert_array_equal(whole[1:, 0], np.full((2, 3), 8))
    np.testing.assert_array_equal(whole[1:, 1], np.zeros((2, 3)))
    np.testing.assert_array_equal(cut(whole[1:], 1, 1), np.full((2, 1, 3), 8))
    assert joined([np.ones((1, 2, 1), np.int32), np.ones((1, 2, 2), np.int32)], axis=2, length=2).dtype == np.int32


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([("x", "INT64", (-1, -1))], "the model has no input 'attention_mask', its inputs are 'x'"),
        ([(MASK, "INT64", (-1, 128))], "one free axis besides the batch"),
        ([(MASK, "INT64", (-1, -1, -1))], "one free axis besides the batch"),
        ([("x", "BYTES", (-1, -1)), (MASK, "INT64", (-1, -1))], "an input of text cannot be padded"),
    ],
)
def test_a_mask_that_says_nothing_is_no_reason_to_pad(
    inputs: list[tuple[str, str, tuple[int, ...]]], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        padded_axis(Signature(tuple(TensorSpec(*spec) for spec in inputs), (), True), MASK)


def test_all_inputs_that_are_free_along_the_mask_s_axis_are_padded_and_no_others() -> None:
    inputs = (
        TensorSpec("image", "FP32", (-1, 3, -1)),
        TensorSpec("pixels", "FP32", (-1, 5)),
        TensorSpec(MASK, "INT64", (-1, 1, -1)),
    )
    assert padded_axis(Signature(inputs, (), True), MASK) == PaddedAxis(2, ("image", MASK))


def test_warm_up_pads_a_model_that_keeps_to_its_mask(caplog: pytest.LogCaptureFixture) -> None:
    assert warm_up(MaskedBackend(), 8, MASK).padded == PADDED
    assert warm_up(MaskedBackend(), 8).padded is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (MaskedBackend(ignores_mask=True), "padding changes the output 'mean'"),
        (DoublingBackend(), "the model has no input 'attention_mask', its inputs are 'x'"),
    ],
)
def test_warm_up_switches_padding_off_and_says_why(
    backend: MaskedBackend | DoublingBackend, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert warm_up(backend, 8, MASK).padded is None
    (record,) = caplog.records
    assert "requests are not padded" in record.message
    assert record.__dict__["reason"] == reason


async def test_padded_requests_get_the_answers_they_get_alone_and_padding_is_counted() -> None:
    backend = MaskedBackend()
    recorder = Recorder()
    lanes = Lanes(LatencyTable(FREE, 8), ("input_ids", MASK), 128, PADDED)
    slot = Slot(Executor(backend, backend.signature, PADDED), None)
    batcher = Batcher([slot], BatchQueue(BatchLimits(8, 100), lanes), recorder)
    sent: list[tuple[dict[str, np.ndarray], asyncio.Future[Outcome]]] = []
    for at, length in enumerate((30, 27, 32, 100)):
        inputs = text(length, rows=1 + at % 2, first=100 * at)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        batcher.submit(Work(inputs, ("mean", "tokens"), 1 + at % 2, math.inf, 0.0, future.set_result))
        sent.append((inputs, future))
    for inputs, future in sent:
        outcome = await asyncio.wait_for(future, WAIT_S)
        assert isinstance(outcome, list)
        for got, expected in zip(outcome, MaskedBackend().run(inputs, ("mean", "tokens")), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert sorted(backend.shapes) == [(2, 100), (4, 32)]
    counters = recorder.counters(0)
    assert (counters.positions, counters.padding) == (30 + 2 * 27 + 32 + 2 * 100, 2 + 2 * 5)
    await batcher.drain()


async def test_a_model_with_a_mask_joins_different_lengths_from_request_to_reply() -> None:
    backend = MaskedBackend()
    model = Model(ModelSettings("m", "1", max_batch_size=8, padding_mask=MASK))
    await model.load(lambda: backend)
    assert model.warm_up.padded == PADDED
    requests = [text(length, first=10 * length) for length in range(20, 60)]
    replies: list[asyncio.Future[object]] = []
    for inputs in requests:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        model.infer(InferRequest("", inputs), math.inf, future.set_result)
        replies.append(future)
    for inputs, future in zip(requests, replies, strict=True):
        reply = await asyncio.wait_for(future, WAIT_S)
        assert isinstance(reply, InferReply)
        expected = MaskedBackend().run(inputs, ("tokens", "mean"))
        for (_, _, got), wanted in zip(reply.outputs, expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    await model.close()
