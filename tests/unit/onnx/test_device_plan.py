"""Which batches get a CUDA graph, and why others do not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.onnx.device_plan import (
    DEPTH,
    MAX_GRAPH_BYTES,
    MAX_GRAPH_ROWS,
    GraphPlan,
    can_be_bound,
    capacity_for,
    graph_plan,
    graph_row_counts,
)
from serving.signature import Signature, TensorSpec


def signature(
    x: tuple[int, ...], y: tuple[int, ...] = (-1, 10), datatype: str = "FP32", is_batchable: bool = True
) -> Signature:
    return Signature((TensorSpec("x", datatype, x),), (TensorSpec("y", "FP32", y),), is_batchable)


def planned(model: Signature, max_batch_size: int = 8) -> GraphPlan:
    plan = graph_plan(model, max_batch_size)
    assert isinstance(plan, GraphPlan), plan
    return plan


def ones(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.ones(shape, np.float32)}


@given(st.integers(1, 65536))
def test_graphs_double_up_to_the_largest_batch_and_are_few(max_batch_size: int) -> None:
    counts = graph_row_counts(max_batch_size)
    assert counts[0] == 1
    assert counts[-1] == min(max_batch_size, MAX_GRAPH_ROWS)
    assert all(small < large <= 2 * small for small, large in pairwise(counts))
    assert len(counts) <= 10


def test_every_slot_and_number_of_rows_has_a_graph_id_of_its_own_above_zero() -> None:
    plan = planned(signature((-1, 64)), 6)
    assert plan.row_counts == (1, 2, 4, 6)
    ids = [plan.graph_id(slot, rows) for slot in range(DEPTH) for rows in plan.row_counts]
    assert sorted(ids) == list(range(1, len(ids) + 1))


def test_a_batch_takes_the_graph_of_exactly_its_rows_and_shape() -> None:
    plan = planned(signature((-1, 64)))
    assert plan.rows_of(ones(4, 64)) == 4
    assert plan.rows_of(ones(3, 64)) is None  # never padded: would other rows change the answer?
    assert plan.rows_of(ones(16, 64)) is None
    assert plan.rows_of(ones(4, 63)) is None


def test_a_model_of_fixed_shape_has_one_graph() -> None:
    plan = planned(signature((1, 3, 8), (1, 2), is_batchable=False))
    assert plan.row_counts == (0,)
    assert plan.rows_of(ones(1, 3, 8)) == 0
    assert plan.rows_of(ones(2, 3, 8)) is None


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (signature((-1, -1)), "an axis besides the batch axis is free"),
        (signature((-1, 4), (-1, -1)), "an axis besides the batch axis is free"),
        (signature((-1, 4), (1, 4), is_batchable=False), "an axis is free and is not a batch axis"),
        (signature((-1, 4), datatype="BYTES"), "the model has text tensors"),
        (signature((-1, MAX_GRAPH_BYTES)), "its tensors are too large"),
        (Signature((), (TensorSpec("y", "FP32", (1,)),), False), "the model has no inputs"),
    ],
)
def test_a_model_that_cannot_have_graphs_says_why(model: Signature, reason: str) -> None:
    assert graph_plan(model, 8) == reason


def test_batches_too_large_for_fixed_buffers_run_without_a_graph() -> None:
    row_bytes = MAX_GRAPH_BYTES // 4
    plan = planned(signature((-1, row_bytes // 4 - 10)), 64)
    assert plan.row_counts == (1, 2, 4)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_buffers_grow_rarely_and_in_pages(size: int, present: int) -> None:
    capacity = capacity_for(size, present)
    assert capacity >= max(size, present)
    assert capacity == present or (capacity >= 2 * present and (capacity % 4096 == 0 or capacity == 2 * present))


def test_text_stays_on_the_cpu() -> None:
    assert can_be_bound(signature((-1, 4)))
    assert not can_be_bound(signature((-1, 4), datatype="BYTES"))
