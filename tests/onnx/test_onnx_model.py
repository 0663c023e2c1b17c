"""Real models from warm-up to answers: a batch never changes an answer, and what must not be batched is not."""

from __future__ import annotations

import asyncio
import hashlib
import math
import platform
import time
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from adapters.onnx.backend import OnnxBackend
from adapters.onnx.options import OnnxOptions
from benchmarks.models import save, tiny_mlp, wide_mlp
from serving.batcher import Batcher, Slot
from serving.batching import BatchQueue
from serving.errors import BadRequest, ModelFailed, ScoringError
from serving.execution import Executor
from serving.lanes import Lanes
from serving.latency import LatencyTable
from serving.messages import InferReply, InferRequest
from serving.model import Model, ModelSettings
from serving.queue_limits import BatchLimits
from serving.recorder import Recorder
from serving.warmup import warm_up
from serving.work import Outcome, Work
from serving.worker import Worker

WAIT_S = 60.0
FLOAT = TensorProto.FLOAT


async def loaded(options: OnnxOptions, max_batch_size: int = 64) -> Model:
    model = Model(ModelSettings("m", "1", max_batch_size, max_waiting=5000))
    await model.load(partial(OnnxBackend, options))
    return model


async def ask(model: Model, inputs: dict[str, np.ndarray]) -> InferReply | ScoringError:
    future: asyncio.Future[InferReply | ScoringError] = asyncio.get_running_loop().create_future()
    model.infer(InferRequest("", inputs), math.inf, future.set_result)
    return await asyncio.wait_for(future, WAIT_S)


async def test_10000_concurrent_requests_of_mixed_sizes_get_the_answers_they_get_alone(tmp_path: Path) -> None:
    path = tmp_path / "mlp.onnx"
    options = OnnxOptions(str(path), tiny_mlp(path))
    random = np.random.default_rng(11)
    requests = [random.standard_normal((random.integers(1, 9), 64)).astype(np.float32) for _ in range(9986)]
    requests += [random.standard_normal((rows, 64)).astype(np.float32) for rows in (64, 65, 100, 128, 129, 200, 63) * 2]
    random.shuffle(requests)
    alone = OnnxBackend(options)
    expected = [alone.run({"x": x}, ["y"])[0] for x in requests]
    model = await loaded(options)
    assert model.warm_up.is_batchable
    replies: list[InferReply | ScoringError] = []
    for start in range(0, len(requests), 4000):
        replies += await asyncio.gather(*(ask(model, {"x": x}) for x in requests[start : start + 4000]))
    for reply, wanted in zip(replies, expected, strict=True):
        assert isinstance(reply, InferReply)
        if platform.machine() == "x86_64":
            np.testing.assert_array_equal(reply.outputs[0][2], wanted)
        else:  # other kernels may form their sums in an order that depends on the number of rows
            np.testing.assert_allclose(reply.outputs[0][2], wanted, rtol=1e-5, atol=1e-5)
    statistics = model.statistics()
    assert statistics.inference_count == sum(len(x) for x in requests)
    assert statistics.success.count == len(requests)
    assert statistics.execution_count < len(requests) / 3  # they were joined
    await model.close()


