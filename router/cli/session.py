"""What every command shares: the options to choose a control plane and an output, and how errors become exit codes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.output import print_json, say
from router.client_errors import Refused, Unreachable
from router.domain.errors import CrossfadeError, Invalid
from router.urls import UNIX, is_https, is_on_a_network

if TYPE_CHECKING:
    import ssl

    from router.client import AdminClient

DEFAULT_ADMIN_URL = "http://127.0.0.1:8003"
DEFAULT_DATA_DIR = ".crossfade"


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    ROLLED_BACK = 3  # or aborted
    TIMED_OUT = 4
    UNREACHABLE = 5
    INTERRUPTED = 130


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


class TimedOut(CrossfadeError):
    """What was waited for did not come in time; it may still come."""


@dataclass(frozen=True, slots=True)
class Session:
    """How this call wants to be answered, and which control plane it means."""

    output: Output
    admin_url: str | None = None
    token_file: str | None = None
    data_dir: str = DEFAULT_DATA_DIR
    ca: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None

    def client(self) -> AdminClient:
        """Raises `Unreachable` when there is no token to ask with, `Invalid` for options that cannot be used."""
        from router.admin_identity import caller, find_token
        from router.client import AdminClient

        url = self.admin_url or self._nearest()
        return AdminClient(url, find_token(self.token_file, self.data_dir), caller(), self._trust(url))

    def _nearest(self) -> str:
        """The gateway that this user runs with the data directory, else whoever has the usual port."""
        from router.config import admin_socket_in, run_dir_for

        socket = admin_socket_in(run_dir_for(Path(self.data_dir).resolve()))
        return f"{UNIX}{socket}" if socket.exists() else DEFAULT_ADMIN_URL

    def _trust(self, url: str) -> ssl.SSLContext | None:
        """What an https URL is asked with; None for plain text, which no other machine may hear."""
        from router.trust import trusted_context

        if is_https(url):
            return trusted_context("--ca", self.ca, self.data_dir, self.client_certificate, self.client_key)
        if is_on_a_network(url):
            raise Invalid(
                "--admin-url",
                f"{url} would carry the token in clear over a network",
                "use https://: `crossfade up --admin-bind ADDRESS` speaks TLS; or reach it over ssh, on loopback",
            )
        return None

    def show(self, value: Any, as_text: Callable[[], str]) -> None:
        """Print the result: `value` as JSON, or the text for people."""
        if self.output is Output.JSON:
            print_json(value)
        else:
            print(as_text())


_OUTPUT = Annotated[Output, typer.Option("--output", "-o", help="How to show the result.")]
_ADMIN_URL = Annotated[
    str | None,
    typer.Option(
        "--admin-url",
        envvar="CROSSFADE_ADMIN_URL",
        metavar="URL",
        help="The control plane; else the one that runs here with the data directory, else http://127.0.0.1:8003.",
    ),
]
_TOKEN_FILE = Annotated[
    str | None,
    typer.Option("--token-file", help="File with the admin token; else CROSSFADE_TOKEN, else the data dir's."),
]
_DATA_DIR = Annotated[
    str, typer.Option("--data-dir", envvar="CROSSFADE_DATA_DIR", help="The gateway's data directory.")
]
_CA = Annotated[
    str | None,
    typer.Option(
        "--ca",
        envvar="CROSSFADE_ADMIN_CA",
        metavar="FILE",
        help="CA of the certificate of an https --admin-url; else <data-dir>/tls/ca.pem, else the system's.",
    ),
]
_CLIENT_CERTIFICATE = Annotated[
    str | None,
    typer.Option(
        "--client-certificate",
        envvar="CROSSFADE_ADMIN_CERTIFICATE",
        metavar="FILE",
        help="Certificate to show there, where one is asked for.",
    ),
]
_CLIENT_KEY = Annotated[
    str | None,
    typer.Option(
        "--client-key", envvar="CROSSFADE_ADMIN_KEY", metavar="FILE", help="Its key; else the file beside it, .key."
    ),
]


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_SHARED = (
    _option("output", _OUTPUT, Output.TABLE),
    _option("admin_url", _ADMIN_URL, None),
    _option("token_file", _TOKEN_FILE, None),
    _option("data_dir", _DATA_DIR, DEFAULT_DATA_DIR),
    _option("ca", _CA, None),
    _option("client_certificate", _CLIENT_CERTIFICATE, None),
    _option("client_key", _CLIENT_KEY, None),
)

Command = Callable[..., int | None]


def command(app: typer.Typer, name: str, function: Command) -> None:
    """Register `function(session, …)`: its docstring is the help text, its return value the exit code (None: done).

    Adds the shared options to its signature, so every command takes them and no command repeats them.
    """
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]

    def run(**arguments: Any) -> None:
        session = Session(**{option.name: arguments.pop(option.name) for option in _SHARED})
        raise typer.Exit(_run(session, function, arguments))

    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    parameters = [*keyword_only, *_SHARED]
    run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]  # any callable may carry one (PEP 362)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name, help=inspect.getdoc(function))(run)


def _run(session: Session, function: Command, arguments: dict[str, Any]) -> int:
    """Call it; expected errors end here, in words and an exit code, without a traceback."""
    try:
        return function(session, **arguments) or ExitCode.DONE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except CrossfadeError as error:
        return report(session, error)


def report(session: Session, error: CrossfadeError) -> int:
    """Say the error on stderr (and, for programs, as JSON on stdout) and return its exit code."""
    from router.spec import OutOfReach, Problem, SpecProblems

    facts: dict[str, Any] = {"code": "failed", "message": str(error)}
    lines, code = [f"error: {error}"], ExitCode.FAILED
    match error:
        case SpecProblems():
            is_out_of_reach = isinstance(error, OutOfReach)
            lines = [f"error: {problem}" for problem in error.problems]
            code = ExitCode.FAILED if is_out_of_reach else ExitCode.USAGE
            word = "source_unavailable" if is_out_of_reach else "invalid"
            facts = {"code": word, "message": str(error), "problems": [_problem(item) for item in error.problems]}
        case Invalid():
            code = ExitCode.USAGE
            lines += [f"hint: {error.hint}"] if error.hint else []
            facts = {"code": "invalid", "message": str(error), "hint": error.hint}
        case Refused():
            is_wrong = error.status in (400, 422) and error.code != "model_unavailable"
            code = ExitCode.USAGE if is_wrong else ExitCode.FAILED
            facts = error.facts
            problems = [Problem(item["key"], item["message"], item["hint"]) for item in facts.get("problems", ())]
            if problems:
                lines = [f"error: {problem}" for problem in problems]
            elif error.hint:
                lines.append(f"hint: {error.hint}")
        case TimedOut():
            code, facts["code"] = ExitCode.TIMED_OUT, "timed_out"
        case Unreachable():
            code, facts["code"] = ExitCode.UNREACHABLE, "unreachable"
    for line in lines:
        say(line)
    if session.output is Output.JSON:
        print_json({"error": facts})
    return code


def _problem(problem: Any) -> dict[str, Any]:
    mark = problem.mark
    return {
        "key": problem.key,
        "message": problem.message,
        "hint": problem.hint,
        "document": problem.document,
        "file": mark.file if mark else None,
        "line": mark.line if mark else None,
        "column": mark.column if mark else None,
    }
