"""What a GPU's tricks bring, batch size by batch size: pinned buffers, CUDA graphs, two batches at a time.

    python benchmarks/gpu.py [--model MODEL.onnx] [--max-batch 64] [--provider cuda|tensorrt] [-o json]

Runs from the source tree with the Python of the machine that has the GPU, from 3.11 on: it needs numpy, onnx and
onnxruntime-gpu, neither Ray nor Crossfade installed. Without --model: two MLPs, one that is all launching of kernels
and one that is all memory. The columns, in microseconds a batch, medians:

    run        `session.run` with NumPy arrays: what is used without any of this
    staged     through pinned buffers and IO binding, without graphs
    graph      the same from a CUDA graph (where the batch has one)
    two        the last, with two callers at once: a batch's copies beside another's computing
    in, out    the copies alone, to the device and back; and their share of `graph`, or of `staged` where there is none
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import onnxruntime as ort

from adapters.onnx.device_run import DeviceRun
from adapters.onnx.gpu_session import open_gpu_run
from adapters.onnx.nvidia import CudaMemory, load_cudart
from adapters.onnx.options import CpuSettings, GpuSettings, OnnxOptions
from adapters.onnx.providers import cuda_request
from adapters.onnx.session import open_session, session_settings
from adapters.onnx.staging import DeviceMemory, Slot
from benchmarks.models import tiny_mlp, wide_mlp
from router.domain.deployment_settings import Provider
from router.domain.errors import ModelUnavailable
from serving.samples import Inputs, Sample, candidates
from serving.signature import Signature

WARM_UPS = 20
SECONDS = 0.5
MIN_RUNS = 30


@dataclass(frozen=True, slots=True)
class Line:
    """Microseconds a batch. `graph` is None where the batch has no graph."""

    rows: int
    run: float
    staged: float
    graph: float | None
    two: float
    copy_in: float
    copy_out: float

    @property
    def copy_share(self) -> float:
        return (self.copy_in + self.copy_out) / (self.graph or self.staged)


def microseconds(call: Callable[[], object]) -> float:
    """The median of as many calls as fit into `SECONDS`."""
    for _ in range(WARM_UPS):
        call()
    taken: list[float] = []
    ends = time.perf_counter() + SECONDS
    while len(taken) < MIN_RUNS or time.perf_counter() < ends:
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return median(taken) * 1e6


def microseconds_side_by_side(call: Callable[[], object], callers: int = 2) -> float:
    """Of one batch, when `callers` threads send one after the other: elapsed time by number of batches."""

    def send(_: int) -> int:
        count = 0
        while count < MIN_RUNS or time.perf_counter() < ends:
            call()
            count += 1
        return count

    with ThreadPoolExecutor(callers) as pool:
        ends = 0.0
        list(pool.map(send, range(callers)))  # warm
        started = time.perf_counter()
        ends = started + SECONDS
        batches = sum(pool.map(send, range(callers)))
        return (time.perf_counter() - started) / batches * 1e6


def row_counts(max_batch: int) -> list[int]:
    powers = [1 << exponent for exponent in range(max_batch.bit_length())]
    return sorted({*(rows for rows in powers if rows <= max_batch), max_batch})


@dataclass(frozen=True, slots=True)
class Contenders:
    """One model in every way to run it. `plain` has `session.run`; `slot` is for the copies alone."""

    signature: Signature
    plain: Any
    staged: DeviceRun
    graphs: DeviceRun
    memory: DeviceMemory
    slot: Slot


def contenders(path: Path, max_batch: int, provider: Provider) -> Contenders:
    """Raises `ModelUnavailable` with the reason where the model cannot run on a GPU here."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    def opened(options: dict[str, str]) -> tuple[Signature, DeviceRun]:
        settings = GpuSettings(provider, options, max_batch)
        signature, run = open_gpu_run(OnnxOptions(str(path), sha256, gpu=settings), settings)
        if not isinstance(run, DeviceRun):
            raise ModelUnavailable("a model with text tensors does not run on a device")
        return signature, run

    signature, staged = opened({"enable_cuda_graph": "0"})
    _, graphs = opened({})
    memory = CudaMemory(load_cudart(ort.cuda_version))
    # The baseline is plain CUDA, also beside TensorRT.
    providers = cuda_request(GpuSettings(), memory.gpu(), has_graphs=False)
    plain = open_session(path, session_settings(CpuSettings(), is_capped=False), providers)
    slot = Slot(memory, (*signature.inputs, *signature.outputs))
    return Contenders(signature, plain, staged, graphs, memory, slot)