def masked_attention(path: Path, is_masked: bool = True) -> str:
    """One head of self-attention over an embedding: `token` [N,S,8] and, pooled, `text` [N,8]. Padding is masked as in
    BERT: by a large negative number before the softmax, and by the mask in the mean.
    """
    random = np.random.default_rng(9)
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", "S"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["N", "S"])
    token = helper.make_tensor_value_info("token", FLOAT, ["N", "S", 8])
    text = helper.make_tensor_value_info("text", FLOAT, ["N", 8])
    weights = {
        "table": random.standard_normal((1000, 8)).astype(np.float32),
        "q": random.standard_normal((8, 8)).astype(np.float32),
        "k": random.standard_normal((8, 8)).astype(np.float32),
        "v": random.standard_normal((8, 8)).astype(np.float32),
        "one": np.float32(1),
        "far": np.float32(-10000),
        "last": np.array([2]),
        "middle": np.array([1]),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "input_ids"], ["embedded"]),
        node("Cast", ["attention_mask"], ["real"], to=FLOAT),
        node("MatMul", ["embedded", "q"], ["queries"]),
        node("MatMul", ["embedded", "k"], ["keys"]),
        node("MatMul", ["embedded", "v"], ["values"]),
        node("Transpose", ["keys"], ["keys_t"], perm=[0, 2, 1]),
        node("MatMul", ["queries", "keys_t"], ["scores"]),
        node("Sub", ["one", "real"], ["absent"]),
        node("Mul", ["absent", "far"], ["penalty"]),
        node("Unsqueeze", ["penalty", "middle"], ["penalties"]),
        node("Add", ["scores", "penalties"] if is_masked else ["scores", "scores"], ["masked"]),
        node("Softmax", ["masked"], ["attention"], axis=-1),
        node("MatMul", ["attention", "values"], ["token"]),
        node("Unsqueeze", ["real", "last"], ["real_column"]),
        node("Mul", ["token", "real_column"], ["kept"]),
        node("ReduceSum", ["kept", "middle"], ["sums"], keepdims=0),
        node("ReduceSum", ["real_column", "middle"], ["counts"], keepdims=0),
        node("Div", ["sums", "counts"], ["text"]),
    ]
    arrays = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    return save(path, nodes, [ids, mask], [token, text], arrays)


