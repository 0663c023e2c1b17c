"""The whole way of a batch to a device and back, with the real ONNX Runtime. The device is this machine's memory: the
bindings, addresses, lanes and graphs are those of a GPU, only ONNX Runtime's word for the device is another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from adapters.onnx.device_plan import DEPTH, GraphPlan, graph_plan
from adapters.onnx.device_run import DeviceRun
from adapters.onnx.gpu_session import run_options, signature_of
from adapters.onnx.nvidia import CudaMemory, DeviceFailed
from adapters.onnx.options import CpuSettings
from adapters.onnx.providers import CPU
from adapters.onnx.session import open_session, session_settings
from adapters.onnx.staging import Slot
from benchmarks.gpu import Contenders, compare
from benchmarks.models import save, tiny_mlp
from serving.errors import BadRequest
from serving.signature import Signature
from tests.unit.onnx.cudart import HostCudart

FLOAT = TensorProto.FLOAT


class HostMemory(CudaMemory):
    device = "cpu"


class Watched:
    """A session that remembers, of every run, the graph id, the thread, and where inputs and outputs lay."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.runs: list[tuple[int | None, str, tuple[int, ...]]] = []
        self.before_run: Callable[[], None] = lambda: None

    def io_binding(self) -> Any:
        return WatchedBinding(self._session.io_binding())

    def run_with_iobinding(self, binding: WatchedBinding, options: Any) -> None:
        self.before_run()
        graph = None if options is None else int(options.get_run_config_entry("gpu_graph_id"))
        self.runs.append((graph, threading.current_thread().name, tuple(binding.addresses)))
        self._session.run_with_iobinding(binding.binding, options)


class WatchedBinding:
    def __init__(self, binding: Any) -> None:
        self.binding = binding
        self.addresses: list[int] = []

    def bind_input(self, *arguments: Any) -> None:
        self.addresses.append(arguments[-1])
        self.binding.bind_input(*arguments)

    def bind_output(self, *arguments: Any) -> None:
        if len(arguments) > 3:
            self.addresses.append(arguments[-1])
        self.binding.bind_output(*arguments)

    def get_outputs(self) -> Any:
        return self.binding.get_outputs()


class Bench:
    """A run over a model, with everything beneath it at hand. `max_batch_size`: with graphs up to it; 0: without."""

    def __init__(self, path: Path, max_batch_size: int = 0) -> None:
        self.session = open_session(path, session_settings(CpuSettings(), is_capped=False), [CPU])
        self.signature: Signature = signature_of(self.session, path)
        self.watched = Watched(self.session)
        self.cudart = HostCudart()
        plan = graph_plan(self.signature, max_batch_size) if max_batch_size else None
        assert not isinstance(plan, str), plan
        self.plan: GraphPlan | None = plan
        self.run = DeviceRun(self.watched, self.signature, HostMemory(self.cudart), plan, run_options)
        self.captures = len(self.watched.runs)

    def check(self, x: np.ndarray) -> None:
        """The answer is bitwise the one that ONNX Runtime gives without any of this."""
        (expected,) = self.session.run(["y"], {"x": x})
        (got,) = self.run.run({"x": x}, ["y"])
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)

    @property
    def served(self) -> list[tuple[int | None, str, tuple[int, ...]]]:
        return self.watched.runs[self.captures :]


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    path = tmp_path / "mlp.onnx"
    tiny_mlp(path)
    return path


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 64)).astype(np.float32)


def test_every_size_of_batch_gets_its_own_answer_whether_or_not_there_is_a_graph(mlp: Path) -> None:
    bench = Bench(mlp, 8)
    for count in (1, 3, 8, 2, 100, 1, 5, 4, 8):
        bench.check(rows(count, count))
    graphs = [graph for graph, _, _ in bench.served]
    assert [graph == -1 for graph in graphs] == [False, True, False, False, True, False, True, False, False]


def test_every_graph_is_captured_while_loading_and_replayed_from_the_same_addresses(mlp: Path) -> None:
    bench = Bench(mlp, 8)
    assert bench.plan is not None
    captured = bench.watched.runs[: bench.captures]
    expected = [bench.plan.graph_id(lane, count) for lane in range(DEPTH) for count in (1, 2, 4, 8)]
    assert [graph for graph, _, _ in captured] == [graph for graph in expected for _ in range(3)]
    places = {graph: addresses for graph, _, addresses in captured}
    bench.check(rows(300))  # grows the other buffers
    for count in (8, 1, 4, 2, 8, 1):
        bench.check(rows(count, count))
    for graph, _, addresses in bench.served[1:]:
        assert addresses == places[graph]


