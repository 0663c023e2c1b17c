"""The model's first run: what is asked of the process that does it, and what it finds. Values and a port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from serving.signature import Signature

GIB = 1024**3


class Check(StrEnum):
    """What is looked at before a model may get traffic, in this order."""

    SIZE = "size"
    FILES = "files"
    SIGNATURE = "signature"
    FORMATS = "formats"
    GRAPH = "graph"
    RUNTIME = "runtime"  # does the installed one take this IR version and these opsets; does the model load
    INTERFACE = "inputs and outputs"
    GOLDEN = "golden requests"
    WARM_UP = "warm-up"
    MEMORY = "memory"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """What one trial may use. `memory_bytes` is address space and counts the runtime's own libraries.

    `load_bytes_per_s`: a slow disk; models of many gigabytes get more time.
    """

    wall_s: float = 60.0
    cpu_s: int = 120
    memory_bytes: int = 4 * GIB
    memory_per_model_byte: float = 4.0  # the file mapped, parsed, copied, and packed for the processor
    load_bytes_per_s: float = 50e6
    open_files: int = 64

    def wall_for(self, model_bytes: int) -> float:
        return self.wall_s + model_bytes / self.load_bytes_per_s

    def cpu_for(self, model_bytes: int) -> int:
        """Whole seconds."""
        return int(self.cpu_s + model_bytes / self.load_bytes_per_s)

    def memory_for(self, model_bytes: int) -> int:
        return int(self.memory_bytes + self.memory_per_model_byte * model_bytes)


@dataclass(frozen=True, slots=True)
class TrialJob:
    """`graphs`: every .onnx file of the folder; they are looked through. None where that was done already, for another
    model of the folder. `model`: the one of them that is run.

    `sizes`: of all files in the folder, in bytes.
    """

    folder: str
    graphs: tuple[str, ...]
    model: str
    sha256: str
    sizes: Mapping[str, int]
    golden: tuple[str, ...] = ()
    limits: TrialLimits = field(default_factory=TrialLimits)

    @property
    def model_bytes(self) -> int:
        return sum(self.sizes.values())


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """One ONNX file. `external`: paths in the tree of the files that hold its weights."""

    path: str
    ir_version: int
    opsets: tuple[tuple[str, int], ...]
    nodes: int
    subgraphs: int
    functions: int
    external: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The runtime took it. `runtime`: its name and version."""

    signature: Signature
    runtime: str
    load_s: float


@dataclass(frozen=True, slots=True)
class Ran:
    """The model has answered. `golden`: so many requests, all as expected. `run_s`: of one made-up request."""

    golden: int
    run_s: float
    peak_bytes: int


Finding = GraphFacts | Loaded | Ran


class Trial(Protocol):
    """Runs a model where it can do no harm. Implemented by adapters/onnx/trial_process.py."""

    def begin(self, job: TrialJob) -> AbstractAsyncContextManager[AsyncIterator[Finding]]:
        """`GraphFacts` of every graph, `Loaded`, `Ran`: as they are found. Who leaves early ends it.

        The iterator raises `AdmissionRefused`.
        """
