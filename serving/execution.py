"""Runs one batch on a backend: gather the rows, run, give every request its own rows back. Synchronous; knows no queue.

A batch that fails is bisected, so that a request which makes the model fail fails alone; unless the model could not be
asked at all.

Copies of a tensor's bytes between the socket and the model, and back: a request that runs alone reaches the backend as
a view of its body; one that is joined is copied once, into the batch; a big one that runs in pieces is sliced, not
copied. Outputs go back as views of the model's own arrays, only the outputs of pieces are put together. What else is
copied between socket and backend is counted in benchmarks/README.md.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from serving.errors import BadRequest, ModelFailed, ScoringError
from serving.lanes import PaddedAxis
from serving.padding import cut, cut_outputs, joined
from serving.ports import Backend
from serving.signature import Signature
from serving.work import Batch, Outcome, Work

log = logging.getLogger(__name__)

_MAY_BE_ONE_ROWS_FAULT = (ModelFailed, BadRequest)  # so the others are run again without it


@dataclass(slots=True)
class Run:
    """One successful call of the backend. `requests`: how many it completed (0 for a piece of a bigger request).

    `positions` and `padding`: where requests may be padded, the positions along the padded axis, over all rows, that
    were asked for and that were added.
    """

    rows: int
    requests: int
    input_s: float
    infer_s: float
    output_s: float
    positions: int = 0
    padding: int = 0


@dataclass(slots=True)
class Executed:
    """`outcomes` stand beside `works`. Both are empty after a piece that is not the last."""

    works: Sequence[Work]
    outcomes: list[Outcome]
    runs: list[Run]

    @property
    def has_failures(self) -> bool:
        return any(isinstance(outcome, ScoringError) for outcome in self.outcomes)


class Executor:
    """Thread-safe as far as the backend is. `padded`: requests of one batch may differ in length along this axis."""

    def __init__(self, backend: Backend, signature: Signature, padded: PaddedAxis | None = None) -> None:
        self._backend = backend
        self._padded = padded
        self._cut_outputs = frozenset() if padded is None else cut_outputs(signature, padded.axis)
        self._input_names = tuple(spec.name for spec in signature.inputs)
        self._output_order = {spec.name: at for at, spec in enumerate(signature.outputs)}

    def execute(self, batch: Batch) -> Executed:
        """Never raises: whatever goes wrong becomes the outcome of the requests it concerns."""
        try:
            if batch.is_piece:
                return self._execute_piece(batch)
            executed = Executed(batch.works, [], [])
            self._execute_whole(batch.works, batch.rows, executed)
        except Exception as error:  # no memory for the joined rows, say
            log.exception("a batch could not be executed")
            failed = ModelFailed(f"internal error: {type(error).__name__}")
            return Executed(batch.works, [failed for _ in batch.works], [])
        return executed

    def _execute_whole(self, works: Sequence[Work], rows: int, executed: Executed) -> None:
        """Appends one outcome for each of `works`, in order."""
        try:
            outcomes, run = self._run_single(works[0], rows) if len(works) == 1 else self._run_joined(works, rows)
        except ScoringError as error:
            if len(works) == 1 or not isinstance(error, _MAY_BE_ONE_ROWS_FAULT):
                executed.outcomes.extend(error for _ in works)
                return
            middle = len(works) // 2
            for half in (works[:middle], works[middle:]):
                self._execute_whole(half, sum(work.rows for work in half), executed)
            return
        executed.outcomes.extend(outcomes)
        executed.runs.append(run)

    def _run_single(self, work: Work, rows: int) -> tuple[list[Outcome], Run]:
        started = perf_counter()
        arrays = self._run(work.inputs, work.outputs, work.deadline_s)
        return [arrays], Run(rows, 1, 0.0, perf_counter() - started, 0.0, rows * work.length)

    def _run_joined(self, works: Sequence[Work], rows: int) -> tuple[list[Outcome], Run]:
        started = perf_counter()
        length = works[0].length
        if self._padded is None or all(work.length == length for work in works):
            # Into fresh memory: a buffer that is kept was not faster, at any size from 8 KiB to 19 MB.
            inputs = {name: np.concatenate([work.inputs[name] for work in works]) for name in self._input_names}
        else:
            length = max(work.length for work in works)
            inputs = self._padded_inputs(works, self._padded, length)
        names = self._wanted(works)
        gathered = perf_counter()
        arrays = self._run(inputs, names, max([work.deadline_s for work in works]))
        ran = perf_counter()
        _check_rows(names, arrays, rows)
        outcomes = _scatter(works, names, arrays)
        positions = sum(work.rows * work.length for work in works)
        padding = rows * length - positions
        if padding and self._padded is not None:
            self._cut_back(works, outcomes, self._padded.axis, length)
        timed = Run(rows, len(works), gathered - started, ran - gathered, perf_counter() - ran, positions, padding)
        return outcomes, timed

    def _padded_inputs(self, works: Sequence[Work], padded: PaddedAxis, length: int) -> dict[str, np.ndarray]:
        inputs = {}
        for name in self._input_names:
            arrays = [work.inputs[name] for work in works]
            inputs[name] = joined(arrays, padded.axis, length) if name in padded.inputs else np.concatenate(arrays)
        return inputs

    def _cut_back(self, works: Sequence[Work], outcomes: Sequence[Outcome], axis: int, length: int) -> None:
        """Take from each request's outputs what its padding brought. `length`: that of the batch."""
        for work, arrays in zip(works, outcomes, strict=True):
            if work.length == length or not isinstance(arrays, list):
                continue
            for at, name in enumerate(work.outputs):
                if name in self._cut_outputs and arrays[at].shape[axis] == length:
                    arrays[at] = cut(arrays[at], axis, work.length)

    def _execute_piece(self, batch: Batch) -> Executed:
        work = batch.works[0]
        started = perf_counter()
        rows = slice(batch.start, batch.start + batch.rows)
        try:
            inputs = {name: array[rows] for name, array in work.inputs.items()}
            arrays = self._run(inputs, work.outputs, work.deadline_s)
            _check_rows(work.outputs, arrays, batch.rows)
            if work.pieces:
                _check_fit(work.outputs, work.pieces[0], arrays)
        except ScoringError as error:
            work.pieces.clear()
            return Executed(batch.works, [error], [])
        ran = perf_counter()
        work.pieces.append(arrays)
        if not batch.is_last_piece:
            return Executed((), [], [Run(batch.rows, 0, 0.0, ran - started, 0.0)])
        outcome: Outcome = [np.concatenate(parts) for parts in zip(*work.pieces, strict=True)]
        work.pieces.clear()
        return Executed(batch.works, [outcome], [Run(batch.rows, 1, 0.0, ran - started, perf_counter() - ran)])

    def _run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], deadline_s: float) -> list[np.ndarray]:
        try:
            return self._backend.run(inputs, outputs, deadline_s)
        except ScoringError:
            raise
        except Exception as error:
            # The port promises that this does not happen. If it does, one request fails, not the batch loop.
            log.exception("backend broke its contract")
            raise ModelFailed(f"internal error: {type(error).__name__}") from error

    def _wanted(self, works: Sequence[Work]) -> Sequence[str]:
        """Every output that somebody asked for; almost always all ask for the same."""
        first = works[0].outputs
        if all(work.outputs == first for work in works):
            return first
        return sorted({name for work in works for name in work.outputs}, key=self._output_order.__getitem__)


