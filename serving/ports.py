"""The interfaces that the serving core needs. The core owns them; adapters implement them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from serving.signature import Signature


class Backend(Protocol):
    """One loaded model. `run` may be called from a worker thread; calls never overlap unless `parallelism` > 1."""

    @property
    def signature(self) -> Signature: ...

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Score one batch.

        `inputs` holds every input of the signature (BYTES as object arrays of `bytes`), axis 0 being rows when the
        signature is batchable. Returns the arrays of `outputs`, in that order. Raises `ModelFailed` with the
        model's own words, never anything else.
        """

    def close(self) -> None: ...
