"""The one request in every protocol, and the check of its answer."""

import httpx
import numpy as np
import orjson
import pytest

from benchmarks.payloads import JSON_LENGTH_HEADER, Payload, WrongAnswer, binary_request, binary_scores

ROW = np.arange(4, dtype=np.float32).reshape(1, 4)
PAYLOAD = Payload(b"{}", b"message", np.array([1.0, 2.0], np.float32), {"x": ROW})


def test_a_binary_request_is_its_description_and_then_its_bytes():
    body, headers = binary_request({"x": ROW})
    length = int(headers[JSON_LENGTH_HEADER])
    (tensor,) = orjson.loads(body[:length])["inputs"]
    assert tensor == {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    assert body[length:] == ROW.tobytes()


def test_requests_that_differ_in_size_share_their_headers_because_wrk_sends_one_set_for_all():
    headers = [binary_request({"ids": np.zeros((1, length), np.int64)})[1] for length in (8, 16, 128)]
    assert headers[0] == headers[1] == headers[2]


def test_the_right_answer_passes_in_each_dialect_and_a_wrong_one_does_not():
    def v2(scores: list[float]) -> httpx.Response:
        return httpx.Response(200, content=orjson.dumps({"outputs": [{"data": scores}]}))

    def rows(scores: list[float]) -> httpx.Response:
        return httpx.Response(200, content=orjson.dumps([scores]))

    def binary(scores: list[float]) -> httpx.Response:
        return httpx.Response(200, headers={JSON_LENGTH_HEADER: "2"}, content=b"{}" + np.float32(scores).tobytes())

    for exchange, reply in ((PAYLOAD.json, v2), (PAYLOAD.rows, rows), (PAYLOAD.binary, binary)):
        exchange.check(reply([1.0, 2.0]))
        with pytest.raises(WrongAnswer):
            exchange.check(reply([1.0, 2.1]))


def test_rows_are_a_matrix_in_plain_json():
    assert orjson.loads(PAYLOAD.rows.body) == {"rows": [[0.0, 1.0, 2.0, 3.0]]}


def test_binary_scores_begin_after_the_json_part():
    assert binary_scores(b"{}  " + np.float32([3]).tobytes(), {JSON_LENGTH_HEADER: "4"}).tolist() == [3.0]