async def test_texts_of_different_lengths_share_batches_and_get_the_answers_they_get_alone(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    options = OnnxOptions(str(path), masked_attention(path))
    random = np.random.default_rng(3)
    requests = []
    for length in random.integers(8, 129, 600):
        ids = random.integers(0, 1000, (1, length))
        requests.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    alone = OnnxBackend(options)
    expected = [alone.run(request, ["token", "text"]) for request in requests]
    model = Model(ModelSettings("m", "1", 64, max_waiting=1000, padding_mask="attention_mask"))
    await model.load(partial(OnnxBackend, options))
    assert model.warm_up.padded is not None
    replies = await asyncio.gather(*(ask(model, request) for request in requests))
    for reply, wanted in zip(replies, expected, strict=True):
        assert isinstance(reply, InferReply)
        for (_, _, got), array in zip(reply.outputs, wanted, strict=True):
            assert got.shape == array.shape
            np.testing.assert_allclose(got, array, rtol=0, atol=1e-5 * np.abs(array).max())
    counters = model.counters()
    assert 0 < counters.padding < counters.positions / 3
    assert model.statistics().execution_count < len(requests) / 3
    await model.close()


def test_a_model_that_does_not_use_its_mask_is_not_padded(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    backend = OnnxBackend(OnnxOptions(str(path), masked_attention(path, is_masked=False)))
    warmed = warm_up(backend, 8, "attention_mask")
    assert warmed.is_batchable
    assert warmed.padded is None
    backend.close()


async def test_the_tiny_model_runs_on_the_loop_and_the_wide_one_in_a_thread(tmp_path: Path) -> None:
    places = []
    for make in (tiny_mlp, wide_mlp):
        path = tmp_path / "model.onnx"
        model = await loaded(OnnxOptions(str(path), make(path)), max_batch_size=8)
        places.append(model.warm_up.is_inline)
        await model.close()
    assert places == [True, False]


async def test_the_loop_stays_free_while_a_model_computes(tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    model = await loaded(OnnxOptions(str(path), wide_mlp(path)), max_batch_size=8)
    rows = np.ones((8, 2048), np.float32)
    asking = asyncio.gather(*(ask(model, {"x": rows}) for _ in range(8)))
    turns = 0
    while not asking.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 50  # on the loop it would be about one turn a batch
    await asking
    await model.close()


def magika() -> OnnxOptions:
    with as_file(files("magika") / "models" / "standard_v3_3" / "model.onnx") as path:
        return OnnxOptions(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def file_like_inputs(count: int) -> list[np.ndarray]:
    """As magika's own client makes them: bytes of a file, the padding token 256 where it ends."""
    source = np.frombuffer(Path(__file__).read_bytes(), np.uint8).astype(np.int32)
    inputs = []
    for at in range(count):
        row = np.full((1, 2048), 256, np.int32)
        part = source[at * 97 :][: 300 + 150 * at]
        row[0, : len(part)] = part[:2048]
        inputs.append(row)
    return inputs


async def test_a_real_model_answers_the_same_in_a_batch_and_alone() -> None:
    backend = OnnxBackend(magika())
    inputs = file_like_inputs(8)
    expected = [backend.run({"bytes": x}, ["target_label"])[0] for x in inputs]
    worker = Worker("magika")
    lanes = Lanes(LatencyTable({1: 0.02, 2: 0.02, 4: 0.02}, 4))  # as if joining paid
    batcher = Batcher(
        [Slot(Executor(backend, backend.signature), worker)], BatchQueue(BatchLimits(4, 100), lanes), Recorder()
    )
    futures = [asyncio.get_running_loop().create_future() for _ in inputs]
    for x, future in zip(inputs, futures, strict=True):
        batcher.submit(Work({"bytes": x}, ("target_label",), 1, math.inf, time.monotonic(), future.set_result))
    outcomes: list[Outcome] = [await asyncio.wait_for(future, WAIT_S) for future in futures]
    for outcome, wanted in zip(outcomes, expected, strict=True):
        assert isinstance(outcome, list)
        # Its convolutions sum in another order when rows stand beside each other: 2e-7 on probabilities.
        np.testing.assert_allclose(outcome[0], wanted, rtol=0, atol=1e-5)
    await worker.join()
    backend.close()


def test_a_real_model_is_found_batchable_and_needs_a_thread() -> None:
    backend = OnnxBackend(magika())
    warmed = warm_up(backend, max_batch_size=8)
    assert warmed.is_batchable
    assert not warmed.is_inline
    backend.close()


def recurrent(path: Path) -> str:
    """An RNN over axis 0, batch on axis 1, all axes free: by its declaration axis 0 could be the batch."""
    random = np.random.default_rng(5)
    w, r = (numpy_helper.from_array(random.standard_normal((1, 4, 4)).astype(np.float32), name) for name in "wr")
    x = helper.make_tensor_value_info("x", FLOAT, [None, None, 4])
    y = helper.make_tensor_value_info("y", FLOAT, [None, 1, None, 4])
    return save(path, [helper.make_node("RNN", ["x", "w", "r"], ["y"], hidden_size=4)], [x], [y], [w, r])


def state_on_axis_1(path: Path) -> str:
    """Like silero-vad: the input's batch is axis 0, the state's axis 1."""
    x = helper.make_tensor_value_info("x", FLOAT, ["batch", 4])
    state = helper.make_tensor_value_info("state", FLOAT, [2, "batch", 4])
    y = helper.make_tensor_value_info("y", FLOAT, ["batch", 4])
    new = helper.make_tensor_value_info("new", FLOAT, [2, "batch", 4])
    nodes = [
        helper.make_node("Add", ["state", "x"], ["new"]),
        helper.make_node("ReduceSum", ["new", "axis"], ["y"], keepdims=0),
    ]
    return save(path, nodes, [x, state], [y, new], [numpy_helper.from_array(np.array([0]), "axis")])


def fixed_to_one(path: Path) -> str:
    """Like ddddocr: the batch axis is 1 and nothing else."""
    x = helper.make_tensor_value_info("x", FLOAT, [1, 1, 64, "width"])
    y = helper.make_tensor_value_info("y", FLOAT, [1, 1, 64, "width"])
    return save(path, [helper.make_node("Relu", ["x"], ["y"])], [x], [y])


def fixed_to_one_inside(path: Path) -> str:
    """Declared free, but a Reshape in the middle only takes one row."""
    x = helper.make_tensor_value_info("x", FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", FLOAT, ["M", 4])
    shape = numpy_helper.from_array(np.array([1, 4]), "shape")
    return save(path, [helper.make_node("Reshape", ["x", "shape"], ["y"])], [x], [y], [shape])


def random_answers(path: Path) -> str:
    x = helper.make_tensor_value_info("x", FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", FLOAT, ["N", 4])
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    return save(path, nodes, [x], [y])


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (recurrent, {"x": (3, 2, 4)}),
        (state_on_axis_1, {"x": (3, 4), "state": (2, 3, 4)}),
        (fixed_to_one, {"x": (1, 1, 64, 90)}),
        (fixed_to_one_inside, {"x": (1, 4)}),
        (random_answers, {"x": (2, 4)}),
    ],
)
async def test_models_without_a_safe_batch_axis_are_served_one_request_at_a_time(
    tmp_path: Path, make: object, inputs: dict[str, tuple[int, ...]]
) -> None:
    assert callable(make)
    path = tmp_path / "model.onnx"
    options = OnnxOptions(str(path), make(path))
    model = await loaded(options)
    assert model.max_batch_size == 0
    random = np.random.default_rng(2)
    requests = [
        {name: random.standard_normal(shape).astype(np.float32) for name, shape in inputs.items()} for _ in range(6)
    ]
    alone = OnnxBackend(options)
    outputs = [spec.name for spec in alone.signature.outputs]
    replies = await asyncio.gather(*(ask(model, request) for request in requests))
    for request, reply in zip(requests, replies, strict=True):
        assert isinstance(reply, InferReply), reply
        expected = alone.run(request, outputs)
        for (_, _, got), wanted in zip(reply.outputs, expected, strict=True):
            if make is random_answers:
                assert got.shape == wanted.shape
            else:
                np.testing.assert_array_equal(got, wanted)
    assert model.statistics().execution_count == len(requests)
    await model.close()


async def test_requests_of_different_lengths_are_answered_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "lengths.onnx"
    x = helper.make_tensor_value_info("x", FLOAT, ["N", "S"])
    y = helper.make_tensor_value_info("y", FLOAT, ["N", "S"])
    model = await loaded(OnnxOptions(str(path), save(path, [helper.make_node("Neg", ["x"], ["y"])], [x], [y])))
    assert model.max_batch_size == 64
    random = np.random.default_rng(4)
    requests = [random.random((random.integers(1, 4), random.integers(1, 6)), np.float32) for _ in range(200)]
    replies = await asyncio.gather(*(ask(model, {"x": request}) for request in requests))
    for request, reply in zip(requests, replies, strict=True):
        assert isinstance(reply, InferReply)
        np.testing.assert_array_equal(reply.outputs[0][2], -request)
    await model.close()


async def test_an_index_out_of_range_fails_its_own_request_only(tmp_path: Path) -> None:
    path = tmp_path / "lookup.onnx"
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["N", 1])
    y = helper.make_tensor_value_info("y", FLOAT, ["N", 1])
    table = numpy_helper.from_array(np.arange(200, dtype=np.float32), "table")
    model = await loaded(
        OnnxOptions(str(path), save(path, [helper.make_node("Gather", ["table", "x"], ["y"])], [x], [y], [table]))
    )
    replies = await asyncio.gather(*(ask(model, {"x": np.array([[index]])}) for index in (1, 2, 1000, 4)))
    assert [type(reply) for reply in replies] == [InferReply, InferReply, ModelFailed, InferReply]
    assert "idx=1000" in str(replies[2])
    await model.close()


async def test_text_that_is_not_utf8_fails_its_own_request_only(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, ["N", 1]) for name in "xy")
    model = await loaded(OnnxOptions(str(path), save(path, [helper.make_node("Identity", ["x"], ["y"])], [x], [y])))
    texts = [b"one", b"\xff", b"drei"]
    replies = await asyncio.gather(*(ask(model, {"x": np.array([[text]], object)}) for text in texts))
    assert [type(reply) for reply in replies] == [InferReply, BadRequest, InferReply]
    last = replies[2]
    assert isinstance(last, InferReply)
    assert last.outputs[0][2].tolist() == [[b"drei"]]
    await model.close()