def test_with_graphs_one_thread_makes_all_runs(mlp: Path) -> None:
    bench = Bench(mlp, 8)
    with ThreadPoolExecutor(3) as callers:
        list(callers.map(lambda count: bench.run.run({"x": rows(count)}, ["y"]), [1, 2, 3, 4, 5, 8] * 5))
    assert {thread for _, thread, _ in bench.watched.runs} == {"device"}


def test_without_graphs_callers_run_themselves_and_nothing_is_run_while_loading(mlp: Path) -> None:
    bench = Bench(mlp)
    assert bench.captures == 0
    for count in (1, 3, 64):
        bench.check(rows(count))
    assert {(graph, thread) for graph, thread, _ in bench.served} == {(None, threading.current_thread().name)}


@pytest.mark.parametrize("max_batch_size", [0, 8])
def test_many_callers_at_once_get_their_own_answers(mlp: Path, max_batch_size: int) -> None:
    bench = Bench(mlp, max_batch_size)
    requests = [rows(1 + number % 9, number) for number in range(200)]
    expected = [bench.session.run(["y"], {"x": x})[0] for x in requests]
    with ThreadPoolExecutor(4) as callers:
        answers = list(callers.map(lambda x: bench.run.run({"x": x}, ["y"])[0], requests))
    for answer, wanted in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(answer, wanted)


def test_the_next_batch_is_copied_while_one_computes(mlp: Path) -> None:
    bench = Bench(mlp, 8)
    computing, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        computing.set()
        assert go_on.wait(30)

    bench.watched.before_run = hold
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(bench.run.run, {"x": rows(1)}, ["y"])
        assert computing.wait(30)
        copies = bench.cudart.calls.count("cudaStreamSynchronize")
        second = callers.submit(bench.run.run, {"x": rows(2)}, ["y"])
        while bench.cudart.calls.count("cudaStreamSynchronize") == copies:
            assert not second.done()
        assert not first.done()  # the copy of the second is complete, the first still computes
        go_on.set()
        assert first.result(30)[0].shape == (1, 10)
        assert second.result(30)[0].shape == (2, 10)


def test_answers_do_not_share_memory_with_later_ones(mlp: Path) -> None:
    bench = Bench(mlp, 8)
    answers = [bench.run.run({"x": rows(2, seed)}, ["y"])[0] for seed in range(5)]
    for seed, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, bench.session.run(["y"], {"x": rows(2, seed)})[0])


def test_inputs_of_any_layout_are_taken(mlp: Path) -> None:
    bench = Bench(mlp, 8)
    x = rows(4)
    for odd in (x[::2], np.asfortranarray(x), np.frombuffer(b"!" + x.tobytes(), np.float32, offset=1).reshape(4, 64)):
        bench.check(np.ascontiguousarray(odd))
        np.testing.assert_array_equal(
            bench.run.run({"x": odd}, ["y"])[0], bench.run.run({"x": np.ascontiguousarray(odd)}, ["y"])[0]
        )


def test_another_datatype_than_declared_is_refused_and_the_lane_goes_on(mlp: Path) -> None:
    bench = Bench(mlp, 8)
    for _ in range(DEPTH + 1):  # a lane that was lost would make the last one wait for ever
        with pytest.raises(BadRequest, match="'x' is float32, got float64"):
            bench.run.run({"x": rows(2).astype(np.float64)}, ["y"])
    bench.check(rows(2))


def test_a_device_that_has_no_memory_left_fails_the_batch_and_not_the_lane(mlp: Path) -> None:
    bench = Bench(mlp)
    bench.cudart.failing["cudaHostAlloc"] = 2
    for _ in range(DEPTH + 1):
        with pytest.raises(DeviceFailed, match="out of memory"):
            bench.run.run({"x": rows(2)}, ["y"])
    bench.cudart.failing.clear()
    bench.check(rows(2))


def test_closing_gives_everything_back(mlp: Path) -> None:
    bench = Bench(mlp, 8)
    bench.check(rows(2))
    bench.check(rows(3))
    bench.run.close()
    assert bench.cudart.is_clean


