"""A user's own metrics, taken from real servers and real programs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from adapters.commands import MAX_OUTPUT_BYTES, CommandSampler
from adapters.http_exchange import MAX_ANSWER_BYTES, HttpExchange
from adapters.prometheus import PrometheusSampler
from adapters.webhooks import WebhookSampler
from router.domain.evidence import Measurement
from router.domain.policy import AtMost, CustomMetric
from router.domain.rollout import Rollout, RolloutSpec, Split, Standing, start
from router.domain.sources import CommandOutput, PrometheusQuery, Source, WebhookAnswer
from router.domain.strategy import canary
from router.domain.traffic import Traffic
from router.measuring import Measurer
from tests.adapters.http_server import http_server, plain

ROLLOUT: Rollout = start(
    "r1",
    RolloutSpec("fraud", "green", canary()),
    Standing(Split(Traffic.of({"blue": 100})), {"blue": 1, "green": 1}),
    "ann",
    datetime(2026, 1, 1, tzinfo=UTC),
)


@pytest.fixture
async def measurer() -> AsyncIterator[Measurer]:
    http = HttpExchange()
    yield Measurer(
        {
            PrometheusQuery: PrometheusSampler(http),
            CommandOutput: CommandSampler(),
            WebhookAnswer: WebhookSampler(http),
        }
    )
    await http.close()


async def measured(measurer: Measurer, source: Source, timeout_s: float = 30.0) -> Measurement:
    return await measurer.measure(ROLLOUT, CustomMetric("drift", AtMost(1), source, timeout_s=timeout_s))


def vector(*values: str) -> dict[str, Any]:
    result = [{"metric": {"n": str(number)}, "value": [1.5, value]} for number, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


# --- Prometheus ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (vector("0.25"), 0.25),
        ({"status": "success", "data": {"resultType": "scalar", "result": [1.5, "1e3"]}}, 1000.0),
    ],
)
async def test_a_query_gives_a_number(measurer: Measurer, answer: Any, value: float) -> None:
    async with http_server((200, plain(answer))) as server:
        query = 'drift{endpoint="${endpoint}",a="${candidate}",b="${stable}"}'
        sample = await measured(measurer, PrometheusQuery(f"{server.url}/prom/", query))
        assert sample == Measurement("drift", value)
        asked = server.asked.get_nowait()
        assert (asked.method, asked.path) == ("GET", "/prom/api/v1/query")
        assert asked.query == {"query": ['drift{endpoint="fraud",a="green",b="blue"}']}


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (200, vector(), "the query gives no sample"),
        (200, vector("1", "2"), "the query gives 2 samples, and one is needed: sum() or max() them"),
        (200, vector("NaN"), "nan is not a number that can be compared"),
        (200, vector("+Inf"), "inf is not a number that can be compared"),
        (200, vector("many"), "'many' is not a number"),
        (200, {"status": "success", "data": {"resultType": "matrix", "result": []}}, "the query gives a matrix"),
        (
            200,
            {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "histogram": [1, {}]}]}},
            "the query gives a histogram",
        ),
        (200, {"status": "error", "errorType": "bad_data", "error": "parse error"}, "parse error"),
        (400, {"status": "error", "errorType": "bad_data", "error": "parse error"}, "HTTP 400: parse error"),
        (200, ["surprise"], "the answer is not one of Prometheus' HTTP API"),
        (503, "down", "HTTP 503"),
        (302, "", "HTTP 302"),
    ],
)
async def test_an_answer_that_is_no_number_is_an_error_that_says_why(
    measurer: Measurer, status: int, answer: Any, words: str
) -> None:
    async with http_server((status, plain(answer))) as server:
        sample = await measured(measurer, PrometheusQuery(server.url, "drift"))
        assert sample.value is None
        assert words in sample.error


# --- webhooks -----------------------------------------------------------------------------------------------------


async def test_a_webhook_is_sent_the_rollout_and_answers_with_the_value(measurer: Measurer) -> None:
    async with http_server((200, plain({"value": 3, "more": "is ignored"}))) as server:
        assert await measured(measurer, WebhookAnswer(f"{server.url}/ask?team=ml")) == Measurement("drift", 3.0)
        asked = server.asked.get_nowait()
        assert (asked.method, asked.path, asked.query) == ("POST", "/ask", {"team": ["ml"]})
        assert asked.body == {
            "metric": "drift",
            "rollout": "r1",
            "endpoint": "fraud",
            "stable": "blue",
            "candidate": "green",
            "weight": 0,
            "mirror": 0,
            "step": 1,
        }


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, b"3"), 'the answer is not {"value": NUMBER}'),
        ((200, b'{"value": "3"}'), 'the answer is not {"value": NUMBER}'),
        ((200, b'{"value": true}'), 'the answer is not {"value": NUMBER}'),
        ((200, b'{"value": NaN}'), "nan is not a number"),
        ((200, b"<html>"), "the answer is not JSON"),
        ((500, b""), "HTTP 500"),
        ((200, b" " * (MAX_ANSWER_BYTES + 1)), "the answer is larger than 256 KiB"),
    ],
)
async def test_a_webhook_without_a_value_is_an_error_that_does_not_show_its_path(
    measurer: Measurer, answer: tuple[int, bytes], words: str
) -> None:
    async with http_server(answer) as server:
        sample = await measured(measurer, WebhookAnswer(f"{server.url}/secret-path"))
        assert sample.value is None
        assert words in sample.error
        assert "secret-path" not in sample.error


async def test_nobody_listens_and_nobody_answers(measurer: Measurer) -> None:
    async with http_server(None) as server:
        hung = await measured(measurer, WebhookAnswer(server.url), timeout_s=0.1)
        assert hung == Measurement("drift", None, "no answer within 0.1 s")
    gone = await measured(measurer, WebhookAnswer(server.url))
    assert gone.value is None
    assert "127.0.0.1" in gone.error


# --- commands -----------------------------------------------------------------------------------------------------


def script(text: str) -> CommandOutput:
    return CommandOutput((sys.executable, "-c", text))


async def test_the_last_line_that_a_program_prints_is_the_value(measurer: Measurer) -> None:
    text = "import os; print('looking at', os.environ['CROSSFADE_CANDIDATE']); print(' 0.5 '); print()"
    assert await measured(measurer, script(text)) == Measurement("drift", 0.5)


async def test_a_program_knows_which_rollout_is_meant_and_gets_its_arguments_unchanged(
    measurer: Measurer, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    text = (
        "import os, sys; from pathlib import Path; names = 'ENDPOINT CANDIDATE STABLE ROLLOUT METRIC'.split();"
        "Path(sys.argv[1]).write_text(' '.join([os.environ['CROSSFADE_' + name] for name in names] + sys.argv[2:]));"
        "print(1)"
    )
    source = CommandOutput((sys.executable, "-c", text, str(told), "$HOME", "a; b"))
    assert await measured(measurer, source) == Measurement("drift", 1.0)
    assert told.read_text() == "fraud green blue r1 drift $HOME a; b"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import sys; print(1); print('no database', file=sys.stderr); sys.exit(3)", "ended with 3: no database"),
        ("import os; os.kill(os.getpid(), 9)", "ended with -9"),
        ("pass", "printed nothing"),
        ("print('many')", "'many' is not a number"),
        ("print('nan')", "nan is not a number that can be compared"),
        (f"print('1' * {MAX_OUTPUT_BYTES + 1})", "prints more than 64 KiB"),
    ],
)
async def test_a_program_without_a_number_is_an_error_that_says_why(measurer: Measurer, text: str, words: str) -> None:
    sample = await measured(measurer, script(text))
    assert sample.value is None
    assert words in sample.error


async def test_a_program_that_is_not_there_is_said(measurer: Measurer) -> None:
    sample = await measured(measurer, CommandOutput(("/nowhere/drift",)))
    assert sample == Measurement("drift", None, "/nowhere/drift: No such file or directory")


async def test_a_program_that_takes_too_long_is_ended_with_all_that_it_started(
    measurer: Measurer, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    os.mkfifo(pids)
    text = (
        "import os, subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}'); time.sleep(600)"
    )
    reading = asyncio.create_task(asyncio.to_thread(pids.read_text))
    measuring = asyncio.create_task(measured(measurer, script(text), timeout_s=60))
    started = [int(pid) for pid in (await reading).split()]
    measuring.cancel()  # as a time that is over does
    with pytest.raises(asyncio.CancelledError):
        await measuring
    for pid in started:
        await gone(pid)


async def gone(pid: int) -> None:
    """A process that was killed may be seen for a moment, until somebody collects it."""
    async with asyncio.timeout(30):
        while not has_ended(pid):  # noqa: ASYNC110 (another process's state can only be polled)
            await asyncio.sleep(0.01)


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except FileNotFoundError:
        return True


async def test_a_program_that_never_ends_is_an_error_in_time(measurer: Measurer) -> None:
    sample = await measured(measurer, script("import time; time.sleep(600)"), timeout_s=0.2)
    assert sample == Measurement("drift", None, "no answer within 0.2 s")


async def test_what_nobody_expected_is_an_error_too() -> None:
    class Broken:
        async def sample(self, rollout: Rollout, metric: CustomMetric, source: Any) -> float:
            raise ZeroDivisionError("division by zero")

    sample = await measured(Measurer({WebhookAnswer: Broken()}), WebhookAnswer("http://h"))
    assert sample == Measurement("drift", None, "ZeroDivisionError: division by zero")