def compare(them: Contenders, max_batch: int) -> list[Line]:
    """One line for every size of batch. Raises `ModelUnavailable` when the model does not run."""
    signature, slot, graphs = them.signature, them.slot, them.graphs
    sample = _first_that_runs(signature, them.staged)
    outputs = [spec.name for spec in signature.outputs]
    lines = []
    for rows in row_counts(max_batch) if signature.is_batchable else [1]:
        inputs = sample.rows(rows)
        run = partial(graphs.run, inputs, outputs)
        copies = _Copies(slot, them.memory, outputs, them.plain.run(outputs, inputs))
        lines.append(
            Line(
                rows,
                microseconds(partial(them.plain.run, outputs, inputs)),
                microseconds(partial(them.staged.run, inputs, outputs)),
                microseconds(run) if graphs.has_graph(inputs) else None,
                microseconds_side_by_side(run),
                microseconds(partial(slot.copy_in, inputs)),
                microseconds(copies.out),
            )
        )
        copies.close()
    for part in (them.staged, graphs, slot):
        part.close()
    return lines


class _Copies:
    """Copies arrays of the outputs' shapes from the device."""

    def __init__(self, slot: Slot, memory: DeviceMemory, names: Sequence[str], arrays: Sequence[np.ndarray]) -> None:
        self._slot, self._memory, self._names = slot, memory, names
        self._values = [_Value(list(array.shape), memory.allocate(max(1, array.nbytes))) for array in arrays]

    def out(self) -> None:
        self._slot.copy_out(self._names, self._values)

    def close(self) -> None:
        for value in self._values:
            self._memory.free(value.address)


@dataclass(frozen=True, slots=True)
class _Value:
    dims: list[int]
    address: int

    def shape(self) -> list[int]:
        return self.dims

    def data_ptr(self) -> int:
        return self.address


def _first_that_runs(signature: Signature, run: DeviceRun) -> Sample:
    outputs = [spec.name for spec in signature.outputs]
    reason = "its inputs are too big to be made up"
    for sample in candidates(signature):
        inputs: Inputs = sample.rows(1)
        try:
            run.run(inputs, outputs)
        except Exception as error:
            reason = str(error)
        else:
            return sample
    raise ModelUnavailable(f"the model does not run: {reason}")


def table(lines: Sequence[Line]) -> str:
    """As Markdown."""
    head = "| rows | run | staged | graph | two | in | out | copies | run ÷ two |\n|" + "---:|" * 9
    cells = [
        [
            str(line.rows),
            f"{line.run:.0f}",
            f"{line.staged:.0f}",
            "–" if line.graph is None else f"{line.graph:.0f}",
            f"{line.two:.0f}",
            f"{line.copy_in:.0f}",
            f"{line.copy_out:.0f}",
            f"{100 * line.copy_share:.0f}%",
            f"{line.run / line.two:.2f}",
        ]
        for line in lines
    ]
    return "\n".join([head, *("| " + " | ".join(row) + " |" for row in cells)])


def measured(path: Path, arguments: argparse.Namespace) -> list[Line]:
    return compare(contenders(path, arguments.max_batch, arguments.provider), arguments.max_batch)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an ONNX file; without it, two made-up MLPs")
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--provider", choices=[Provider.CUDA, Provider.TENSORRT], default=Provider.CUDA, type=Provider)
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    arguments = parser.parse_args()
    results: dict[str, list[Line]] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            if arguments.model:
                results[arguments.model.name] = measured(arguments.model, arguments)
            else:
                for name, make in (("tiny MLP", tiny_mlp), ("wide MLP", wide_mlp)):
                    path = Path(folder, f"{make.__name__}.onnx")
                    make(path)
                    results[name] = measured(path, arguments)
        except ModelUnavailable as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    if arguments.output == "json":
        print(json.dumps({name: [asdict(line) for line in lines] for name, lines in results.items()}, indent=1))
        return 0
    gpu = CudaMemory(load_cudart(ort.cuda_version)).gpu()
    print(f"{gpu.identity}; ONNX Runtime {ort.__version__}, CUDA {ort.cuda_version}; {arguments.provider}")
    for name, lines in results.items():
        print(f"\n{name}, µs a batch\n\n{table(lines)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