def test_a_load_that_fails_while_it_captures_gives_everything_back(mlp: Path) -> None:
    cudart = HostCudart()
    session = open_session(mlp, session_settings(CpuSettings(), is_capped=False), [CPU])
    signature = signature_of(session, mlp)
    watched = Watched(session)

    def fail() -> None:
        raise RuntimeError("capture failed")

    watched.before_run = fail
    plan = graph_plan(signature, 4)
    assert isinstance(plan, GraphPlan)
    with pytest.raises(RuntimeError, match="capture failed"):
        DeviceRun(watched, signature, HostMemory(cudart), plan, run_options)
    assert cudart.is_clean


def test_several_tensors_and_chosen_outputs_in_the_order_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    a, b = helper.make_tensor_value_info("a", FLOAT, ["N", 2]), helper.make_tensor_value_info("b", FLOAT, ["N", 2])
    s, d = helper.make_tensor_value_info("s", FLOAT, ["N", 2]), helper.make_tensor_value_info("d", FLOAT, ["N", 2])
    save(path, [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Sub", ["a", "b"], ["d"])], [a, b], [s, d])
    for max_batch_size in (0, 4):
        bench = Bench(path, max_batch_size)
        x, y = np.full((2, 2), 5, np.float32), np.full((2, 2), 3, np.float32)
        difference, total = bench.run.run({"b": y, "a": x}, ["d", "s"])
        np.testing.assert_array_equal(difference, x - y)
        np.testing.assert_array_equal(total, x + y)
        (only,) = bench.run.run({"a": x, "b": y}, ["d"])
        np.testing.assert_array_equal(only, x - y)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [(TensorProto.BFLOAT16, ml_dtypes.bfloat16), (TensorProto.FLOAT16, np.float16), (TensorProto.BOOL, np.bool_)],
)
@pytest.mark.parametrize("shape", [(3, 2), (0, 2)])
def test_all_kinds_of_number_and_empty_tensors_go_through(
    tmp_path: Path, element: int, dtype: type, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "identity.onnx"
    x, y = (helper.make_tensor_value_info(name, element, ["N", 2]) for name in "xy")
    save(path, [helper.make_node("Identity", ["x"], ["y"])], [x], [y])
    bench = Bench(path)
    values = np.arange(6)[: shape[0] * shape[1]].reshape(shape).astype(np.dtype(dtype))
    (answer,) = bench.run.run({"x": values}, ["y"])
    assert answer.dtype == values.dtype
    np.testing.assert_array_equal(answer, values)


def test_outputs_whose_shape_the_inputs_decide_come_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "nonzero.onnx"
    x = helper.make_tensor_value_info("x", FLOAT, [4])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [1, None])
    save(path, [helper.make_node("NonZero", ["x"], ["y"])], [x], [y])
    bench = Bench(path)
    for values, found in (([0, 1, 0, 2], [1, 3]), ([0, 0, 0, 0], []), ([1, 1, 1, 1], [0, 1, 2, 3])):
        (answer,) = bench.run.run({"x": np.array(values, np.float32)}, ["y"])
        assert answer.tolist() == [found]


def test_a_model_of_fixed_shape_runs_from_its_one_graph(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    x, y = (helper.make_tensor_value_info(name, FLOAT, [2, 3]) for name in "xy")
    two = numpy_helper.from_array(np.float32(2), "two")
    save(path, [helper.make_node("Mul", ["x", "two"], ["y"])], [x], [y], [two])
    bench = Bench(path, 8)
    bench.check(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert [graph for graph, _, _ in bench.served] in ([1], [2])


def test_the_gpu_benchmark_compares_all_ways_to_run_a_model(mlp: Path) -> None:
    plain, graphs = Bench(mlp), Bench(mlp, 2)
    memory = HostMemory(HostCudart())
    slot = Slot(memory, (*plain.signature.inputs, *plain.signature.outputs))
    (line,) = compare(Contenders(plain.signature, plain.session, plain.run, graphs.run, memory, slot), max_batch=1)
    assert line.rows == 1
    assert line.graph is not None
    assert min(line.run, line.staged, line.graph, line.two, line.copy_in, line.copy_out) > 0
    assert plain.cudart.is_clean
    assert graphs.cudart.is_clean
