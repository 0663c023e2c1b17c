"""The benchmark's floor runs the model, and counts requests."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.bare import BATCH_SIZES, BareLoop
from benchmarks.models import tiny_mlp


@pytest.fixture
def loop(tmp_path: Path) -> BareLoop:
    tiny_mlp(tmp_path / "mlp.onnx")
    return BareLoop(tmp_path / "mlp.onnx", [{"x": np.ones((1, 64), np.float32)}])


def test_a_run_of_a_batch_counts_as_many_requests(loop: BareLoop) -> None:
    loop.batch = 8
    load = loop.run(0.01)
    assert load.requests > 0
    assert load.requests % 8 == 0
    assert loop.cpu_s()["bare"] > 0


def test_rows_alone_have_the_scores_that_they_have_together(loop: BareLoop) -> None:
    alone = loop.scores({"x": np.ones((1, 64), np.float32)})
    together = loop.scores({"x": np.ones((3, 64), np.float32)})
    assert alone.shape == (1, 10)
    np.testing.assert_allclose(together, np.repeat(alone, 3, axis=0), rtol=1e-5, atol=1e-6)


def test_the_best_batch_is_one_of_those_tried_and_stays_set(loop: BareLoop) -> None:
    best = loop.choose_best_batch()
    assert best in BATCH_SIZES
    assert loop.batch == best
    assert loop.single_latency_s() > 0
    assert loop.batch == best
