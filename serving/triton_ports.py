"""What a replica needs of the Triton that it runs. Implemented in adapters/triton; fakes in the tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from router.domain.routing import TritonAddress
from serving.load import WorkDone
from serving.signature import Signature


@dataclass(frozen=True, slots=True)
class TriedModel:
    """What a model takes and gives, as it was tried: `is_batchable` of the signature is true when its rows may be
    joined, `sample` is one request (one row, when batchable) that it has answered."""

    signature: Signature
    sample: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended, with its last words. `is_port_taken`: somebody else had one of its ports."""

    words: str
    is_port_taken: bool = False


class RunningTriton(Protocol):
    """One process of Triton's, which loads its model by itself.

    Methods raise `ModelUnavailable` with Triton's words, and `TimeoutError` when Triton does not answer soon.
    """

    @property
    def address(self) -> TritonAddress: ...

    async def loaded(self) -> None:
        """Returns when the model is ready. Takes as long as it takes; for ever when the process ends before.

        Raises `ModelUnavailable` when it is there and cannot answer.
        """

    async def why_not_ready(self) -> str:
        """Empty when the model is ready; else why."""

    async def work_done(self) -> WorkDone: ...

    async def ended(self) -> Ending:
        """Waits for the end of the process."""

    async def drain(self) -> None:
        """Asks it to finish what is under way and end; returns when it has."""

    async def end(self) -> None:
        """Ends the process at once; returns when it is gone, and what it left behind as well. May be called again."""


class TritonHome(Protocol):
    """Where Tritons of one replica are started: what they are given to serve is prepared."""

    async def start(self) -> RunningTriton:
        """Returns as soon as the process runs. Raises `ModelUnavailable` when it cannot."""

    async def close(self) -> None:
        """Removes what was prepared."""
