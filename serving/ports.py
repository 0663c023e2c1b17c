"""The interfaces that the serving core needs. The core owns them; adapters implement them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Protocol

import numpy as np

from serving.errors import ScoringError
from serving.exchange import Cancel
from serving.messages import InferReply, InferRequest
from serving.signature import Signature
from serving.statistics import ModelStatistics


class Backend(Protocol):
    """One loaded model. `run` may be called from a worker thread; calls never overlap unless `parallelism` > 1."""

    @property
    def signature(self) -> Signature: ...

    @property
    def parallelism(self) -> int:
        """How many calls of `run` may overlap, each from a thread of its own, and gain by it."""

    @property
    def trouble(self) -> str:
        """Why it cannot answer at present, for operators; empty while it can. Asked from the event loop."""

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], deadline_s: float = inf
    ) -> list[np.ndarray]:
        """Score one batch.

        `inputs` holds every input of the signature (BYTES as object arrays of `bytes`), axis 0 being rows when the
        signature is batchable. After `deadline_s` (of `time.monotonic()`'s clock) nobody waits for the answer: a
        backend that asks others waits no longer. Returns the arrays of `outputs`, in that order.

        Raises `ModelFailed` with the model's own words, or `BadRequest` when it cannot be given these inputs: both may
        be the fault of a single row. A backend that asks others also raises `DeadlinePassed`, `Overloaded` or
        `Unavailable`, which are no row's fault. Never anything else.
        """

    def close(self) -> None: ...


class ScoringModel(Protocol):
    """A model in service, as the protocol layer sees it. Implemented by serving/model.py."""

    @property
    def name(self) -> str:
        """The endpoint's name: clients know no other."""

    @property
    def version(self) -> str: ...

    @property
    def signature(self) -> Signature: ...

    @property
    def max_batch_size(self) -> int:
        """Rows; 0 when the model is not batchable (the protocol's way to say so)."""

    @property
    def is_ready(self) -> bool: ...

    @property
    def pending(self) -> int:
        """Requests accepted and not yet answered."""

    def infer(
        self, request: InferRequest, deadline_s: float, reply: Callable[[InferReply | ScoringError], None]
    ) -> Cancel:
        """Score; calls `reply` exactly once, on the event loop, now or later, unless cancelled through the returned
        function. `deadline_s` is on `time.monotonic()`'s clock; a request that cannot be answered by then fails with
        `Overloaded` at once, or when that shows later, with `DeadlinePassed`.
        """

    def statistics(self) -> ModelStatistics: ...
