"""Sessions on the CPU: threads, the cache of optimised graphs, and the memory limit, with the real ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from adapters.onnx.graph_cache import GraphCache
from adapters.onnx.options import CpuSettings, OnnxOptions
from adapters.onnx.session import cache_key, keep_optimised, open_cpu_session, open_kept, session_settings
from benchmarks.models import save, tiny_mlp

CPU_SETTINGS = CpuSettings()


def layered(path: Path) -> str:
    """Nodes that optimising fuses, folds and removes: `y` = 20 × (x·w + b, Erf, + x, nothing)."""
    random = np.random.default_rng(5)
    nodes, weights, tensor = [], [], "x"
    for at in range(20):
        weights.append(numpy_helper.from_array(random.standard_normal((8, 8)).astype(np.float32) / 3, f"w{at}"))
        weights.append(numpy_helper.from_array(random.standard_normal(8).astype(np.float32), f"b{at}"))
        nodes += [
            helper.make_node("MatMul", [tensor, f"w{at}"], [f"m{at}"]),
            helper.make_node("Add", [f"m{at}", f"b{at}"], [f"a{at}"]),
            helper.make_node("Erf", [f"a{at}"], [f"e{at}"]),
            helper.make_node("Add", [f"e{at}", tensor], [f"s{at}"]),
            helper.make_node("Identity", [f"s{at}"], ["y" if at == 19 else f"i{at}"]),
        ]
        tensor = f"i{at}"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 8]) for name in "xy")
    return save(path, nodes, [x], [y], weights)


@pytest.fixture
def options(tmp_path: Path) -> OnnxOptions:
    path = tmp_path / "model.onnx"
    return OnnxOptions(str(path), layered(path), cache_dir=str(tmp_path / "cache"))


def answer(session: onnxruntime.InferenceSession) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    result: np.ndarray = session.run(["y"], {"x": x})[0]
    return result


def kept_by(options: OnnxOptions) -> tuple[GraphCache, Path]:
    cache = GraphCache(Path(options.cache_dir, "graphs"))
    kept = keep_optimised(cache, cache_key(options), Path(options.path), options.cpu)
    assert kept is not None
    return cache, kept


def test_a_kept_graph_describes_and_answers_as_its_model_does(options: OnnxOptions) -> None:
    _, kept = kept_by(options)
    plain = open_cpu_session(OnnxOptions(options.path, options.sha256))
    cached = open_kept(kept, options.cpu, is_capped=False)
    for one, other in zip(
        (*plain.get_inputs(), *plain.get_outputs()), (*cached.get_inputs(), *cached.get_outputs()), strict=True
    ):
        assert (one.name, one.type, one.shape) == (other.name, other.type, other.shape)
    np.testing.assert_array_equal(answer(plain), answer(cached))


def test_a_kept_graph_is_opened_instead_of_the_model(options: OnnxOptions) -> None:
    kept_by(options)
    Path(options.path).write_bytes(b"the backend checks the model's hash; opening reads the cache alone")
    assert answer(open_cpu_session(options)).shape == (5, 8)


@pytest.mark.parametrize("damage", ["cut", "flipped", "named as if it were right"])
def test_a_damaged_graph_is_replaced_by_the_model(options: OnnxOptions, damage: str) -> None:
    expected = answer(open_cpu_session(OnnxOptions(options.path, options.sha256)))
    cache, kept = kept_by(options)
    content = bytearray(kept.read_bytes())
    if damage == "cut":
        kept.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        kept.write_bytes(content)
    else:
        kept.unlink()
        cache.make(cache_key(options), lambda path: _write(path, b"no model, but the hash is right"))
    np.testing.assert_array_equal(answer(open_cpu_session(options)), expected)
    again = cache.find(cache_key(options))
    if again is not None:  # loading took long enough on this machine to keep the graph once more
        np.testing.assert_array_equal(answer(open_kept(again, options.cpu, is_capped=False)), expected)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(options: OnnxOptions, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocked = OnnxOptions(options.path, options.sha256, cache_dir=str(tmp_path / "file"))
    assert answer(open_cpu_session(blocked)).shape == (5, 8)
    assert keep_optimised(GraphCache(tmp_path / "file" / "graphs"), "k" * 32, Path(options.path), CPU_SETTINGS) is None


def test_a_model_with_weights_in_other_files_is_not_cached(tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    layered(path)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    cache = GraphCache(tmp_path / "cache")
    assert keep_optimised(cache, "k" * 32, path, CPU_SETTINGS) is None
    assert not (tmp_path / "cache").exists()


def test_two_replicas_that_start_together_both_serve(options: OnnxOptions) -> None:
    answers: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: (kept_by(options), answers.append(answer(open_cpu_session(options)))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    for other in answers[1:]:
        np.testing.assert_array_equal(other, answers[0])


def test_threads_and_spinning_are_as_asked_for() -> None:
    calm = session_settings(CpuSettings(threads=3), is_capped=False)
    assert calm.intra_op_num_threads == 3
    assert calm.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    eager = session_settings(CpuSettings(is_spinning=True), is_capped=False)
    assert eager.intra_op_num_threads == 1
    assert eager.get_session_config_entry("session.intra_op.allow_spinning") == "1"


CAPPED = """
import sys
import numpy as np
from adapters.onnx.backend import OnnxBackend
from adapters.onnx.options import CpuSettings, OnnxOptions
from serving.errors import ModelFailed

path, sha256 = sys.argv[1:]
backends = [OnnxBackend(OnnxOptions(path, sha256, CpuSettings(memory_bytes=400 * 2**20))) for _ in range(2)]
for backend in backends:
    backend.run({"x": np.ones((64, 64), np.float32)}, ["y"])
    try:
        backend.run({"x": np.ones((1_000_000, 64), np.float32)}, ["y"])
    except ModelFailed as error:
        print("refused:", error)
    backend.run({"x": np.ones((64, 64), np.float32)}, ["y"])
"""


def test_a_request_beyond_the_memory_limit_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "mlp.onnx"
    done = subprocess.run(  # ONNX Runtime's limit belongs to the process
        [sys.executable, "-c", CAPPED, str(path), tiny_mlp(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("refused: " in line and "memory" in line for line in lines)
    assert ".cc" not in done.stdout
