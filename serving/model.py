"""A model in service: its life cycle, and scoring requests turned into batches and back. Implements `ScoringModel`.

    LOADING ──► WARMING ──► READY ──► DRAINING ──► STOPPED
       │           │          │                      ▲
       └───────────┴──────────┴──────────────────────┘   (failed, or closed)

Ready means that the warm-up has passed, never merely that a file was read.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

from router.domain.errors import ModelUnavailable
from serving.batcher import Batcher, Slot
from serving.batching import BatchQueue
from serving.errors import ScoringError, Unavailable
from serving.exchange import Cancel
from serving.execution import Executor
from serving.lanes import Lanes
from serving.latency import LatencyTable
from serving.load import WorkDone
from serving.messages import InferReply, InferRequest
from serving.parameters import priority
from serving.ports import Backend
from serving.queue_limits import BatchLimits
from serving.recorder import Recorder
from serving.signature import Signature
from serving.statistics import ModelCounters, ModelStatistics
from serving.warmup import WarmUp, first_that_runs, ragged_inputs, warm_up
from serving.work import Outcome, Work
from serving.worker import Worker

log = logging.getLogger(__name__)


class ModelState(Enum):
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


TRANSITIONS: dict[ModelState, frozenset[ModelState]] = {
    ModelState.LOADING: frozenset({ModelState.WARMING, ModelState.STOPPED}),
    ModelState.WARMING: frozenset({ModelState.READY, ModelState.STOPPED}),
    ModelState.READY: frozenset({ModelState.DRAINING, ModelState.STOPPED}),
    ModelState.DRAINING: frozenset({ModelState.STOPPED}),
    ModelState.STOPPED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """`max_batch_size`: rows, 1 switches batching off. `max_waiting`: requests, more are refused at once.

    `objective_s`: the latency that batching must not endanger; `is_objective_binding`: see serving/admission.py.
    `padding_mask`: see serving/padding.py; empty: none. `instances`: how many backends are opened and run side by side.
    """

    name: str
    version: str
    max_batch_size: int = 64
    max_waiting: int = 1000
    objective_s: float = math.inf
    is_objective_binding: bool = False
    padding_mask: str = ""
    instances: int = 1

    def rows_of(self, signature: Signature) -> int:
        """The most rows in one run of such a model."""
        return min(self.max_batch_size, signature.max_rows or self.max_batch_size)


@dataclass(frozen=True, slots=True)
class _Service:
    """What a warmed-up model answers with."""

    backends: Sequence[Backend]
    signature: Signature
    warm_up: WarmUp
    batcher: Batcher
    workers: Sequence[Worker]
    output_names: tuple[str, ...]
    datatypes: dict[str, str]


class Model:
    """Use it from one event loop. `load` once, then `infer`; `drain` before `close` when nothing may be lost."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._state = ModelState.LOADING
        self._recorder = Recorder()
        self._service: _Service | None = None

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def version(self) -> str:
        return self._settings.version

    @property
    def state(self) -> ModelState:
        return self._state

    @property
    def is_ready(self) -> bool:
        return self._state is ModelState.READY and not self.trouble

    @property
    def trouble(self) -> str:
        """Why it cannot answer although it has loaded, for operators; empty while it can."""
        backends = () if self._service is None else self._service.backends
        return next((trouble for backend in backends if (trouble := backend.trouble)), "")

    @property
    def signature(self) -> Signature:
        """Raises `Unavailable` before the model has loaded."""
        return self._loaded().signature

    @property
    def max_batch_size(self) -> int:
        """Raises `Unavailable` before the model has loaded."""
        signature = self._loaded().signature
        return self._settings.rows_of(signature) if signature.is_batchable else 0

    @property
    def warm_up(self) -> WarmUp:
        """What the warm-up measured and decided. Raises `Unavailable` before the model has loaded."""
        return self._loaded().warm_up

    @property
    def pending(self) -> int:
        """Requests accepted and not yet answered."""
        return 0 if self._service is None else self._service.batcher.pending

    @property
    def work_done(self) -> WorkDone:
        """What was done so far, for the measuring of load. Half of two slots busy counts as half of the time."""
        slots = 1 if self._service is None else len(self._service.workers) or 1
        return WorkDone(self._recorder.busy_s / slots, self._recorder.finished, self.pending)

    def statistics(self) -> ModelStatistics:
        return self._recorder.snapshot(time.monotonic(), time.time())

    def counters(self) -> ModelCounters:
        return self._recorder.counters(self.pending)

    async def load(self, open_backend: Callable[[], Backend]) -> None:
        """Open the backend, once for each instance, and warm it up, in a thread; ready when this returns.

        Raises `ModelUnavailable` with the reason; the model is then stopped and cannot be loaded again.
        """
        if self._state is not ModelState.LOADING:
            raise RuntimeError(f"a model that is {self._state.value} cannot be loaded")
        worker = Worker(f"model-{self.name}")
        backends: list[Backend] = []
        try:
            for _ in range(self._settings.instances):
                backends.append(await worker.call(open_backend))  # noqa: PERF401  # those opened must be closed if one fails
            self._enter(ModelState.WARMING)
            settings = self._settings
            max_rows = settings.rows_of(backends[0].signature)
            warmed = await worker.call(partial(warm_up, backends[0], max_rows, settings.padding_mask))
            for backend in backends[1:]:  # they are like the first; only their own first run is theirs to make
                await worker.call(partial(first_that_runs, backend))
            self._enter(ModelState.READY)
            service = self._assemble(backends, warmed, worker)
        except BaseException as error:
            for backend in backends:
                worker.submit(_close, backend, _ignore)  # in its turn: a warm-up may still be running
            worker.stop()
            self._stop(str(error) or type(error).__name__)
            if isinstance(error, ModelUnavailable) or not isinstance(error, Exception):
                raise
            raise ModelUnavailable(f"the model did not load: {error}") from error
        self._service = service
        if not service.workers:
            worker.stop()

    def infer(
        self, request: InferRequest, deadline_s: float, reply: Callable[[InferReply | ScoringError], None]
    ) -> Cancel:
        """See `ScoringModel`. The request has been checked against the signature, its number of rows too."""
        service = self._service
        if self._state is not ModelState.READY or service is None:
            reply(Unavailable(f"model {self.name!r} is {self._state.value}"))
            return _nothing_to_cancel
        outputs = tuple([output.name for output in request.outputs]) if request.outputs else service.output_names
        inputs = request.inputs
        rows = next(iter(inputs.values())).shape[0] if service.signature.is_batchable else 1
        answer = partial(self._answer, service.datatypes, request.id, outputs, reply)
        work = Work(inputs, outputs, rows, deadline_s, time.monotonic(), answer)
        if request.parameters:
            work.priority = priority(request.parameters)
        try:
            service.batcher.submit(work)
        except ScoringError as error:
            reply(error)
            return _nothing_to_cancel
        return partial(service.batcher.cancel, work)

    async def drain(self) -> None:
        """Refuse new requests with `Unavailable`; return when everything accepted has been answered."""
        if self._state is ModelState.READY:
            self._enter(ModelState.DRAINING)
        if self._service is not None:
            await self._service.batcher.drain()

    async def close(self) -> None:
        """Fail what waits, wait for what runs, free the model and its thread. Closing twice is harmless.

        A model that hangs is waited for without end: give this call a timeout and end the process.
        """
        service, self._service = self._service, None
        self._stop("closed")
        if service is None:
            return
        await service.batcher.abandon()
        for worker in service.workers:
            await worker.join()
        for backend in service.backends:
            backend.close()

    def _assemble(self, backends: Sequence[Backend], warmed: WarmUp, worker: Worker) -> _Service:
        """`worker` runs the first slot, unless batches run on the event loop. Every other one has its own thread."""
        settings = self._settings
        signature = replace(backends[0].signature, is_batchable=warmed.is_batchable)
        shared = [backend for backend in backends for _ in range(backend.parallelism)]
        executors = [Executor(backend, signature, warmed.padded) for backend in shared]
        is_inline = warmed.is_inline and len(executors) == 1
        workers = [] if is_inline else [worker, *(Worker(f"model-{self.name}-{at}") for at in range(1, len(executors)))]
        max_rows = settings.rows_of(signature) if warmed.is_batchable else 1
        lanes = Lanes(
            LatencyTable(warmed.latency_s, max_rows),
            ragged_inputs(signature) if warmed.is_batchable else (),
            warmed.row_elements,
            warmed.padded,
        )
        limits = BatchLimits(
            max_rows, settings.max_waiting, settings.objective_s, len(executors), settings.is_objective_binding
        )
        slots = [Slot(executor, None if is_inline else workers[at]) for at, executor in enumerate(executors)]
        return _Service(
            backends=backends,
            signature=signature,
            warm_up=warmed,
            batcher=Batcher(slots, BatchQueue(limits, lanes), self._recorder),
            workers=workers,
            output_names=tuple(spec.name for spec in signature.outputs),
            datatypes={spec.name: spec.datatype for spec in signature.outputs},
        )

    def _answer(
        self,
        datatypes: dict[str, str],
        id: str,
        outputs: Sequence[str],
        reply: Callable[[InferReply | ScoringError], None],
        outcome: Outcome,
    ) -> None:
        if isinstance(outcome, ScoringError):
            reply(outcome)
            return
        named = [(name, datatypes[name], array) for name, array in zip(outputs, outcome, strict=True)]
        reply(InferReply(self._settings.name, self._settings.version, id, named))

    def _loaded(self) -> _Service:
        if self._service is None:
            raise Unavailable(f"model {self.name!r} is {self._state.value}")
        return self._service

    def _stop(self, reason: str) -> None:
        if self._state is not ModelState.STOPPED:
            self._enter(ModelState.STOPPED, reason)

    def _enter(self, state: ModelState, reason: str = "") -> None:
        if state not in TRANSITIONS[self._state]:
            raise RuntimeError(f"a model that is {self._state.value} cannot become {state.value}")
        log.info(
            "model changed state",
            extra={"model": self.name, "from": self._state.value, "to": state.value, "reason": reason},
        )
        self._state = state


def _nothing_to_cancel() -> None:
    """The request has already been answered."""


def _close(backend: Backend) -> None:
    backend.close()


def _ignore(_: None) -> None:
    """Nobody waits for it."""
