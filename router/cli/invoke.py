"""`crossfade endpoint invoke`: one scoring request, as a client would send it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from router.cli.output import listing, say
from router.cli.session import Session, command
from router.client_errors import Refused, Unreachable
from router.domain.errors import CrossfadeError, Invalid
from router.trust import tls_fault, trusted_context
from router.urls import is_https, is_loopback

if TYPE_CHECKING:
    import httpx

DEFAULT_SCORING_URL = "http://127.0.0.1:8000"

Name = Annotated[str, typer.Argument(metavar="NAME", help="The endpoint.", show_default=False)]
RequestFile = Annotated[
    str | None, typer.Option("--request-file", "-r", metavar="FILE", help="A V2 request as JSON, or - for stdin.")
]
Sample = Annotated[bool, typer.Option("--sample", help="Send a made-up request that fits the model's inputs.")]
PrintRequest = Annotated[bool, typer.Option("--print-request", help="Print the request instead of sending it.")]
DeploymentName = Annotated[
    str | None, typer.Option("--deployment", "-d", metavar="NAME", help="Ask this deployment, whatever its traffic.")
]
ScoringUrl = Annotated[
    str | None,
    typer.Option(
        "--scoring-url",
        envvar="CROSSFADE_URL",
        help=f"Where to score; else what the gateway says, else {DEFAULT_SCORING_URL}.",
    ),
]
CaFile = Annotated[
    str | None,
    typer.Option(
        "--ca-file",
        envvar="CROSSFADE_CA_FILE",
        metavar="FILE",
        help="CA that signed the gateway's certificate; else <data-dir>/tls/ca.pem, else the system's.",
    ),
]
CertFile = Annotated[
    str | None,
    typer.Option(
        "--certificate", metavar="FILE", help="Client certificate for auth_mode mtls; its key beside it, .key."
    ),
]
KeyFile = Annotated[
    str | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help="A key of the endpoint, or a token (auth_mode jwt), or - for stdin; else CROSSFADE_KEY.",
    ),
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="How long to wait for the answer.")
]


class NotAnswered(CrossfadeError):
    """The scoring port answered with an error."""


def register(app: typer.Typer) -> None:
    command(app, "invoke", invoke)


def invoke(
    session: Session,
    name: Name,
    request_file: RequestFile = None,
    sample: Sample = False,
    print_request: PrintRequest = False,
    deployment: DeploymentName = None,
    scoring_url: ScoringUrl = None,
    ca_file: CaFile = None,
    key_file: KeyFile = None,
    certificate: CertFile = None,
    timeout: Timeout = 60.0,
) -> None:
    """Send one scoring request and show the answer and who gave it.

    \b
      crossfade endpoint invoke filetype --sample
      crossfade endpoint invoke filetype --sample --print-request > r.json
      crossfade endpoint invoke filetype --request-file r.json --deployment green
      crossfade endpoint invoke filetype --sample --key-file filetype.key
    """
    if sample == (request_file is not None):
        raise Invalid("", "what shall be sent?", "give either --request-file FILE or --sample")
    import httpx

    url = (scoring_url or _scoring_url(session)).rstrip("/")
    headers = {"x-crossfade-deployment": deployment} if deployment else {}
    if key := _key(key_file):
        headers["authorization"] = f"Bearer {key}"
    try:
        with httpx.Client(
            base_url=url,
            headers=headers,
            timeout=timeout,
            trust_env=not is_loopback(url),
            verify=trusted_context("--ca-file", ca_file, session.data_dir, certificate) if is_https(url) else True,
        ) as http:
            body = _sampled(http, name) if request_file is None else _read(request_file)
            if print_request:
                print(body)
                return
            _show(session, *_timed(http, name, body))
    except httpx.TimeoutException:
        raise NotAnswered(f"{url} gave no answer within {timeout:g} s") from None
    except (httpx.TransportError, httpx.InvalidURL) as error:
        if fault := tls_fault(error):
            raise Unreachable(
                f"the scoring port at {url}: {fault} (--ca-file names a CA, --scoring-url another name)"
            ) from None
        raise Unreachable(
            f"the scoring port at {url} cannot be reached ({error}). Is `crossfade up` running?"
        ) from None


def _key(file: str | None) -> str:
    """Not an option of its own: everybody on this machine can read the options of a process."""
    if file is None:
        return os.environ.get("CROSSFADE_KEY", "")
    try:
        key = (sys.stdin.read() if file == "-" else Path(file).read_text()).strip()
    except OSError as error:
        raise Invalid("--key-file", f"{file}: {error.strerror}") from None
    if not key or not key.isascii() or not key.isprintable():
        raise Invalid("--key-file", f"{file} holds no key", "`crossfade keys create` prints one")
    return key


def _scoring_url(session: Session) -> str:
    """What the control plane says; without one, the default port."""
    try:
        with session.client() as client:
            return str(client.status()["addresses"]["scoring_url"])
    except (Refused, Unreachable):
        return DEFAULT_SCORING_URL


def _sampled(http: httpx.Client, name: str) -> str:
    from router.sample_request import sample_request

    reply = http.get(_model(name))
    return json.dumps(sample_request(_decoded(reply), Random()))


def _read(file: str) -> str:
    """The request as text, checked to be JSON: what the user wrote is what is sent."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        json.loads(text)
    except OSError as error:
        raise Invalid("--request-file", f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise Invalid("--request-file", f"{file} is not JSON: {error}", "--sample --print-request prints one") from None
    return text


def _timed(http: httpx.Client, name: str, body: str) -> tuple[httpx.Response, float]:
    started_s = time.perf_counter()
    reply = http.post(f"{_model(name)}/infer", content=body, headers={"content-type": "application/json"})
    return reply, (time.perf_counter() - started_s) * 1000


def _model(name: str) -> str:
    return f"/v2/models/{quote(name, safe='')}"


def _show(session: Session, reply: httpx.Response, latency_ms: float) -> None:
    answer = _decoded(reply)
    who = reply.headers.get("x-crossfade-deployment", "")
    facts = {
        "deployment": who,
        "request_id": reply.headers.get("x-request-id", ""),
        "latency_ms": round(latency_ms, 2),
        "response": answer,
    }
    say(f"answered by {who or 'an unnamed deployment'} in {latency_ms:.1f} ms")
    session.show(facts, lambda: _text(answer))


def _text(answer: dict[str, Any]) -> str:
    model = f"{answer.get('model_name', '')} version {answer.get('model_version', '')}"
    return listing([("model", model), *((output["name"], _tensor(output)) for output in answer.get("outputs", ()))])


def _tensor(output: dict[str, Any]) -> str:
    data = output.get("data")
    values = "(binary)" if data is None else json.dumps(data[:8])[:-1] + (", …]" if len(data) > 8 else "]")
    return f"{output['datatype']}{output['shape']} {values}"


def _decoded(reply: httpx.Response) -> dict[str, Any]:
    """The JSON of an answer, without the binary part when it has one. Raises `NotAnswered` for an error."""
    length = reply.headers.get("inference-header-content-length", "")
    content = reply.content[: int(length)] if length.isdecimal() else reply.content
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise NotAnswered(f"{reply.url} answered HTTP {reply.status_code}, but not in the inference protocol")
    if not reply.is_success:
        who = reply.headers.get("x-crossfade-deployment", "")
        raise NotAnswered(f"HTTP {reply.status_code}{f' from {who}' if who else ''}: {answer.get('error', content)}")
    return answer
