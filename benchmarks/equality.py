"""Is a batched answer the answer? Random requests of mixed sizes, many at once, each compared with itself alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import httpx
import numpy as np

from benchmarks.arena import Arena
from benchmarks.bare import BareLoop
from benchmarks.payloads import Inputs, WrongAnswer, binary_request, binary_scores

CLIENTS = 32
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """`largest_difference`: of any score, as a share of the largest score of its answer."""

    requests: int
    bitwise_equal: int
    largest_difference: float
    rows_per_run: float


def agreement(where: Arena, alone: BareLoop, requests: Sequence[Inputs]) -> Agreement:
    """Every request through the gateway, 32 at a time, and by itself through ONNX Runtime. Raises `WrongAnswer`."""
    before = _runs_and_rows(where.url)
    answers = asyncio.run(_ask_all(where.url, requests))
    after = _runs_and_rows(where.url)
    equal, largest = 0, 0.0
    for inputs, answer in zip(requests, answers, strict=True):
        expected = alone.scores(inputs).ravel()
        if answer.shape != expected.shape:
            raise WrongAnswer(f"{answer.size} scores instead of {expected.size}")
        equal += answer.tobytes() == expected.tobytes()
        largest = max(largest, float(np.max(np.abs(answer - expected)) / np.max(np.abs(expected))))
    runs, rows = after[0] - before[0], after[1] - before[1]
    return Agreement(len(requests), equal, largest, rows / runs)


def mixed_rows(columns: int, count: int, seed: int, most_rows: int = 8) -> list[Inputs]:
    """Random FP32 requests of 1 to `most_rows` rows."""
    dice = np.random.default_rng(seed)
    sizes = dice.integers(1, most_rows, count, endpoint=True)
    return [{"x": dice.standard_normal((size, columns)).astype(np.float32)} for size in sizes]


async def _ask_all(url: str, requests: Sequence[Inputs]) -> list[np.ndarray]:
    answers: list[np.ndarray] = [np.empty(0)] * len(requests)
    left = iter(range(len(requests)))

    async def client(session: aiohttp.ClientSession) -> None:
        for at in left:
            body, headers = binary_request(requests[at])
            async with session.post(url, data=body, headers=headers) as reply:
                content = await reply.read()
                if reply.status != 200:
                    raise WrongAnswer(f"{reply.status} {content[:200]!r}")
                answers[at] = binary_scores(content, reply.headers)

    connector, timeout = aiohttp.TCPConnector(limit=CLIENTS), aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        try:
            async with asyncio.TaskGroup() as clients:
                for _ in range(CLIENTS):
                    clients.create_task(client(session))
        except ExceptionGroup as failures:
            raise WrongAnswer(f"{url}: {failures.exceptions[0]}") from failures
    return answers


def _runs_and_rows(url: str) -> tuple[int, int]:
    """How often the model ran so far, and with how many rows in all."""
    (statistics,) = httpx.get(url.removesuffix("/infer") + "/stats").raise_for_status().json()["model_stats"]
    return int(statistics["execution_count"]), int(statistics["inference_count"])
