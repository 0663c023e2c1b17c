"""`crossfade endpoint invoke` against a small scoring server that speaks the protocol's JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.cli.conftest import Served, Terminal

METADATA = {"name": "e", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}], "outputs": []}


async def metadata(_request: Request) -> Response:
    return JSONResponse(METADATA)


async def infer(request: Request) -> Response:
    """Answers with the inputs, in the name of the deployment that was asked for, or of blue."""
    body: dict[str, Any] = await request.json()
    deployment = request.headers.get("x-crossfade-deployment", "blue")
    if deployment == "red":
        return JSONResponse({"error": "no deployment 'red'"}, 404)
    reply = {"model_name": "e", "model_version": "1", "outputs": body["inputs"]}
    return JSONResponse(reply, headers={"x-crossfade-deployment": deployment, "x-request-id": "r-1"})


@pytest.fixture
def scoring(terminal: Terminal) -> Iterator[str]:
    routes = [Route("/v2/models/e", metadata), Route("/v2/models/e/infer", infer, methods=["POST"])]
    served = Served(Starlette(routes=routes))
    terminal.gateway.scoring_url = served.url
    yield served.url
    served.stop()


def test_a_request_file_is_sent_where_the_gateway_says(terminal: Terminal, scoring: str) -> None:
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
    ran = terminal.run("endpoint", "invoke", "e", "-r", terminal.spec(json.dumps(request), "r.json"), "-o", "json")
    assert ran.code == 0
    assert ran.json["deployment"] == "blue"
    assert ran.json["request_id"] == "r-1"
    assert ran.json["response"]["outputs"] == request["inputs"]
    assert ran.err.startswith("answered by blue in ")


def test_a_sample_fits_the_model_and_can_be_printed_and_sent_again(terminal: Terminal, scoring: str) -> None:
    printed = terminal.run("endpoint", "invoke", "e", "--sample", "--print-request")
    assert printed.json["inputs"][0]["shape"] == [1, 3]
    again = terminal.run("endpoint", "invoke", "e", "-r", "-", "-o", "json", stdin=printed.out)
    assert again.json["response"]["outputs"] == printed.json["inputs"]
    shown = terminal.run("endpoint", "invoke", "e", "--sample")
    assert "x:      FP32[1, 3] [" in shown.out


def test_a_deployment_is_asked_by_name(terminal: Terminal, scoring: str) -> None:
    ran = terminal.run("endpoint", "invoke", "e", "--sample", "--deployment", "green", "-o", "json")
    assert ran.json["deployment"] == "green"


def test_an_error_of_the_model_exits_1_with_its_words(terminal: Terminal, scoring: str) -> None:
    ran = terminal.run("endpoint", "invoke", "e", "--sample", "--deployment", "red")
    assert ran.code == 1
    assert ran.err == "error: HTTP 404: no deployment 'red'\n"


def test_without_a_control_plane_the_scoring_url_may_be_given(terminal: Terminal, scoring: str) -> None:
    terminal.url = "http://127.0.0.1:1"
    assert terminal.run("endpoint", "invoke", "e", "--sample", "--scoring-url", scoring).code == 0


def test_a_scoring_port_that_does_not_answer_exits_5(terminal: Terminal) -> None:
    ran = terminal.run("endpoint", "invoke", "e", "--sample", "--scoring-url", "http://127.0.0.1:1")
    assert ran.code == 5
    assert "the scoring port at http://127.0.0.1:1 cannot be reached" in ran.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "give either --request-file FILE or --sample"),
        (["--sample", "-r", "r.json"], "give either --request-file FILE or --sample"),
        (["-r", "/nowhere/r.json"], "No such file"),
        (["-r", "-"], "is not JSON"),
    ],
)
def test_a_request_that_cannot_be_sent_exits_2(
    terminal: Terminal, scoring: str, options: list[str], words: str
) -> None:
    ran = terminal.run("endpoint", "invoke", "e", *options, stdin="{")
    assert ran.code == 2
    assert words in ran.err


def test_an_endpoint_name_is_quoted_in_the_path(terminal: Terminal, scoring: str) -> None:
    ran = terminal.run("endpoint", "invoke", "../v2/models/e", "--sample")
    assert ran.code == 1
    assert "HTTP 404" in ran.err
