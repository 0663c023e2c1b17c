"""`crossfade doctor`: is this machine ready for a gateway?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from router.cli.output import table
from router.cli.session import ExitCode, Session, command


def register(app: typer.Typer) -> None:
    command(app, "doctor", doctor)


def doctor(session: Session) -> int:
    """Check that this machine can run a gateway.

    Looks at Python, the packages, ONNX Runtime, Ray, Envoy, the default ports, the data directory, limits and GPUs,
    and says what to do where something is wrong.
    Exit code 1 when something would stop `crossfade up`.

    \b
      crossfade doctor
      crossfade doctor -o json
    """
    from router.cli.checks import Verdict, examine

    findings = examine(Path(session.data_dir))
    rows = [(item.verdict, item.check, item.detail + (f" → {item.advice}" if item.advice else "")) for item in findings]
    session.show({"checks": [asdict(item) for item in findings]}, lambda: table(("verdict", "check", "detail"), rows))
    has_failed = any(item.verdict is Verdict.FAIL for item in findings)
    return ExitCode.FAILED if has_failed else ExitCode.DONE
