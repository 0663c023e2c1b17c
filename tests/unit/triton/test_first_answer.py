"""The first request that a Triton must answer, without a Triton."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from adapters.triton.first_answer import FirstAnswer
from router.domain.errors import ModelUnavailable

URL = "http://triton/v2/models/fraud"
METADATA = {
    "inputs": [
        {"name": "ids", "datatype": "INT64", "shape": ["-1", "-1"]},
        {"name": "text", "datatype": "BYTES", "shape": [-1, 1]},
    ],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
}


class Triton:
    """Answers requests that `takes` takes; `asked` are the shapes and bytes of those that came."""

    def __init__(self, takes: Callable[[dict[str, Any]], str], metadata: Any = METADATA) -> None:
        self._takes = takes
        self._metadata = metadata
        self.asked: list[dict[str, Any]] = []
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=self._metadata)
        length = int(request.headers["inference-header-content-length"])
        header, raw = json.loads(request.content[:length]), request.content[length:]
        given: dict[str, Any] = {}
        for tensor in header["inputs"]:
            size = tensor["parameters"]["binary_data_size"]
            given[tensor["name"]], raw = (tensor["shape"], raw[:size]), raw[size:]
        assert not raw
        self.asked.append(given)
        refusal = self._takes(given)
        return httpx.Response(400, json={"error": refusal}) if refusal else httpx.Response(200, json={})


async def test_it_is_made_up_of_what_triton_says_that_the_model_takes_with_one_row() -> None:
    triton = Triton(lambda _: "")
    await FirstAnswer().ask(triton.client, URL)
    (asked,) = triton.asked
    shape, raw = asked["ids"]
    assert (shape, len(raw)) == ([1, 64], 64 * 8)
    shape, raw = asked["text"]
    assert (shape, raw[:4], len(raw)) == ([1, 1], b"\x01\0\0\0", 5)


async def test_others_are_tried_until_one_is_answered_and_that_one_is_asked_of_the_next_triton() -> None:
    def of_eight_small_ids(given: dict[str, Any]) -> str:
        shape, raw = given["ids"]
        ids = np.frombuffer(raw, np.int64)
        return "" if shape == [1, 8] and ids.max() < 2 else f"no ids like {ids[:2]}"

    first = FirstAnswer()
    triton, next_triton = Triton(of_eight_small_ids), Triton(of_eight_small_ids)
    await first.ask(triton.client, URL)
    await first.ask(next_triton.client, URL)
    assert len(triton.asked) > 1
    assert next_triton.asked == triton.asked[-1:]


async def test_a_model_that_answers_none_is_unavailable_with_its_first_words_and_what_to_do() -> None:
    triton = Triton(lambda given: f"in ensemble 'fraud', no {given['ids'][0]}")
    with pytest.raises(ModelUnavailable) as refused:
        await FirstAnswer().ask(triton.client, URL)
    assert "did not answer its first request: in ensemble 'fraud', no [1, 64]; " in str(refused.value)
    assert "warm_up: false" in str(refused.value)


async def test_inputs_that_cannot_be_made_up_are_told() -> None:
    def metadata(**changed: Any) -> Any:
        return {**METADATA, "inputs": [{"name": "x", "datatype": "FP32", "shape": [4], **changed}]}

    for given, words in (
        (metadata(datatype="COMPLEX"), "takes 'COMPLEX', which is no V2 datatype"),
        (metadata(shape=[1 << 40]), "its inputs are too big to be made up"),
    ):
        with pytest.raises(ModelUnavailable, match=words):
            await FirstAnswer().ask(Triton(lambda _: "", given).client, URL)
