"""What every peer's server is told on its command line. Standard library only: each has an environment of its own."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Arguments:
    """`folder`: scratch space of this server. `grpc_port`: a second free port, for servers that speak gRPC as well."""

    model: Path
    port: int
    grpc_port: int
    folder: Path


def parse(doc: str | None) -> Arguments:
    """MODEL --port PORT --grpc-port PORT --folder FOLDER."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    return Arguments(given.model.resolve(), given.port, given.grpc_port, given.folder)
