"""`crossfade doctor`: is this machine ready for a gateway?"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from router.cli.output import table
from router.cli.session import ExitCode, Session, command
from router.domain.errors import CrossfadeError


def register(app: typer.Typer) -> None:
    command(app, "doctor", doctor)


Network = Annotated[
    bool, typer.Option("--network", help="Show every socket of the gateway that runs with the data directory.")
]


def doctor(session: Session, network: Network = False) -> int:
    """Check that this machine can run a gateway.

    Looks at Python, the packages, ONNX Runtime, Ray, Envoy, Triton, the default ports, the data directory, limits and
    GPUs, and says what to do where something is wrong.
    Exit code 1 when something would stop `crossfade up`.

    With --network it looks at a gateway that runs instead: every socket that its processes have open, every address
    that they are connected to, and why. `!` marks what other machines can reach.

    \b
      crossfade doctor
      crossfade doctor --network
    """
    if network:
        return _show_network(session)
    from router.cli.checks import Verdict, examine

    findings = examine(Path(session.data_dir))
    rows = [(item.verdict, item.check, item.detail + (f" → {item.advice}" if item.advice else "")) for item in findings]
    session.show({"checks": [asdict(item) for item in findings]}, lambda: table(("verdict", "check", "detail"), rows))
    has_failed = any(item.verdict is Verdict.FAIL for item in findings)
    return ExitCode.FAILED if has_failed else ExitCode.DONE


def _listeners(session: Session, data_dir: Path) -> list[dict[str, Any]]:
    """Where the gateway offers scoring; nothing when it cannot be asked."""
    from router.config import GatewayConfig

    with contextlib.suppress(CrossfadeError, OSError, ValueError):
        here = replace(session, admin_url=GatewayConfig.read(str(data_dir / "gateway.json")).admin_url)
        with here.client() as client:
            listeners: list[dict[str, Any]] = client.status()["listeners"]
            return listeners
    return []


def _show_network(session: Session) -> int:
    from router.cli.network import open_sockets

    data_dir = Path(session.data_dir).absolute()
    found = open_sockets(data_dir, _listeners(session, data_dir))
    columns = ("", "process", "pid", "does", "address", "why")
    rows = [("!" if item.is_open else " ", item.process, item.pid, item.does, item.address, item.why) for item in found]
    session.show({"sockets": [asdict(item) for item in found]}, lambda: table(columns, rows))
    return ExitCode.DONE
