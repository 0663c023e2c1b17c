"""What a Triton tells of a model that it serves for a deployment."""

from __future__ import annotations

from dataclasses import dataclass

from router.domain.routing import TritonAddress


@dataclass(frozen=True, slots=True)
class TritonCounts:
    """Since that Triton started. A success or failure is a request; an execution is a batch. Seconds are in total."""

    successes: int = 0
    failures: int = 0
    executions: int = 0
    queue_s: float = 0.0
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TritonAnswer:
    """`version` is the server's own, such as 2.51.0."""

    version: str
    counts: TritonCounts


@dataclass(frozen=True, slots=True)
class TritonReport:
    """The last answer of one Triton of a deployment."""

    endpoint: str
    deployment: str
    address: TritonAddress
    answer: TritonAnswer
