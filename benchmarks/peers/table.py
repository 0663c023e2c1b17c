"""The servers that Crossfade is compared with: what each is made of, and how it is asked.

One core runs the model in all of them: one copy of it, one thread of ONNX Runtime. The rest is set up as each one's own
documentation recommends; the docstrings of the modules beside this file say which.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from benchmarks.environments import BENTOML, KSERVE, LITSERVE, MLSERVER, MOSEC, TRITON, Environment

_V2_PATH = "/v2/models/mlp/infer"


class Dialect(Enum):
    """V2: the Open Inference Protocol's JSON. ROWS: `{"rows": [[…]]}`, answered `[[…]]`."""

    V2 = "V2 JSON"
    ROWS = "JSON"


class Kind(Enum):
    """What a bar may call a peer. Ray Serve is one of the Python servers, and set up by a starter of its own."""

    PYTHON = "Python"
    RUST = "Rust"
    TRITON = "Triton"


@dataclass(frozen=True, slots=True)
class Peer:
    """`module` is started with its environment's Python. All of its processes are on a request's path."""

    name: str
    module: str
    environment: Environment
    dialect: Dialect
    path: str
    kind: Kind = Kind.PYTHON

    @property
    def title(self) -> str:
        return f"{self.name} {self.environment.version}" if self.kind is not Kind.TRITON else self.name


TRITON_PEER = Peer("Triton 2.51", "benchmarks.peers.triton", TRITON, Dialect.V2, _V2_PATH, Kind.TRITON)
PEERS = (
    Peer("KServe", "benchmarks.peers.kserve", KSERVE, Dialect.V2, _V2_PATH),
    Peer("MLServer", "benchmarks.peers.mlserver", MLSERVER, Dialect.V2, _V2_PATH),
    Peer("LitServe", "benchmarks.peers.litserve", LITSERVE, Dialect.ROWS, "/predict"),
    Peer("BentoML", "benchmarks.peers.bentoml", BENTOML, Dialect.ROWS, "/score"),
    Peer("mosec", "benchmarks.peers.mosec", MOSEC, Dialect.ROWS, "/inference", Kind.RUST),
    TRITON_PEER,
)
