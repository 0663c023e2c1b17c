"""Runs a session on a device: through pinned buffers, two batches at a time, from CUDA graphs where there are any.

    caller 1   copy in │ run │ copy out      copy in │ run │ …
    caller 2            copy in │      │ run │ copy out  …

Every batch on its way has a lane of its own: buffers, a stream for its copies, bindings. The copies of one run beside
the computing of the other: they are on another stream, and neither holds Python's lock.

Without graphs, both lanes call the one session from their callers' threads, and ONNX Runtime gives each run a stream.
With graphs, one thread of ours makes all runs: ONNX Runtime keeps captured graphs for each thread apart, replays them
on one stream, and captures in a mode in which no other thread may touch the device. So all graphs are captured while
the model loads, before anybody else can call; at run time, nothing is ever captured. Handing a run over to that thread
and back costs 12 µs.
(onnxruntime/core/providers/cuda/cuda_graph.cc, cuda_execution_provider.cc)

The bindings speak of the device by the memory's name for it, so that all of this is tested on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

import numpy as np

from adapters.onnx.device_plan import DEPTH, GraphPlan, shape_for, size_for
from adapters.onnx.elements import ONNX_ELEMENT
from adapters.onnx.staging import DeviceMemory, Slot
from serving.signature import Signature

T = TypeVar("T")

# ONNX Runtime runs a new graph id twice without capturing, so that its arena has grown, and captures in the third run.
_RUNS_UNTIL_CAPTURED = 3
_WITHOUT_GRAPH = -1


@dataclass(slots=True)
class _Lane:
    """`fixed` is for graphs: its buffers never move. `bindings`: rows → (binding, run options)."""

    loose: Slot
    fixed: Slot | None = None
    bindings: dict[int, tuple[Any, Any]] = field(default_factory=dict)


class DeviceRun:
    """`run_options` makes ONNX Runtime's run options from a `gpu_graph_id`.

    With a plan, the session must have been opened with CUDA graphs on; they are captured here, and what ONNX Runtime
    raises then is raised.
    """

    parallelism = DEPTH

    def __init__(
        self,
        session: Any,
        signature: Signature,
        memory: DeviceMemory,
        graphs: GraphPlan | None,
        run_options: Callable[[int], Any],
    ) -> None:
        self._session = session
        self._memory = memory
        self._graphs = graphs
        self._elements = {spec.name: ONNX_ELEMENT[spec.datatype] for spec in (*signature.inputs, *signature.outputs)}
        self._plain_options = None if graphs is None else run_options(_WITHOUT_GRAPH)
        self._runs = None if graphs is None else _RunThread()
        self._lanes: list[_Lane] = []
        self._idle: SimpleQueue[_Lane] = SimpleQueue()
        specs = (*signature.inputs, *signature.outputs)
        try:
            for number in range(DEPTH):
                lane = _Lane(Slot(memory, specs))
                self._lanes.append(lane)
                if graphs is not None:
                    self._capture(number, lane, graphs, run_options)
                self._idle.put(lane)
        except BaseException:
            self.close()
            raise

    def has_graph(self, inputs: Mapping[str, np.ndarray]) -> bool:
        return self._rows_of(inputs) is not None

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Raises ONNX Runtime's errors, CUDA's, or `BadRequest`. More callers than lanes wait for one."""
        lane = self._idle.get()
        try:
            rows = self._rows_of(inputs)
            if rows is None:
                return self._run_plain(lane.loose, inputs, outputs)
            return self._run_graph(lane, rows, inputs, outputs)
        finally:
            self._idle.put(lane)

    def close(self) -> None:
        """Free buffers, graphs and the session. Nothing may run any more."""
        if self._runs is not None:
            self._runs.stop()
        for lane in self._lanes:
            lane.bindings.clear()
            lane.loose.close()
            if lane.fixed is not None:
                lane.fixed.close()
        self._lanes.clear()
        self._session = None

    def _rows_of(self, inputs: Mapping[str, np.ndarray]) -> int | None:
        return None if self._graphs is None else self._graphs.rows_of(inputs)

    def _run_plain(self, slot: Slot, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Any shapes. ONNX Runtime allocates the outputs on the device, in its arena."""
        binding = self._session.io_binding()
        device, device_id = self._memory.device, self._memory.device_id
        for name, address in slot.copy_in(inputs).items():
            binding.bind_input(name, device, device_id, self._elements[name], inputs[name].shape, address)
        for name in outputs:
            binding.bind_output(name, device, device_id)
        self._run(binding, self._plain_options)
        return slot.copy_out(outputs, binding.get_outputs())

    def _run_graph(
        self, lane: _Lane, rows: int, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> list[np.ndarray]:
        assert self._graphs is not None
        assert lane.fixed is not None
        binding, options = lane.bindings[rows]
        lane.fixed.copy_in(inputs)
        self._run(binding, options)
        values = dict(zip([spec.name for spec in self._graphs.outputs], binding.get_outputs(), strict=True))
        return lane.fixed.copy_out(outputs, [values[name] for name in outputs])

    def _run(self, binding: Any, options: Any) -> None:
        if self._runs is None:
            self._session.run_with_iobinding(binding, options)
        else:
            self._runs.call(lambda: self._session.run_with_iobinding(binding, options))

    def _capture(self, number: int, lane: _Lane, graphs: GraphPlan, run_options: Callable[[int], Any]) -> None:
        """Bind the lane's fixed buffers for every number of rows, and run each until it is captured."""
        slot = lane.fixed = Slot(self._memory, (*graphs.inputs, *graphs.outputs))
        for spec in (*graphs.inputs, *graphs.outputs):
            slot.reserve(spec.name, size_for(spec, graphs.row_counts[-1]))
        slot.zero(graphs.inputs, graphs.row_counts[-1])
        for rows in graphs.row_counts:
            binding = self._session.io_binding()
            for kind, specs in ((binding.bind_input, graphs.inputs), (binding.bind_output, graphs.outputs)):
                for spec in specs:
                    address = slot.reserve(spec.name, size_for(spec, rows))
                    element, shape = self._elements[spec.name], shape_for(spec, rows)
                    kind(spec.name, self._memory.device, self._memory.device_id, element, shape, address)
            options = run_options(graphs.graph_id(number, rows))
            for _ in range(_RUNS_UNTIL_CAPTURED):
                self._run(binding, options)
            lane.bindings[rows] = (binding, options)


class _RunThread:
    """One thread that makes runs, one after the other, for callers that wait."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # A daemon: a model that hangs must not keep a stopping process alive.
        Thread(target=self._serve, name="device", daemon=True).start()

    def call(self, function: Callable[[], T]) -> T:
        """Run it in the thread and wait for it. Its exception is raised here."""
        done = Lock()
        done.acquire()
        results: list[T] = []
        errors: list[BaseException] = []

        def job() -> None:
            try:
                results.append(function())
            except BaseException as error:
                errors.append(error)
            done.release()

        self._jobs.put(job)
        done.acquire()
        if errors:
            raise errors[0]
        return results[0]

    def stop(self) -> None:
        self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
