"""Triton that is run for a deployment: each of its replicas starts one of its own beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from router.domain.errors import Invalid
from router.domain.triton import TRITON_MODEL_PATTERN

MAX_PREFERRED = 16

_MODEL = re.compile(TRITON_MODEL_PATTERN)


class ManagedMode(StrEnum):
    """`MANAGED`: a replica starts a Triton, watches it, and gives its address to Envoy."""

    MANAGED = "managed"


@dataclass(frozen=True, slots=True)
class ManagedTriton:
    """How such a Triton batches and starts; what else there is to say of it, a deployment's other settings say.

    `max_queue_delay_us`: how long a request may wait for company while an instance is free; 0: not at all.
    `preferred_batch_sizes`: sizes for which the model is much faster than for others, ascending; a batch of such a
    size does not wait. `is_warmed_up`: the model runs once before it is ready, where its shapes say with what.
    `model`: which one answers, of a repository of several; empty: its ensemble, or its only graph.
    """

    mode: ManagedMode = ManagedMode.MANAGED
    max_queue_delay_us: int = 0
    preferred_batch_sizes: tuple[int, ...] = ()
    is_warmed_up: bool = True
    start_timeout_s: int = 300
    model: str = ""

    def __post_init__(self) -> None:
        if self.model and not _MODEL.fullmatch(self.model):
            raise Invalid(
                "triton.model",
                f"{self.model[:60]!r} cannot be the name of a model",
                "use the name of its folder in the repository",
            )
        if not 0 <= self.max_queue_delay_us <= 60_000_000:
            raise Invalid("triton.max_queue_delay_us", "is out of range", "use 0 to 60000000 µs")
        if not 1 <= self.start_timeout_s <= 3600:
            raise Invalid("triton.start_timeout_s", "is out of range", "use 1 to 3600 s")
        sizes = self.preferred_batch_sizes
        if len(sizes) > MAX_PREFERRED or any(not 1 <= size <= 65536 for size in sizes):
            raise Invalid(
                "triton.preferred_batch_sizes", "are out of range", f"use at most {MAX_PREFERRED} numbers of rows"
            )
        if list(sizes) != sorted(set(sizes)):
            raise Invalid("triton.preferred_batch_sizes", "do not ascend", "name each size once, the smallest first")

    def check_batches(self, max_batch_size: int) -> None:
        """Raises `Invalid` where a size is preferred that no batch of so many rows at most can have."""
        sizes = self.preferred_batch_sizes
        if sizes and sizes[-1] > max_batch_size:
            raise Invalid(
                "triton.preferred_batch_sizes",
                f"{sizes[-1]} rows are more than batching.max_batch_size, which is {max_batch_size}",
                "raise that, or leave the size out",
            )


@dataclass(frozen=True, slots=True)
class ManagedModel:
    """A model as a Triton of ours knows it: by the endpoint's name, in the one version that it was given."""

    model: str
    version: int = 0

    @property
    def path(self) -> str:
        """Under which Triton's HTTP port answers for the model."""
        return f"/v2/models/{self.model}"
