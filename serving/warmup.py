"""The first runs of a model, before any client sees it. They prove that it runs at all, and they decide four things:

1. *May rows be joined?* The signature only says that axis 0 is free everywhere. Whether rows are independent is tried:
   three different rows run alone, then together; the answers must agree. This finds a batch on another axis, a hidden
   fixed batch size, state, randomness, and normalisation over the batch.
2. *Does joining pay?* Batches of 1, 2, 4 … rows are timed. The table is where serving/latency.py starts from; it goes
   on measuring for as long as the model serves.
3. *May lengths differ?* Where the deployment names a padding mask, rows of different lengths run alone, then padded and
   together; again the answers must agree. If they do not, only equal lengths are joined, and the log says so.
4. *Loop or thread?* A model whose biggest batch takes less than 300 µs runs on the event loop; a hand-over to
   a thread and back costs about 50 µs and cannot pay. A longer one would block everybody: it gets a thread. So does
   a model with free axes besides the batch axis, whose requests may be of any size.

Inputs are made up from the signature. Synchronous; no event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from router.domain.errors import ModelUnavailable
from serving.errors import ScoringError
from serving.lanes import PaddedAxis
from serving.latency import JOINING_PAYS_BELOW, LatencyTable
from serving.padding import cut, cut_outputs, joined, padded_axis
from serving.ports import Backend
from serving.samples import Inputs, Sample, candidates
from serving.signature import Signature

log = logging.getLogger(__name__)

INLINE_BELOW_S = 300e-6
BUDGET_S = 2.0
_TIMED_RUNS = 5
_HOPELESS_FROM_ROWS = 8  # when so many rows are not yet cheaper, more are not tried: it would only delay the start
_MAX_SAMPLE_BYTES = 32 * 1024 * 1024

# How far a row's answer may move when other rows are beside it, relative to the largest magnitude in that answer. BLAS
# kernels differ by row count, so sums are formed in another order: a few last bits. (An MLP: 0; magika: 2e-7 to 1e-5.)
_TOLERANCE = {"FP64": 1e-9, "FP32": 1e-4, "FP16": 1e-2, "BF16": 5e-2}


@dataclass(frozen=True, slots=True)
class WarmUp:
    """`latency_s`: rows → seconds of one execution, of rows with `row_elements` elements in the inputs that have free
    axes. `join_rows`: join requests up to this many rows (1: never). `padded`: where lengths may differ.
    """

    is_batchable: bool
    join_rows: int
    is_inline: bool
    latency_s: Mapping[int, float]
    row_elements: int = 1
    padded: PaddedAxis | None = None


def warm_up(backend: Backend, max_batch_size: int, padding_mask: str = "") -> WarmUp:
    """Takes about `BUDGET_S`, longer when single runs do. Raises `ModelUnavailable` when the model does not run."""
    signature = backend.signature
    sample = first_that_runs(backend)
    is_batchable = max_batch_size > 1 and signature.is_batchable and are_rows_independent(backend, sample)
    padded = _working_padding(backend, sample, padding_mask) if padding_mask and is_batchable else None
    max_rows = max_batch_size if is_batchable else 1
    latency_s = _measure(backend, sample, max_rows)
    table = LatencyTable(latency_s, max_rows)
    is_inline = table.batch_s < INLINE_BELOW_S and not has_unbounded_axis(signature, is_batchable)
    return WarmUp(is_batchable, table.join_rows, is_inline, latency_s, _row_elements(sample), padded)


def ragged_inputs(signature: Signature) -> tuple[str, ...]:
    """The inputs that have a free axis besides the batch axis."""
    return tuple(spec.name for spec in signature.inputs if any(dim < 0 for dim in spec.shape[1:]))


def has_unbounded_axis(signature: Signature, is_batchable: bool) -> bool:
    """Whether clients choose how much one execution computes. (A batch axis is bounded by the batch size.)"""
    return any(dim < 0 for spec in signature.inputs for dim in spec.shape[1 if is_batchable else 0 :])


def first_that_runs(backend: Backend) -> Sample:
    """Inputs that the model accepts, after one run with them. Raises `ModelUnavailable` when it accepts none.

    Sizes of free axes and ranges of values are guesses; the first that works is used.
    """
    refusals: list[ScoringError] = []
    for sample in candidates(backend.signature):
        try:
            _run(backend, sample.rows(1))
        except ScoringError as error:
            refusals.append(error)
        else:
            return sample
    reason = refusals[0] if refusals else "its inputs are too big to be made up"
    raise ModelUnavailable(f"the model failed in its warm-up: {reason}")


def are_rows_independent(backend: Backend, sample: Sample) -> bool:
    """Whether rows may be joined; a warning in the log says why not."""
    signature = backend.signature
    joined_inputs = sample.rows(3)
    alone_inputs = [{name: array[row : row + 1] for name, array in joined_inputs.items()} for row in range(3)]
    try:
        alone = [_run(backend, inputs) for inputs in alone_inputs]
        again = _run(backend, alone_inputs[0])
        joined = _run(backend, joined_inputs)
    except ScoringError as error:
        log.warning("rows are not joined: the model runs single rows only", extra={"reason": str(error)})
        return False
    for at, spec in enumerate(signature.outputs):
        separate = [outputs[at] for outputs in alone]
        if any(array.ndim == 0 or array.shape[0] != 1 for array in separate) or joined[at].shape[:1] != (3,):
            log.warning("rows are not joined: output has no batch axis", extra={"output": spec.name})
            return False
        pairs = [(separate[0], again[at]), *((array, joined[at][row : row + 1]) for row, array in enumerate(separate))]
        if not all(_is_same(spec.datatype, one, other) for one, other in pairs):
            log.warning("rows are not joined: they change one another's answers", extra={"output": spec.name})
            return False
    return True


def _working_padding(backend: Backend, sample: Sample, mask: str) -> PaddedAxis | None:
    """Where requests may be padded; None when the model has no such place, or its answers show the padding."""
    signature = backend.signature
    try:
        padded = padded_axis(signature, mask)
        reason = _shown_by_padding(backend, sample, mask, padded)
    except (ValueError, ScoringError) as error:
        reason = str(error)
    if reason:
        log.warning("requests are not padded: only equal lengths are joined", extra={"mask": mask, "reason": reason})
        return None
    return padded


def _shown_by_padding(backend: Backend, sample: Sample, mask: str, padded: PaddedAxis) -> str:
    """Run three rows of different lengths alone, then padded and joined; what differs, in words. Empty: nothing.

    Once more with other values than zeros where the mask says that there is nothing: zeros alone can be lucky.
    """
    longest = sample.axis_size
    lengths = (longest, 3 * longest // 4, longest // 2 + 1)
    if len(set(lengths)) < len(lengths):
        return f"the model runs only with lengths of {longest}, too short to try it"
    full = sample.rows(3)
    full[mask] = np.ones_like(full[mask])
    rows = [{name: array[row : row + 1] for name, array in full.items()} for row in range(3)]
    short = [
        inputs | {name: cut(inputs[name], padded.axis, length) for name in padded.inputs}
        for inputs, length in zip(rows, lengths, strict=True)
    ]
    zeros = {
        name: joined([inputs[name] for inputs in short], padded.axis, longest) if name in padded.inputs else full[name]
        for name in full
    }
    alone = [_run(backend, inputs) for inputs in short]
    for inputs in (zeros, full | {mask: zeros[mask]}):
        together = _run(backend, inputs)
        for at, spec in enumerate(backend.signature.outputs):
            is_cut = spec.name in cut_outputs(backend.signature, padded.axis)
            for row, length in enumerate(lengths):
                got = together[at][row : row + 1]
                got = cut(got, padded.axis, length) if is_cut else got
                if not _is_same(spec.datatype, alone[row][at], got):
                    return f"padding changes the output {spec.name!r}"
    return ""


def _row_elements(sample: Sample) -> int:
    inputs = sample.rows(1)
    return sum(inputs[name].size for name in ragged_inputs(sample.signature)) or 1


def _is_same(datatype: str, alone: np.ndarray, joined: np.ndarray) -> bool:
    tolerance = _TOLERANCE.get(datatype)
    if tolerance is None:
        return np.array_equal(alone, joined)
    if alone.shape != joined.shape:
        return False
    expected = alone.astype(np.float64)
    scale = np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected))
    return np.allclose(joined.astype(np.float64), expected, rtol=0.0, atol=tolerance * scale, equal_nan=True)


def _measure(backend: Backend, sample: Sample, max_rows: int) -> dict[int, float]:
    """Rows → seconds, for 1, 2, 4 … rows as far as it is worth while; always for 1."""
    ends = perf_counter() + BUDGET_S
    latency_s: dict[int, float] = {}
    for rows in _sizes(max_rows):
        inputs = sample.rows(rows)
        try:
            latency_s[rows] = _time(backend, inputs, ends)
        except ScoringError as error:
            if rows == 1:
                raise ModelUnavailable(f"the model failed in its warm-up: {error}") from error
            log.warning("a batch of this size failed in warm-up", extra={"rows": rows, "reason": str(error)})
            break
        next_bytes = 2 * sum(array.nbytes for array in inputs.values())
        next_runs_s = 2 * 2 * latency_s[rows]
        if perf_counter() + next_runs_s > ends or next_bytes > _MAX_SAMPLE_BYTES:
            break
        if rows >= _HOPELESS_FROM_ROWS and latency_s[rows] > JOINING_PAYS_BELOW * rows * latency_s[1]:
            break
    return latency_s


def _time(backend: Backend, inputs: Inputs, ends: float) -> float:
    """The fastest run: neighbours slow runs down, and nothing makes one faster than it is. (On a busy machine the
    median of five was 15 times too high for one size.) The first is not counted: it allocates, and may choose kernels.
    """
    _run(backend, inputs)
    seconds: list[float] = []
    while not seconds or (len(seconds) < _TIMED_RUNS and perf_counter() < ends):
        started = perf_counter()
        _run(backend, inputs)
        seconds.append(perf_counter() - started)
    return min(seconds)


def _sizes(max_rows: int) -> Iterator[int]:
    rows = 1
    while rows < max_rows:
        yield rows
        rows *= 2
    yield max_rows


def _run(backend: Backend, inputs: Inputs) -> list[np.ndarray]:
    return backend.run(inputs, [spec.name for spec in backend.signature.outputs])