def _check_rows(names: Sequence[str], arrays: Sequence[np.ndarray], rows: int) -> None:
    """Raises `ModelFailed` when an output cannot be split into rows."""
    for name, array in zip(names, arrays, strict=True):
        if array.shape[:1] != (rows,):
            raise ModelFailed(f"output {name!r} has shape {list(array.shape)} for {rows} rows")


def _check_fit(names: Sequence[str], first: Sequence[np.ndarray], arrays: Sequence[np.ndarray]) -> None:
    """Raises `ModelFailed` when a piece's outputs cannot be joined to the first piece's.

    A model may choose the size of an axis by what it finds in the rows, as the suppression of overlapping boxes does.
    """
    for name, before, array in zip(names, first, arrays, strict=True):
        if before.shape[1:] != array.shape[1:]:
            raise ModelFailed(
                f"output {name!r} has rows of shape {list(before.shape[1:])} and of {list(array.shape[1:])}: "
                f"send at most {len(before)} rows in a request"
            )


def _scatter(works: Sequence[Work], names: Sequence[str], arrays: list[np.ndarray]) -> list[Outcome]:
    """Each request's rows as views, in the order of its own outputs."""
    outcomes: list[Outcome] = []
    position = {name: at for at, name in enumerate(names)}
    start = 0
    for work in works:
        stop = start + work.rows
        if work.outputs == names:
            outcomes.append([array[start:stop] for array in arrays])
        else:
            outcomes.append([arrays[position[name]][start:stop] for name in work.outputs])
        start = stop
    return outcomes
