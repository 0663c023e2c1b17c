"""What the warm-up finds out, with NumPy backends that misbehave in one way each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

import numpy as np
import pytest

from router.domain.errors import ModelUnavailable
from serving.errors import ModelFailed
from serving.latency import LatencyTable
from serving.samples import candidates
from serving.signature import Signature, TensorSpec
from serving.warmup import has_unbounded_axis, warm_up


class FunctionBackend:
    """One FP32 input and output of three columns, computed by a function."""

    parallelism = 1
    trouble = ""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...] = (-1, 3)) -> None:
        self._function = function
        self.signature = Signature((TensorSpec("x", "FP32", shape),), (TensorSpec("y", "FP32", shape),), True)
        self.runs = 0

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], deadline_s: float = inf
    ) -> list[np.ndarray]:
        self.runs += 1
        return [self._function(inputs["x"])]

    def close(self) -> None:
        """Nothing to free."""


def only_single_rows(x: np.ndarray) -> np.ndarray:
    if len(x) > 1:
        raise ModelFailed("batch is fixed to 1")
    return x


def dynamically_quantised(x: np.ndarray) -> np.ndarray:
    scale = np.abs(x).max() / 127
    return np.asarray(np.round(x / scale) * scale, np.float32)


@pytest.mark.parametrize(
    ("what", "function", "is_batchable"),
    [
        ("independent rows", lambda x: x * 2, True),
        ("rounding in the last bits", lambda x: x * np.float32(1 + 1e-6 * len(x)), True),
        ("not-a-number answers", lambda x: x * np.nan, True),
        ("a batch fixed to 1 inside", only_single_rows, False),
        ("batch statistics", lambda x: x - x.mean(axis=0), False),
        ("recurrence along axis 0", lambda x: np.cumsum(x, axis=0), False),
        ("softmax over axis 0", lambda x: np.exp(x) / np.exp(x).sum(axis=0), False),
        ("a scale taken from the whole batch", dynamically_quantised, False),
        ("a sum over the batch", lambda x: x.sum(axis=0, keepdims=True), False),
        ("the position in the batch", lambda x: x + np.arange(len(x), dtype=np.float32)[:, None], False),
        ("rows in another order", lambda x: x[::-1], False),
        ("randomness", lambda x: x + np.random.default_rng().random(x.shape, np.float32), False),
        ("a scalar", lambda x: np.float32(x.sum()) * np.ones((), np.float32), False),
    ],
)
def test_rows_are_joined_only_when_they_do_not_touch_one_another(
    what: str, function: Callable[[np.ndarray], np.ndarray], is_batchable: bool
) -> None:
    warmed = warm_up(FunctionBackend(function), max_batch_size=8)
    assert warmed.is_batchable is is_batchable, what
    if not is_batchable:
        assert warmed.join_rows == 1


def test_a_model_with_a_memory_is_not_batched() -> None:
    calls = iter(range(1000))
    assert not warm_up(FunctionBackend(lambda x: x + next(calls)), max_batch_size=8).is_batchable


def test_without_batching_only_single_inputs_are_run() -> None:
    warmed = warm_up(FunctionBackend(lambda x: x), max_batch_size=1)
    assert not warmed.is_batchable
    assert list(warmed.latency_s) == [1]


def test_a_model_that_always_fails_is_refused_in_its_own_words() -> None:
    def broken(_: np.ndarray) -> np.ndarray:
        raise ModelFailed("weights are missing")

    with pytest.raises(ModelUnavailable, match="warm-up: weights are missing"):
        warm_up(FunctionBackend(broken), max_batch_size=8)


def test_sizes_of_free_axes_are_tried_until_the_model_runs() -> None:
    def only_eight(x: np.ndarray) -> np.ndarray:
        if x.shape[1] != 8:
            raise ModelFailed(f"cannot take {x.shape[1]}")
        return x

    warmed = warm_up(FunctionBackend(only_eight, (-1, -1)), max_batch_size=4)
    assert warmed.is_batchable
    assert not warmed.is_inline  # a client may send rows of any length


def test_a_batch_size_that_fails_is_the_end_of_measuring_and_not_of_the_model() -> None:
    def at_most_four(x: np.ndarray) -> np.ndarray:
        if len(x) > 4:
            raise ModelFailed("out of memory")
        return x

    assert list(warm_up(FunctionBackend(at_most_four), max_batch_size=64).latency_s) == [1, 2, 4]


@pytest.mark.parametrize(
    ("latency_ms", "max_batch_size", "expected"),
    [
        ({1: 2.0, 2: 2.1, 4: 2.2, 8: 2.4}, 8, 8),
        ({1: 2.0, 2: 2.1, 4: 2.2, 8: 2.4}, 64, 64),  # still winning at the last size that was tried
        ({1: 23.0, 8: 154.0}, 64, 1),  # magika: nothing gained, everybody waits
        ({1: 10.0, 2: 20.0, 4: 40.0}, 4, 1),
        ({1: 10.0, 2: 12.0, 4: 24.0, 8: 80.0}, 64, 4),  # beyond 4 it gets dearer
        ({1: 1.0}, 64, 1),  # one run took the whole budget
    ],
)
def test_requests_are_joined_as_far_as_it_is_cheaper(
    latency_ms: dict[int, float], max_batch_size: int, expected: int
) -> None:
    table = LatencyTable({rows: ms / 1000 for rows, ms in latency_ms.items()}, max_batch_size)
    assert table.join_rows == expected


@pytest.mark.parametrize(
    ("shape", "is_batchable", "expected"),
    [
        ((-1, 3), True, False),
        ((-1, -1), True, True),
        ((-1, 3), False, True),
        ((1, 3), False, False),
        ((), False, False),
    ],
)
def test_an_axis_that_clients_may_choose_is_unbounded(
    shape: tuple[int, ...], is_batchable: bool, expected: bool
) -> None:
    spec = TensorSpec("x", "FP32", shape)
    assert has_unbounded_axis(Signature((spec,), (spec,), is_batchable), is_batchable) is expected


ALL = ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "BF16", "FP32", "FP64")


@pytest.mark.parametrize("datatype", [*ALL, "BYTES"])
def test_samples_fit_the_signature_for_every_datatype(datatype: str) -> None:
    spec = TensorSpec("x", datatype, (-1, 2, -1))
    sample = next(candidates(Signature((spec,), (spec,), True)))
    three, five = sample.rows(3)["x"], sample.rows(5)["x"]
    assert three.shape[:2] == (3, 2)
    np.testing.assert_array_equal(three, five[:3])
    assert not np.array_equal(three[0], three[1])


@pytest.mark.parametrize("datatype", ["INT64", "FP32", "BOOL", "BYTES"])
def test_samples_of_scalars_are_arrays(datatype: str) -> None:
    spec = TensorSpec("x", datatype, ())
    array = next(candidates(Signature((spec,), (spec,), False))).rows(1)["x"]
    assert isinstance(array, np.ndarray)
    assert array.shape == ()


def test_samples_too_big_for_memory_are_not_tried() -> None:
    spec = TensorSpec("x", "FP32", (-1, -1, -1, -1, -1))
    sizes = [sample.axis_size for sample in candidates(Signature((spec,), (spec,), True))]
    assert sizes == [16, 8, 1, *([64] if 64**4 <= 16_000_000 else [])]
